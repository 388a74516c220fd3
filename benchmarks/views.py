"""Oblique views of restored targets: rendered from the Gaussians, and resampled from the result.

    python benchmarks/views.py --scans DIR --out OUT [--targets FLAIR T2w] [--factors 5] [--device cuda]

DIR/stroke/{T1,T2,FLAIR}.nii.gz is one isotropic grid. Slices are simulated along its third axis, position and
profile known, and the result is seen on a grid that is turned against its own by 30°. Two ways round:

straight  The T1w lies on the grid of the scans. The view is turned by 30° about three axes; the truth there
          is interpolated itself, by the same splines as the result, which is to the splines' advantage.
turned    The T1w is carried to a grid that is turned by 30° (fifth-order splines), and with it the Gaussians
          and the result. The view is the grid of the scans, on which the truth is as it was acquired.

Scores are taken where the T1w is above 0. ``alike`` is the PSNR between the rendered view and the cubic one.
OUT keeps each target as an npz with its result and slices beside it: a second run, and benchmarks/picture.py,
take them from there.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_volume, to_nifti
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.scaffold import SessionScaffold, scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.target_files import read_target, save_target
from atlasgs_bids.restoration.views import TargetModel, View
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.simulation.degrade import Degradation
from atlasgs_bids.study.simulation.stack import simulated_stack

SCAN_OF_SUFFIX = {"FLAIR": "FLAIR", "T2w": "T2"}
WAYS = ("straight", "turned")
ANGLE_DEG = 30.0
TURNS = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "x + y + z/2": (1.0, 1.0, 0.5)}
"""Axes in the voxels of the scans."""
COARSE_MM = 2.0


@dataclass(frozen=True)
class Case:
    """A restored target, its slices, and what its views are compared with."""

    model: TargetModel
    result: Volume
    slices: Volume
    truth: Volume
    brain: npt.NDArray[np.bool_]
    """On the truth's grid."""


def main() -> int:
    options = parse_options()
    stroke = options.scans / "stroke"
    if not (stroke / "T1.nii.gz").exists():
        print(f"skipped: {stroke} has no T1.nii.gz; give the scans' folder with --scans")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for way in options.ways:
        for target in options.targets:
            for factor in options.factors:
                case = case_of(stroke, options, way, target, factor)
                rows += [[way, target, f"×{factor}", *row] for row in scored(case, way)]
    heads = [
        "T1w",
        "target",
        "",
        "view",
        "slices",
        "2 mm result",
        "linear",
        "cubic",
        "rendered",
        "gain",
        "alike",
    ]
    lines = [heads, ["---"] * len(heads), *rows]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Oblique views, rendered and resampled.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/views"))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--targets", nargs="+", choices=list(SCAN_OF_SUFFIX), default=["FLAIR"])
    parser.add_argument("--factors", type=int, nargs="+", default=[5])
    parser.add_argument("--prior", default="graph", choices=["graph", "learned"])
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def case_of(stroke: Path, options: argparse.Namespace, way: str, target: str, factor: int) -> Case:
    """From the files of an earlier run, else restored."""
    truth = load_volume(stroke / f"{SCAN_OF_SUFFIX[target]}.nii.gz")
    t1w = load_volume(stroke / "T1.nii.gz")
    stem = options.out / f"{way}_{target}_x{factor}"
    npz, result, slices = (
        stem.with_name(stem.name + end) for end in (".npz", "_sr.nii.gz", "_slices.nii.gz")
    )
    if not (npz.exists() and result.exists()):
        settings = RestorationSettings(device=options.device, prior=options.prior).with_network_of_device()
        stack = simulated_stack(truth, Degradation("paper", 2, factor))
        restored = stack.restored(scaffold_on(way, t1w, settings), settings)
        save(stack.acquired, slices)
        save(Volume(restored.sr, restored.grid.world_from_voxel), result)
        # Without a session's file beside it: all Gaussians are its own.
        save_target(npz, restored.model, 0)
    return Case(read_target(npz, None), load_volume(result), load_volume(slices), truth, t1w.data > 0)


def scaffold_on(way: str, t1w: Volume, settings: RestorationSettings) -> SessionScaffold:
    anchor = t1w if way == "straight" else carried(t1w, turned(t1w.grid, TURNS["x + y + z/2"], larger=True))
    brain = replace(anchor, data=(anchor.data > 0).astype(np.float32))
    return scaffold_of(anchor_of(anchor, brain), settings, Progress.quiet())


def turned(grid: Grid, axis: tuple[float, float, float], *, larger: bool = False) -> Grid:
    """The grid turned about its centre by an axis in its voxels; ``larger``: a cube that holds it all."""
    world_from_voxel = grid.world_from_voxel.copy()
    direction = np.array(axis) / np.linalg.norm(axis)
    turn = Rotation.from_rotvec(np.radians(ANGLE_DEG) * direction).as_matrix()
    centre = world_from_voxel[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + world_from_voxel[:3, 3]
    side = int(np.ceil(np.linalg.norm(grid.shape)))
    shape = (side, side, side) if larger else grid.shape
    world_from_voxel[:3, :3] = world_from_voxel[:3, :3] @ turn
    world_from_voxel[:3, 3] = centre - world_from_voxel[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, world_from_voxel)


def carried(t1w: Volume, grid: Grid) -> Volume:
    """The T1w on another grid, cut to the brain and three voxels around it."""
    brain = resample(replace(t1w, data=(t1w.data > 0).astype(np.float32)), grid, order=1) > 0.5
    data = np.where(brain, np.maximum(resample(t1w, grid, order=5), np.float32(1e-3)), np.float32(0))
    voxels = np.argwhere(brain)
    low, high = voxels.min(0) - 3, voxels.max(0) + 4
    world_from_voxel = grid.world_from_voxel.copy()
    world_from_voxel[:3, 3] += world_from_voxel[:3, :3] @ low
    return Volume(data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], world_from_voxel)


def views_of(
    case: Case, way: str
) -> Iterator[tuple[str, Grid, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Name, grid, truth there, and where it is scored."""
    grid = case.truth.grid
    if way == "turned":
        yield "own grid", grid, case.truth.data, case.brain
        return
    for name, axis in TURNS.items():
        view = turned(grid, axis)
        brain = resample(Volume(case.brain.astype(np.float32), grid.world_from_voxel), view, order=1) > 0.99
        yield f"30° about {name}", view, resample(case.truth, view), brain


def scored(case: Case, way: str) -> list[list[str]]:
    """PSNR of each view, dB."""
    coarse_view = case.model.whole(COARSE_MM)
    coarse = Volume(case.model.render(coarse_view), coarse_view.grid.world_from_voxel)
    rows = []
    for name, grid, truth, brain in views_of(case, way):
        rendered = case.model.render(View(grid))
        cubic = resample(case.result, grid)
        others = (
            resample(case.slices, grid),
            resample(coarse, grid),
            resample(case.result, grid, order=1),
            cubic,
        )
        scores = [psnr_db(truth, image, brain) for image in (*others, rendered)]
        alike = psnr_db(rendered, cubic, brain)
        rows.append([name, *[f"{s:.2f}" for s in scores], f"{scores[-1] - scores[-2]:+.2f}", f"{alike:.1f}"])
    return rows


def save(volume: Volume, path: Path) -> None:
    nib.save(to_nifti(volume.data, volume.world_from_voxel), path)


if __name__ == "__main__":
    sys.exit(main())

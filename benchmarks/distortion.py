"""Displacement by evidence: on simulated slices of a real head with a known one, and on acquired pairs.

    python benchmarks/distortion.py simulated --scans DIR [--noise 0 1 3] [--seeds 1 2] [--target FLAIR]
    python benchmarks/distortion.py given --scans DIR [--seeds 1 2] [--json JSON]
    python benchmarks/distortion.py pair --t1w T1W --targets AP PA [--phase-axis 1] [--figures DIR]

``simulated``: DIR/stroke holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz. The T2 (as a b0) is displaced by a
smooth field of up to 6 mm along y, its signal kept, and cut into slices of 4 mm with pixels of 2 mm. What is
told: how far off points of the head are, mm, by rigid position and by ``auto``; what held-out slices say; and
PSNR on a lattice of 2 mm where the head is displaced by more than 2 mm. Seed 0: a head that is not displaced.
``given``: the same slices, 1 % of noise, turned and shifted away, placed by ITK composites of affine and
field, there and backwards, and by the affine alone.
``pair``: two series of opposite phase encoding, each corrected by itself: correlation of the two fields, and
RMS difference of the two restored references deep in the head, before and after. Scans that are not there are
skipped with a message.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK
import torch
from scipy import ndimage

from atlasgs_bids.core.appearance import solve_appearance
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.imaging.displacement import (
    Displacement,
    anchor_from_target_field,
    centres_mm,
    coarse_grid,
    target_from_anchor_field,
    unwarped,
)
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.itk import itk_affine
from atlasgs_bids.imaging.nifti import load_series, load_volume
from atlasgs_bids.imaging.registration.itk_files import TransformStep
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm
from atlasgs_bids.report.figures.distortion import DistortionImages, distortion_figure
from atlasgs_bids.restoration.anchor import Anchor, anchor_of
from atlasgs_bids.restoration.calibration import calibrated
from atlasgs_bids.restoration.distortion import with_displacement
from atlasgs_bids.restoration.guides import Guides
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, StackInput, place
from atlasgs_bids.runtime.progress import Progress

QUIET = Progress.quiet()
SETTINGS = RestorationSettings(device="cpu", registration="auto", slice_profile="box")
PHASE_AXIS, FACTORS = 1, (2, 2, 4)
PEAK_MM, FAR_MM = 6.0, 2.0
SCALP_MM = 12.0
LATTICE_MM, REGULARIZATION = 2.0, 0.03
FIELD_MM = 2.0
AWAY = np.array([[0.998, -0.0632, 0, 6], [0.0632, 0.998, 0, -4], [0, 0, 1, 3], [0, 0, 0, 1]])
AWAY[:2, :2] /= np.sqrt(np.linalg.det(AWAY[:2, :2]))
"""Where the slices of ``given`` lie: 3.6° and 8 mm from the head."""


def main() -> None:
    options = parse_options()
    options.measure(options)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("simulated")
    one.add_argument("--scans", type=Path, required=True)
    one.add_argument("--noise", type=float, nargs="+", default=[0.0, 1.0, 3.0])
    one.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 0])
    one.add_argument("--target", choices=["T2", "FLAIR"], default="T2")
    one.add_argument("--json", type=Path)
    one.set_defaults(measure=simulated)
    files = commands.add_parser("given")
    files.add_argument("--scans", type=Path, required=True)
    files.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    files.add_argument("--target", choices=["T2", "FLAIR"], default="T2")
    files.add_argument("--json", type=Path)
    files.set_defaults(measure=given)
    two = commands.add_parser("pair")
    two.add_argument("--t1w", type=Path, required=True)
    two.add_argument("--targets", type=Path, nargs="+", required=True)
    two.add_argument("--phase-axis", type=int, default=1)
    two.add_argument("--registration", default="auto")
    two.add_argument("--thickness", type=float)
    two.add_argument("--device", default="cpu")
    two.add_argument("--figures", type=Path)
    two.set_defaults(measure=pair)
    return parser.parse_args()


@dataclass(frozen=True)
class Displaced:
    """The target of the stroke scan behind one field."""

    seed: int
    field: np.ndarray
    """Voxels of 1 mm along the phase-encoding axis."""
    data: np.ndarray


def displaced_targets(
    options: argparse.Namespace,
) -> tuple[Anchor, Volume, Iterator[Displaced]] | None:
    """The anchor, the target as it is, and displaced by the field of each seed; None, said: no scan."""
    folder = options.scans / "stroke"
    if not folder.exists():
        print(f"{folder} is not there: skipped")
        return None
    anchor = anchor_of(load_volume(folder / "T1.nii.gz"))
    truth = load_volume(folder / f"{options.target}.nii.gz")
    fields = ((seed, known_field(truth.data.shape, anchor.foreground, seed)) for seed in options.seeds)
    data = truth.data.astype(np.float64)
    return anchor, truth, (Displaced(seed, field, acquired_through(data, field)) for seed, field in fields)


def simulated(options: argparse.Namespace) -> None:
    made = displaced_targets(options)
    if made is None:
        return
    anchor, truth, heads = made
    guides, rows = Guides(anchor), []
    for head in heads:
        for noise in options.noise:
            volume = in_slices(head.data, truth.world_from_voxel, noise)
            found = one_case(volume, anchor, guides, truth, head.field)
            rows.append({"target": options.target, "seed": head.seed, "noise": noise, **found})
            print(line(rows[-1]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")


def given(options: argparse.Namespace) -> None:
    made = displaced_targets(options)
    if made is None:
        return
    anchor, truth, heads = made
    guides, rows = Guides(anchor), []
    for head in heads:
        field, there = head.field, in_slices(head.data, truth.world_from_voxel, 1.0)
        volume = replace(there, world_from_voxel=AWAY @ there.world_from_voxel)
        geometry = slice_geometry(volume.data.shape, volume.world_from_voxel, {}, FACTORS[2])
        far = (np.abs(field) > FAR_MM) & anchor.foreground
        with tempfile.TemporaryDirectory() as files:
            for name, step in written_files(Path(files), field, truth.grid).items():
                source = StackInput("slices", geometry, transforms=(step,))
                start = time.perf_counter()
                stack = place(source, volume, anchor, SETTINGS, QUIET)
                seconds = time.perf_counter() - start
                home = np.linalg.inv(AWAY) @ stack.registration.target_from_anchor
                off = misplaced(stack.at(home), anchor, field)
                rows.append({"target": options.target, "seed": head.seed, "file": name,
                             "displaced": float(np.abs(field[anchor.foreground]).mean()),
                             "off": float(off.mean()), "off95": float(np.percentile(off, 95)),
                             "db": restored_db(stack, guides, truth, far), "s": seconds})  # fmt: skip
                print(line(rows[-1], GIVEN_COLUMNS), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def written_files(folder: Path, field: np.ndarray, grid: Grid) -> dict[str, TransformStep]:
    """ITK files of the displacement and of ``AWAY``."""
    coarse = coarse_grid(grid, FIELD_MM)
    vectors = np.zeros((*coarse.shape, 3), np.float32)
    index = centres_mm(coarse) @ np.linalg.inv(grid.world_from_voxel)[:3, :3].T
    index += np.linalg.inv(grid.world_from_voxel)[:3, 3]
    along = ndimage.map_coordinates(field, index.T, order=1, mode="nearest")
    vectors[..., PHASE_AXIS] = along.reshape(coarse.shape)
    displacement = Displacement(vectors, coarse)
    transforms = []
    for image in (
        target_from_anchor_field(displacement, np.eye(4), grid),
        anchor_from_target_field(displacement, np.eye(4), grid),
    ):
        nib.save(image, folder / "field.nii.gz")
        read = SimpleITK.ReadImage(str(folder / "field.nii.gz"), SimpleITK.sitkVectorFloat64)
        transforms.append(SimpleITK.DisplacementFieldTransform(read))
    there, back = transforms
    position, home = itk_affine(AWAY), itk_affine(np.linalg.inv(AWAY))
    files = {"affine": [position], "composite": [position, there], "composite, backwards": [back, home]}
    for name, parts in files.items():
        SimpleITK.WriteTransform(SimpleITK.CompositeTransform(parts), str(folder / f"{name}.h5"))
    return {name: TransformStep(folder / f"{name}.h5", "backwards" in name) for name in files}


COLUMNS = {
    "target": "target",
    "seed": "field",
    "noise": "noise, %",
    "displaced": "displaced, mm",
    "rigid": "off, rigid",
    "found": "off, auto",
    "found95": "95th percentile",
    "gain": "held-out error, %",
    "rigid_db": "rigid, dB",
    "found_db": "auto, dB",
}


GIVEN_COLUMNS = {
    "target": "target",
    "seed": "field",
    "file": "file",
    "displaced": "displaced, mm",
    "off": "off, mm",
    "off95": "95th percentile",
    "db": "dB",
    "s": "s",
}


def table(rows: list[dict[str, float | str]], columns: Mapping[str, str] = COLUMNS) -> str:
    """The rows as docs/benchmarks.md has them."""
    head = "| " + " | ".join(columns.values()) + " |\n" + "|---" * len(columns) + "|\n"
    return head + "".join(line(row, columns) + "\n" for row in rows)


def line(row: dict[str, float | str], columns: Mapping[str, str] = COLUMNS) -> str:
    values = [row[name] for name in columns]
    shown = [value if isinstance(value, str) else f"{value:.3g}" for value in values]
    return "| " + " | ".join(shown) + " |"


def one_case(
    volume: Volume, anchor: Anchor, guides: Guides, truth: Volume, field: np.ndarray
) -> dict[str, float | str]:
    geometry = slice_geometry(volume.data.shape, volume.world_from_voxel, {}, FACTORS[2])
    placed = place(StackInput("slices", geometry, phase_axis=PHASE_AXIS), volume, anchor, SETTINGS, QUIET)
    start = time.perf_counter()
    (rigid,) = calibrated([placed], guides, replace(SETTINGS, registration="rigid"), QUIET)
    found = with_displacement(rigid, guides, SETTINGS, QUIET)
    seconds = time.perf_counter() - start
    far = np.abs(field) > FAR_MM if np.abs(field).max() > 0 else anchor.foreground
    errors = {name: misplaced(own, anchor, field) for name, own in (("rigid", rigid), ("found", found))}
    return {
        "displaced": float(np.abs(field[anchor.foreground]).mean()),
        "rigid": float(errors["rigid"].mean()),
        "found": float(errors["found"].mean()),
        "found95": float(np.percentile(errors["found"], 95)),
        "gain": told(found),
        "rigid_db": restored_db(rigid, guides, truth, far & anchor.foreground),
        "found_db": restored_db(found, guides, truth, far & anchor.foreground),
        "s": seconds,
    }


def told(stack: PlacedStack) -> str:
    """By how much held-out slices are predicted worse with a displacement, %."""
    said = stack.calibration.distortion if stack.calibration else None
    if said is None or said.gain is None or said.gain_error is None:
        return "not asked"
    return f"{-100 * said.gain:+.1f} ± {100 * said.gain_error:.1f}"


def misplaced(stack: PlacedStack, anchor: Anchor, field: np.ndarray) -> np.ndarray:
    """(n,) how far from the truth points of the head are taken to be, mm."""
    index = np.argwhere(anchor.foreground)[::20]
    points = index @ anchor.volume.world_from_voxel[:3, :3].T + anchor.volume.world_from_voxel[:3, 3]
    true, seen = points.copy(), points
    true[:, PHASE_AXIS] += field[tuple(index.T)]
    if stack.displacement is not None:
        seen = points + stack.displacement.at(points)
    pose = stack.registration.target_from_anchor
    return np.asarray(np.linalg.norm(seen @ pose[:3, :3].T + pose[:3, 3] - true, axis=1))


def restored(
    stack: PlacedStack, guides: Guides, size_mm: float, settings: RestorationSettings = SETTINGS
) -> Volume:
    """The stack restored on a coarse lattice, by the graph."""
    guide = guides.at(size_mm, settings)
    observation = observe_placed(stack, guide.anchor, guide.gaussians, settings)
    fit = solve_appearance(observation, guide.prior, REGULARIZATION, settings.core.appearance)
    grid = guide.anchor.volume.grid
    world_from_voxel, chunk = torch.from_numpy(grid.world_from_voxel), settings.core.chunk_elements
    return Volume(
        render(guide.gaussians, fit.amplitudes, grid.shape, world_from_voxel, chunk).cpu().numpy(),
        grid.world_from_voxel,
    )


def deep_inside(anchor: Anchor) -> np.ndarray:
    """Roughly the brain: what lies more than 12 mm below the surface of a head."""
    sizes_mm = voxel_sizes_mm(anchor.volume.world_from_voxel)
    return np.asarray(ndimage.distance_transform_edt(anchor.foreground, sampling=sizes_mm) > SCALP_MM)


def restored_db(stack: PlacedStack, guides: Guides, truth: Volume, where: np.ndarray) -> float:
    image = restored(stack, guides, LATTICE_MM)
    factors = (2, 2, 2)
    expected = truth.averaged(factors).data
    part = Volume(where.astype(np.float32), truth.world_from_voxel).averaged(factors).data > 0.5
    return psnr_db(expected, image.data, part)


def known_field(shape: tuple[int, ...], inside: np.ndarray, seed: int) -> np.ndarray:
    """Five bumps of 12 to 22 mm and smooth noise, up to 6 mm inside the head; seed 0: none."""
    field = np.zeros(shape)
    if seed == 0:
        return field
    rng = np.random.default_rng(seed)
    index, voxels = np.indices(shape).astype(float), np.argwhere(inside)
    for _ in range(5):
        centre, sigma = voxels[rng.integers(len(voxels))], rng.uniform(12, 22)
        squares = ((index - centre[:, None, None, None]) ** 2).sum(0)
        field += rng.choice([-1, 1]) * rng.uniform(0.5, 1) * np.exp(-squares / (2 * sigma**2))
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 20)
    field += 0.3 * noise / np.abs(noise[inside]).max()
    return np.asarray(field * PEAK_MM / np.abs(field[inside]).max())


def acquired_through(data: np.ndarray, field: np.ndarray) -> np.ndarray:
    """The image in which a point p appears at p + u(p), its signal kept."""
    if not field.any():
        return data
    there = np.indices(data.shape).astype(float)
    source = there.copy()
    for _ in range(15):
        source[PHASE_AXIS] = there[PHASE_AXIS] - ndimage.map_coordinates(
            field, source, order=1, mode="nearest"
        )
    slope = np.gradient(field, axis=PHASE_AXIS)
    stretch = 1 + ndimage.map_coordinates(slope, source, order=1, mode="nearest")
    return np.asarray(ndimage.map_coordinates(data, source, order=3) / stretch)


def in_slices(data: np.ndarray, world_from_voxel: np.ndarray, noise: float) -> Volume:
    """Means of blocks, with Rician noise in percent of their 99th percentile."""
    mean = Volume(np.maximum(data, 0).astype(np.float32), world_from_voxel).averaged(FACTORS)
    sigma = noise / 100 * float(np.percentile(mean.data[mean.data > 0], 99))
    real, imaginary = np.random.default_rng(0).normal(0, 1, (2, *mean.data.shape)) * sigma
    return replace(mean, data=np.hypot(mean.data + real, imaginary).astype(np.float32))


def pair(options: argparse.Namespace) -> None:
    missing = [path for path in (options.t1w, *options.targets) if not path.exists()]
    if missing:
        print(f"{missing[0]} is not there: skipped")
        return
    anchor = anchor_of(load_volume(options.t1w))
    guides = Guides(anchor)
    settings = replace(SETTINGS, registration=options.registration, device=options.device)
    points, rows = guides.points_mm, []
    for path in options.targets:
        volume = load_series(path).mean([0])
        geometry = slice_geometry(volume.data.shape, volume.world_from_voxel, {}, options.thickness)
        source = StackInput(path.name, geometry, phase_axis=options.phase_axis)
        placed = place(source, volume, anchor, settings, QUIET)
        start = time.perf_counter()
        (rigid,) = calibrated([placed], guides, replace(settings, registration="rigid"), QUIET)
        found = with_displacement(rigid, guides, settings, QUIET)
        seconds = time.perf_counter() - start
        shift = np.zeros_like(points) if found.displacement is None else found.displacement.at(points)
        lengths = np.linalg.norm(shift, axis=1)
        rows.append((shift, [restored(own, guides, guides.fine_mm, settings) for own in (rigid, found)]))
        print(
            f"{path.name}: {found.registration.method}, {lengths.mean():.2f} mm, most {lengths.max():.1f}; "
            f"held-out slices {told(found)} % of error; {seconds:.0f} s",
            flush=True,
        )
        if options.figures and found.displacement is not None:
            grid, pose = anchor.volume.grid, found.registration.target_from_anchor
            images = DistortionImages(
                anchor.volume.data,
                resample(volume, grid, rigid.registration.target_from_anchor),
                unwarped(volume, grid, pose, found.displacement),
                found.displacement.at(centres_mm(grid)).reshape(*grid.shape, 3),
                anchor.foreground,
            )
            name = path.name.removesuffix(".nii.gz") + ".png"
            distortion_figure(options.figures / name, images, grid.world_from_voxel, path.name)
    if len(rows) < 2:
        return
    (one, first), (other, second) = rows
    axis = int(np.abs(one).mean(0).argmax())
    print(f"correlation of the fields {np.corrcoef(one[:, axis], other[:, axis])[0, 1]:.2f}")
    inside = deep_inside(guides.at(guides.fine_mm, settings).anchor)
    for name, a, b in zip(("rigid", "found"), first, second, strict=True):
        difference, scale = (a.data - b.data)[inside], float(0.5 * (a.data + b.data)[inside].mean())
        print(f"{name}: RMS difference {float(np.sqrt((difference**2).mean())) / scale:.3f} of the mean")


if __name__ == "__main__":
    main()

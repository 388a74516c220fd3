"""Does the Gaussians' geometry or their graph carry the guidance? A crop of a real head, against the truth.

    python benchmarks/geometry.py --scans DIR [--geometries lattice-0.6 fitted] [--noise 0] [--crop 48]

DIR/stroke holds T1, FLAIR and T2 (.nii.gz) on one isotropic grid. Thick slices are simulated from FLAIR and
T2w, along the T1w's voxels or oblique to them, and restored by the graph prior with the true profile and
position: for each geometry of the Gaussians, graph between them, noise (percent of the truth's 99th
percentile) and λ. PSNR (dB) inside the brain, off the crop's border. Before that, how well each geometry
holds the T1w: at its voxels, and half a voxel off along each axis, against cubic and quintic B-spline
interpolation. The defaults take some minutes on one core.
"""

import argparse
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.transform import Rotation

from atlasgs_bids.core.gaussians import Gaussians, quaternions_of, world_points
from atlasgs_bids.core.gram import gram_matrices
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.objective import Objective
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.scaffold import (
    anchor_amplitudes,
    fit_scaffold,
    lattice_gaussians,
    moved_gaussians,
    rendering_psnr_db,
)
from atlasgs_bids.core.settings import CoreSettings, GraphSettings, ScaffoldSettings
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.structure import edge_ellipsoids
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.restoration.anchor import Anchor, anchor_of
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.restoration.scaffold import SessionScaffold, graph_prior, spatial_prior
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.study.simulation.degrade import Degradation
from atlasgs_bids.study.simulation.stack import SimulatedStack, simulated_stack

GEOMETRIES = ("fitted", "lattice-0.5", "lattice-0.6", "lattice-0.65", "elongated")
"""Adam's from the lattice of σ = 0.5 (once the default); lattices by σ; a third as many ellipsoids."""
GRAPHS = ("features", "aligned", "distance")
"""The nearest, weighted by likeness (once the default); those along the T1w's edges; distances alone."""
POSITIONS = ("grid", "oblique")
TARGETS = {"FLAIR": "FLAIR", "T2w": "T2"}
SLICE_AXIS, BORDER = 2, 6
ADAM_STEPS = 40
DEVICE_SETTINGS = RestorationSettings(device="cpu")


class Case(NamedTuple):
    """What was restored."""

    position: str
    factor: int
    target: str
    noise_percent: float


Table = dict[tuple[str, str], dict[Case, list[float]]]
"""By geometry and graph: PSNR at each λ."""


def main() -> None:
    options = parse_options()
    anchor, truths = crops(options.scans / "stroke", options.crop)
    print(f"{int(anchor.support.sum())} voxels in the support, {torch.get_num_threads()} threads")
    scaffolds = {name: scaffold_of(anchor, name) for name in options.geometries}
    scores: Table = defaultdict(dict)
    for position, factor in itertools.product(options.positions, options.factors):
        stacks = {name: slices_of(truths[name], factor, position) for name in options.targets}
        for geometry, scaffold in scaffolds.items():
            for graph in options.graphs:
                prior = graph_of(scaffold, graph)
                for name, noise, psnr in restored(scaffold, prior, stacks, truths, options):
                    scores[geometry, graph][Case(position, factor, name, noise)] = psnr
    report(scores, options)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Geometries and graphs on simulated slices of a real head.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("--geometries", nargs="+", choices=GEOMETRIES, default=list(GEOMETRIES))
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=list(GRAPHS))
    parser.add_argument("--positions", nargs="+", choices=POSITIONS, default=list(POSITIONS))
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--factors", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 1.0, 3.0], metavar="PERCENT")
    parser.add_argument("--lambdas", type=float, nargs="+", default=[0.1, 0.02, 0.004])
    parser.add_argument("--crop", type=int, default=48, help="voxels of its side")
    options = parser.parse_args()
    options.lambdas.sort(reverse=True)  # each solution starts the next
    return options


def crops(folder: Path, side: int) -> tuple[Anchor, dict[str, Volume]]:
    """The T1w and the truths in a cube about the middle of the brain."""
    t1w = load_volume(folder / "T1.nii.gz")
    middle = np.argwhere(t1w.data > 0).mean(axis=0).round().astype(int)
    # Off the midline: a hemisphere with cortex, white matter and ventricle.
    low = middle - side // 2 + np.array([side // 3, 0, 0])
    cut = tuple(slice(int(a), int(a) + side) for a in low)

    def cropped(volume: Volume) -> Volume:
        world = volume.world_from_voxel.copy()
        world[:3, 3] += world[:3, :3] @ low
        return Volume(np.ascontiguousarray(volume.data[cut]), world)

    anchor = cropped(t1w)
    brain = Volume((anchor.data > 0).astype(np.float32), anchor.world_from_voxel)
    truths = {name: cropped(load_volume(folder / f"{file}.nii.gz")) for name, file in TARGETS.items()}
    return anchor_of(anchor, brain), truths


def scaffold_of(anchor: Anchor, geometry: str) -> SessionScaffold:
    """The Gaussians of a geometry, without a graph; prints what they hold of the anchor."""
    started = time.perf_counter()
    image, support, world = tensors(anchor)
    if geometry == "elongated":
        gaussians, psnr = elongated(anchor)
    else:
        sigma = 0.5 if geometry == "fitted" else float(geometry.removeprefix("lattice-"))
        steps = ADAM_STEPS if geometry == "fitted" else 0
        settings = CoreSettings(scaffold=ScaffoldSettings(sigma_spacings=sigma, n_steps=steps))
        fitted = fit_scaffold(image, support, world, settings)
        gaussians, psnr = fitted.gaussians, fitted.anchor_psnr_db
    seconds = time.perf_counter() - started
    print(
        f"{geometry:13} {len(gaussians):7} Gaussians {seconds:5.1f} s: T1w {psnr:.1f} dB, "
        f"half a voxel off {off_grid_db(anchor, gaussians, 3):.1f} dB (cubic), "
        f"{off_grid_db(anchor, gaussians, 5):.1f} dB (quintic)",
        flush=True,
    )
    return SessionScaffold(anchor, gaussians, psnr, seconds, spatial_prior(gaussians, DEVICE_SETTINGS), 0)


def tensors(anchor: Anchor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image, support and world_from_voxel of the anchor."""
    arrays = anchor.volume.data, anchor.support, anchor.volume.world_from_voxel
    image, support, world = (torch.from_numpy(array) for array in arrays)
    return image, support, world


def elongated(anchor: Anchor) -> tuple[Gaussians, float]:
    """A third as many Gaussians, drawn out along the T1w's sheets and edges, then fitted by Adam."""
    core = CoreSettings(scaffold=ScaffoldSettings(n_steps=4 * ADAM_STEPS))
    image, support, world = tensors(anchor)
    start = lattice_gaussians(support, world, int(support.sum()) // 3, core.scaffold.sigma_spacings)
    voxel_from_world = torch.linalg.inv(world).float()
    means_vox = world_points(start.means_mm, voxel_from_world).numpy()
    slope = GraphSettings().edge_slope * anchor.scale
    packed = torch.from_numpy(edge_ellipsoids(anchor.volume, slope, means_vox))
    covariances = packed[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].view(-1, 3, 3).double()
    squares, axes = torch.linalg.eigh(covariances)
    start = replace(
        start,
        scales_mm=start.scales_mm * squares.sqrt().clamp(0.5, 2.0).float(),
        quaternions=quaternions_of(axes * torch.linalg.det(axes).sign()[:, None, None]).float(),
    )
    gaussians, _ = moved_gaussians(start, image, support, world, core)
    shape = (image.shape[0], image.shape[1], image.shape[2])
    splat_op = SplatOperator(gaussians, shape, world, support)
    gaussians = replace(gaussians, amplitudes=anchor_amplitudes(splat_op, image))
    return gaussians, rendering_psnr_db(splat_op, gaussians.amplitudes, image, support)


def off_grid_db(anchor: Anchor, gaussians: Gaussians, order: int) -> float:
    """PSNR of the T1w as the Gaussians render it half a voxel from its voxels along each axis."""
    world = anchor.volume.world_from_voxel.copy()
    world[:3, 3] += world[:3, :3] @ np.full(3, 0.5)
    grid = Grid(anchor.volume.grid.shape, world)
    rendered = render(gaussians, gaussians.amplitudes, grid.shape, torch.from_numpy(world), 2**24).numpy()
    return float(psnr_db(resample(anchor.volume, grid, order=order), rendered, inner(anchor.foreground)))


def inner(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask without the border of its cube, where slices reach beyond the anchor."""
    core = np.zeros_like(mask)
    core[(slice(BORDER, -BORDER),) * 3] = True
    return mask & core


def slices_of(truth: Volume, factor: int, position: str) -> SimulatedStack:
    """Thick slices along the truth's third axis, or along one turned by 20 degrees and off its grid."""
    if position == "oblique":
        turned = np.eye(4)
        turned[:3, :3] = Rotation.from_rotvec(np.radians(20) * np.array([0.6, 0.64, 0.48])).as_matrix()
        middle = (np.array(truth.data.shape) - 1) / 2
        turned[:3, 3] = middle + np.array([0.3, -0.4, 0.2]) - turned[:3, :3] @ middle
        grid = Grid(truth.grid.shape, truth.world_from_voxel @ turned)
        truth = Volume(resample(truth, grid, order=5), grid.world_from_voxel)
    return simulated_stack(truth, Degradation("paper", SLICE_AXIS, factor))


def graph_of(scaffold: SessionScaffold, graph: str) -> QuadraticPrior:
    """One of GRAPHS."""
    if graph == "distance":
        return spatial_prior(scaffold.gaussians, DEVICE_SETTINGS)
    # No slope is steep beside an infinite one: the nearest are taken.
    settings = GraphSettings() if graph == "aligned" else GraphSettings(edge_slope=math.inf)
    core = replace(DEVICE_SETTINGS.core, graph=settings)
    return graph_prior(scaffold.anchor, scaffold.gaussians, replace(DEVICE_SETTINGS, core=core))


def restored(
    scaffold: SessionScaffold,
    prior: QuadraticPrior,
    stacks: dict[str, SimulatedStack],
    truths: dict[str, Volume],
    options: argparse.Namespace,
) -> Iterator[tuple[str, float, list[float]]]:
    """Target, noise, and the PSNR at each λ. Targets of one position share their operators."""
    first = next(iter(stacks.values()))
    placed, known = first.placed(scaffold, DEVICE_SETTINGS), first.known_to(DEVICE_SETTINGS)
    observation = observe_placed(placed, scaffold.anchor, scaffold.gaussians, known)
    gram = gram_matrices(observation.slices_from_amplitudes, observation.weights)
    world = torch.from_numpy(scaffold.anchor.volume.world_from_voxel)
    mask = inner(scaffold.anchor.foreground)
    for (name, stack), noise in itertools.product(stacks.items(), options.noise):
        seen = noisy(observation, stack.acquired, truths[name], noise)
        amplitudes, psnr = None, []
        for weight in options.lambdas:
            objective = Objective((seen,), prior, weight, gram=gram)
            amplitudes = objective.solve(amplitudes, 1e-4, 200).value
            image = render(scaffold.gaussians, amplitudes, mask.shape, world, 2**24).numpy()
            psnr.append(psnr_db(truths[name].data, image, mask))
        yield name, noise, psnr


def noisy(
    observation: LatticeObservation, slices: Volume, truth: Volume, percent: float
) -> LatticeObservation:
    """The observation of other slices, with Gaussian noise."""
    sd = percent / 100 * float(np.percentile(truth.data[truth.data > 0], 99))
    noise = sd * np.random.default_rng(0).standard_normal(slices.data.shape)
    return replace(observation, slices=torch.from_numpy(slices.data + noise.astype(np.float32)))


def report(scores: Table, options: argparse.Namespace) -> None:
    """A table for each noise: each case at the best λ of its own, then the mean of all at each λ."""
    for noise in options.noise:
        own = [case for case in next(iter(scores.values())) if case.noise_percent == noise]
        headings = [f"{case.target} ×{case.factor} {case.position}" for case in own]
        headings += [f"mean, λ {weight:g}" for weight in options.lambdas]
        print(f"\nPSNR, dB; noise {noise:g} %")
        print("| geometry | graph | " + " | ".join(headings) + " |")
        print("|---" * (len(headings) + 2) + "|")
        for names, found in scores.items():
            psnr = np.array([found[case] for case in own])
            values = [*psnr.max(axis=1), *psnr.mean(axis=0)]
            print(f"| {' | '.join(names)} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


if __name__ == "__main__":
    main()

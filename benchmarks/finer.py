"""Pixels finer and coarser than the T1w's voxels, and their point spread, on slices of a known truth.

    python benchmarks/finer.py finer --scans DIR
    python benchmarks/finer.py coarser --scans DIR
    python benchmarks/finer.py spread --scans DIR

DIR/stroke holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz on one grid of 1 mm (benchmarks/real.py). An
interpolated target knows no detail, so it is the T1w that is made coarser: averaged to 2 mm beside pixels of
1 mm it is what 1 mm is beside 0.5 mm. A column of the head, slices as thick as 3 and 5 voxels of the T1w,
noise of 1 % of the 99th percentile, position and slice profile known.

``finer``: before and now, and the study's phantom as well. ``coarser``: pixels of 1.25 to 2 voxels, taken as
points and as the means of two cells along each side. ``spread``: which in-plane blur is preferred by the
criteria that find a slice profile, beside the blur that the slices have.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from atlasgs_bids.core.acquisition import AxisSampling, point_sampling, profile_sampling
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.objective import Objective
from atlasgs_bids.core.regularization import balance
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.profile import profile_of
from atlasgs_bids.imaging.slices import SliceGeometry
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration import observation
from atlasgs_bids.restoration.anchor import Anchor, anchor_of
from atlasgs_bids.restoration.result import TargetResult, rendered_result, rendered_volume
from atlasgs_bids.restoration.scaffold import SessionScaffold, scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, StackInput, place
from atlasgs_bids.restoration.target import fit_target
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.simulation.degrade import true_slice_profile
from atlasgs_bids.study.simulation.phantom import make_phantom

QUIET = Progress.quiet()
WIDTHS_VOX = (0.0, 0.4, 0.6, 0.8, 1.0)
COARSER = (4, 5, 12, 120), (3, 4, 9, 120), (3, 4, 15, 120), (2, 3, 6, 96), (2, 3, 10, 96), (2, 4, 6, 96)
"""Voxel of the T1w, pixel, slice, side of the column, mm."""
Samplings = tuple[AxisSampling, AxisSampling, AxisSampling]
PixelSampling = Callable[[int, float], AxisSampling]
"""Of so many pixels of a size in mm."""


@dataclass(frozen=True)
class Case:
    """A target in thick slices, beside an anchor of other voxels than its pixels."""

    name: str
    truth: Volume
    """The target in voxels of the size that results are scored at."""
    mask: npt.NDArray[np.bool_]
    stack: PlacedStack
    scaffold: SessionScaffold
    settings: RestorationSettings
    noise_sd: float


def make_case(
    name: str,
    anchor: Anchor,
    image: Volume,
    voxel: tuple[int, int, int],
    scored: int,
    spread_vox: float = 0.0,
) -> Case:
    """``image`` in voxels of 1 mm -> slices of ``voxel`` mm, blurred in plane by ``spread_vox``."""
    slice_mm, pixel_mm = float(voxel[2]), float(voxel[0])
    flank_mm = 0.5 * float(anchor.volume.world_from_voxel[0, 0])
    blurred = ndimage.gaussian_filter(image.data, (spread_vox, spread_vox, flank_mm), mode="nearest")
    slices = Volume(blurred, image.world_from_voxel).averaged(voxel)
    truth = image.averaged((scored,) * 3)
    mask = anchor.foreground_on(truth.grid)
    mask[..., slices.data.shape[2] * voxel[2] // scored :] = False
    noise_sd = 0.01 * float(np.percentile(truth.data[mask], 99))
    noise = noise_sd * np.random.default_rng(5).standard_normal(slices.data.shape)
    profile = profile_of(*true_slice_profile(slice_mm, flank_mm))
    settings = RestorationSettings("cpu", registration="header", prior="graph", slice_profile=profile)
    in_plane = pixel_mm, pixel_mm
    source = StackInput(name, SliceGeometry(2, slice_mm, slice_mm, "stated", in_plane, in_plane, ()))
    acquired = replace(slices, data=(slices.data + noise).astype(np.float32))
    stack = place(source, acquired, anchor, settings, QUIET)
    return Case(name, truth, mask, stack, scaffold_of(anchor, settings, QUIET), settings, noise_sd)


def scan_case(
    scans: Path,
    target: str,
    anchor_mm: int,
    voxel: tuple[int, int, int],
    side: int,
    scored: int,
    spread_vox: float = 0.0,
) -> Case:
    """A column of the stroke scan, its T1w averaged to ``anchor_mm``."""
    t1 = load_volume(scans / "stroke" / "T1.nii.gz").data
    common = int(np.lcm(anchor_mm, voxel[2]))
    first = [(n - side) // 2 for n in t1.shape[:2]]
    column = (*(slice(k, k + side) for k in first), slice(t1.shape[2] // common * common))
    anchor = anchor_of(Volume(np.ascontiguousarray(t1[column]), np.eye(4)).averaged((anchor_mm,) * 3))
    image = load_volume(scans / "stroke" / f"{target}.nii.gz").data[column]
    name = f"{target} {' x '.join(map(str, voxel))}, T1w {anchor_mm}"
    return make_case(name, anchor, Volume(np.ascontiguousarray(image), np.eye(4)), voxel, scored, spread_vox)


def phantom_case(contrast: str, slice_mm: int, side: int) -> Case:
    """The study's folded tissues, which fill the field of view."""
    phantom = make_phantom(3, contrast, (side, side, 12 * slice_mm))
    volume = Volume(phantom.anchor, np.eye(4)).averaged((2, 2, 2))
    everywhere = np.ones(volume.data.shape, bool)
    anchor = Anchor(volume, everywhere, everywhere, exterior_is_empty=False, is_brain=True)
    name = f"phantom {contrast} 1 x 1 x {slice_mm}, T1w 2"
    case = make_case(name, anchor, Volume(phantom.truth, np.eye(4)), (1, 1, slice_mm), 1)
    # The outermost slices saw what lies beyond the anchor, and take no part.
    case.mask[..., : 2 * slice_mm] = case.mask[..., -2 * slice_mm :] = False
    return case


def fitted(case: Case, own_gaussians: int) -> tuple[TargetResult, float, float]:
    """The result at the size of the pixels; PSNR on the anchor's grid; seconds of the fit."""
    appearance = replace(case.settings.core.appearance, own_gaussians=own_gaussians)
    settings = replace(case.settings, core=replace(case.settings.core, appearance=appearance))
    began = time.perf_counter()
    fit = fit_target([case.stack], case.scaffold, settings, QUIET)
    seconds = time.perf_counter() - began
    native = rendered_result(fit.fit, fit.scaffold, replace(settings, resolution="native"))
    coarse = rendered_result(fit.fit, fit.scaffold, settings).sr
    n_x, n_y, n_z = (n // m for n, m in zip(case.truth.data.shape, coarse.shape, strict=True))
    mask = replace(case.truth, data=case.mask.astype(np.float32)).averaged((n_x, n_y, n_z)).data > 0.99
    return native, psnr_db(case.truth.averaged((n_x, n_y, n_z)).data, coarse, mask), seconds


def report_finer(case: Case) -> None:
    for name, own_gaussians in (("before", 0), ("now", case.settings.core.appearance.own_gaussians)):
        result, on_anchor_db, seconds = fitted(case, own_gaussians)
        (stack,) = result.stacks
        left = (stack.acquired.data - stack.simulated)[stack.weights > 0]
        assert result.sd is not None
        inside = float((np.abs(result.sr - case.truth.data) < 1.645 * result.sd)[case.mask].mean())
        print(
            f"{case.name} | {name} | {len(result.gaussians)} | {left.std() / case.noise_sd:.2f} | "
            f"{stack.noise_sd / case.noise_sd:.2f} | {result.prior_disagrees:.4f} | "
            f"{psnr_db(case.truth.data, result.sr, case.mask):.2f} | {on_anchor_db:.2f} | {inside:.2f} | "
            f"{seconds:.0f}",
            flush=True,
        )


def with_pixels(pixels: PixelSampling) -> Callable[..., Samplings]:
    """In the place of ``slice_sampling``, for slices along the third axis."""

    def sampling(
        shape: tuple[int, int, int],
        sizes_mm: tuple[float, float, float],
        _axis: int,
        profile: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
        cell_mm: float,
    ) -> Samplings:
        x, y = (pixels(n, size_mm) for n, size_mm in zip(shape[:2], sizes_mm[:2], strict=True))
        return x, y, profile_sampling(shape[2], sizes_mm[2], *profile, cell_mm)

    return sampling


def as_point(n: int, _size_mm: float) -> AxisSampling:
    return point_sampling(n)


def as_two_cells(n: int, size_mm: float) -> AxisSampling:
    box = np.array([-0.5, 0.5]) * size_mm, np.array([0.0, 1.0])
    return profile_sampling(n, size_mm, *box, 0.501 * size_mm)


def blurred_by(width_vox: float) -> PixelSampling:
    """Pixels that are means over their neighbours: a Gaussian cut at 3.5 σ."""

    def sampling(n: int, _size_mm: float) -> AxisSampling:
        if width_vox == 0:
            return point_sampling(n)
        apart = np.subtract.outer(np.arange(n), np.arange(n))
        weights = np.exp(-0.5 * (apart / width_vox) ** 2) * (np.abs(apart) <= np.ceil(3.5 * width_vox))
        return AxisSampling(weights / weights.sum(1, keepdims=True), 0.0, 1.0)

    return sampling


def report_coarser(case: Case) -> None:
    settings = replace(case.settings, estimate_uncertainty=False)
    for name, pixels in (("points", as_point), ("two cells", as_two_cells)):
        with patch.object(observation, "slice_sampling", with_pixels(pixels)):
            fit = fit_target([case.stack], case.scaffold, settings, QUIET)
        result = rendered_result(fit.fit, fit.scaffold, settings)
        noise = result.stacks[0].noise_sd / case.noise_sd
        psnr = psnr_db(case.truth.data, result.sr, case.mask)
        print(f"{case.name} | {name} | {noise:.2f} | {psnr:.2f}", flush=True)


def report_spread(case: Case, true_vox: float) -> None:
    scaffold, rows = case.scaffold, []
    for width_vox in WIDTHS_VOX:
        with patch.object(observation, "slice_sampling", with_pixels(blurred_by(width_vox))):
            observed = observation.observe_placed(
                case.stack, scaffold.anchor, scaffold.gaussians, case.settings
            )
        scale = float(observed.slices[observed.weights > 0].std())
        objective = Objective((replace(observed, slices=observed.slices / scale),), scaffold.prior, 1.0)
        found = balance(objective, case.settings.core.appearance)
        image = rendered_volume(
            scale * found.solution.value, case.truth.grid, case.mask, scaffold, case.settings, floor=None
        )
        psnr = psnr_db(case.truth.data, image, case.mask)
        lines = [held_out_lines(objective, at) for at in (1.0, 0.1)]
        rows.append((found.predicted_error, least(objective), *lines, -psnr))
    names = "cross-validation", "J at λ = 1", "held-out lines at 1", "held-out lines at 0.1", "PSNR"
    for name, costs in zip(names, np.array(rows).T, strict=True):
        shown = [f"{-cost:.2f}" if name == "PSNR" else f"{cost / costs[0]:.3f}" for cost in costs]
        best = WIDTHS_VOX[int(costs.argmin())]
        print(f"{case.name} | {true_vox:g} | {name} | {' | '.join(shown)} | {best:g}", flush=True)


def least(objective: Objective) -> float:
    """J, the objective at its minimum."""
    (observed,) = objective.terms
    amplitudes = objective.solve(None, 1e-3, 200).value
    error = observed.slices_from_amplitudes.forward(amplitudes) - observed.slices
    roughness = float((amplitudes * objective.prior.forward(amplitudes)).sum())
    return float((observed.weights * error.square()).sum()) + objective.regularization * roughness


def held_out_lines(objective: Objective, regularization: float) -> float:
    """RMS error on every fifth line of the slices' first axis, predicted from the others."""
    (observed,) = objective.terms
    held_out = torch.zeros_like(observed.weights)
    held_out[2::5] = 1
    training = replace(observed, weights=observed.weights * (1 - held_out))
    trial = replace(objective, terms=(training,), regularization=regularization)
    predicted = observed.slices_from_amplitudes.forward(trial.solve(None, 1e-3, 200).value)
    asked = observed.weights * held_out
    return float(((asked * (predicted - observed.slices).square()).sum() / asked.sum()).sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description="Pixels finer and coarser than the T1w's voxels.")
    parser.add_argument("part", choices=["finer", "coarser", "spread"])
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("--side", type=int, default=64, help="of the column, mm")
    parser.add_argument("--targets", nargs="+", choices=["FLAIR", "T2"], default=["FLAIR", "T2"])
    options = parser.parse_args()
    scans, side = options.scans, options.side
    if options.part == "finer":
        print("case | | Gaussians | residual over noise | noise found over true | disagrees", end="")
        print(" | PSNR at the pixels' size | at the T1w's | inside the 90 % interval | seconds")
    elif options.part == "coarser":
        print("case | pixels | noise found over true | PSNR")
    else:
        print(f"case | true | criterion | {' | '.join(map(str, WIDTHS_VOX))} | least at")
    for target in options.targets:
        if options.part == "finer":
            for slice_mm in (6, 10):
                report_finer(scan_case(scans, target, 2, (1, 1, slice_mm), side, 1))
                report_finer(phantom_case("T2w" if target == "T2" else target, slice_mm, side))
        elif options.part == "coarser":
            for anchor_mm, pixel, slice_mm, wide in COARSER:
                voxel = pixel, pixel, slice_mm
                report_coarser(scan_case(scans, target, anchor_mm, voxel, wide, anchor_mm))
        else:
            for true_vox, slice_mm in ((0.0, 3), (0.8, 3), (0.6, 5)):
                report_spread(scan_case(scans, target, 1, (1, 1, slice_mm), side, 1, true_vox), true_vox)


if __name__ == "__main__":
    main()

"""How λ and the noise are found from the slices: marginal likelihood, GCV, SURE, held-out slices; compared.

    python benchmarks/regularization.py --scans DIR [--profile box]

DIR/stroke holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz on one isotropic grid (benchmarks/real.py). A column
of the head is cut out, thick slices are simulated, white noise is added in percent of the 99th percentile.
The scaffold is the default, the headers are true, and so is the profile
unless ``box`` is asked for: what is compared is the choice of λ alone. A loss is against the λ of the
highest PSNR; the PSNR between the λ of the grid is interpolated.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.metrics import noise_sd, psnr_db
from atlasgs_bids.core.objective import Objective, held_out_slices
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.regularization import balance
from atlasgs_bids.core.settings import AppearanceSettings
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.profile import SliceProfile, slice_profile
from atlasgs_bids.imaging.slices import SliceGeometry
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import Anchor, anchor_of
from atlasgs_bids.restoration.observation import observe
from atlasgs_bids.restoration.scaffold import scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import StackInput
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.simulation.degrade import simulate_thick_slices, true_slice_profile

SETTINGS = AppearanceSettings(max_iterations=500)
GRID = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)


@dataclass(frozen=True)
class Case:
    """A column of a head in thick slices, and what its voxels are in truth."""

    name: str
    truth: np.ndarray
    mask: np.ndarray
    clean: LatticeObservation
    """Without noise."""
    objective: Objective
    anchor: Anchor
    gaussians: Gaussians
    render: SplatOperator
    unit: float
    """99th percentile of the truth: the noise is in percent of it."""


def make_case(stroke_dir: Path, target: str, factor: int, profile: str, side: int) -> Case:
    t1 = load_volume(stroke_dir / "T1.nii.gz")
    middle = [(n - side) // 2 for n in t1.data.shape[:2]]
    column = tuple(slice(first, first + side) for first in middle)
    image = np.ascontiguousarray(load_volume(stroke_dir / f"{target}.nii.gz").data[column])
    anchor = anchor_of(Volume(np.ascontiguousarray(t1.data[column]), np.eye(4)))
    slices, affine = simulate_thick_slices(image, np.eye(4), 2, factor)
    settings = RestorationSettings(device="cpu")
    told = slice_profile("box", factor)
    if profile == "true":
        offsets, density = true_slice_profile(factor, 1.0)
        cumulative = np.concatenate([[0], np.cumsum(np.diff(offsets) * (density[1:] + density[:-1]) / 2)])
        told = SliceProfile(offsets, cumulative / cumulative[-1])
    scaffold = scaffold_of(anchor, settings, Progress.quiet())
    gaussians = scaffold.gaussians
    geometry = SliceGeometry(2, factor, factor, "SliceThickness", (1, 1), (1, 1), ())
    stack = StackInput(target, geometry)
    clean = observe(stack, Volume(slices, affine), np.eye(4), anchor, gaussians, told, settings)
    objective = Objective((clean,), scaffold.prior, 1.0)
    render = SplatOperator(gaussians, image.shape, torch.eye(4, dtype=torch.float64))
    mask = anchor.volume.data > 0
    mask[..., slices.shape[2] * factor :] = False
    unit = float(np.percentile(image[mask], 99))
    return Case(f"{target} x{factor}", image, mask, clean, objective, anchor, gaussians, render, unit)


@dataclass(frozen=True)
class Point:
    """What is known at one λ, from solves of 1e-4."""

    psnr_db: float
    misfit: float
    roughness: float
    """λ aᵀ L a."""
    n_effective: float
    held_out: float
    """Mean square error on all slices, each predicted without every fifth; nan where not asked for."""


def points(case: Case, noisy: Objective, with_held_out: bool) -> list[Point]:
    observed = noisy.terms[0]
    op, weights = observed.slices_from_amplitudes, observed.weights
    signs = torch.randint(0, 2, op.shape_out, generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    probe = op.adjoint(weights.sqrt() * signs)
    start, found = None, []
    for regularization in GRID:
        at = replace(noisy, regularization=regularization)
        start = at.solve(start, 1e-4, 500).value
        misfit = float((weights * (op.forward(start) - observed.slices).square()).double().sum())
        roughness = regularization * float((start * at.prior.forward(start)).double().sum())
        response = at.solution(probe, None, 1e-3, 500).value
        psnr = psnr_db(case.truth, case.render.forward(start).numpy(), case.mask)
        held_out = held_out_error(at) if with_held_out else float("nan")
        found.append(Point(psnr, misfit, roughness, float((probe * response).double().sum()), held_out))
    return found


def held_out_error(objective: Objective) -> float:
    """Of all five folds, converged: at a small λ far slices are reached late."""
    observed = objective.terms[0]
    n_slices = observed.weights.shape[observed.slice_axis]
    total = n_voxels = 0.0
    for fold in range(5):
        held_out = torch.zeros_like(observed.weights)
        held_out[..., range(fold, n_slices, 5)] = 1
        training = replace(observed, weights=observed.weights * (1 - held_out))
        predicted = replace(objective, terms=(training,)).solve(None, 1e-4, 500).value
        error = observed.slices_from_amplitudes.forward(predicted) - observed.slices
        total += float((observed.weights * held_out * error.square()).sum())
        n_voxels += float((observed.weights * held_out).sum())
    return total / n_voxels


def choices(found: list[Point], n_voxels: int) -> dict[str, float]:
    """log10 λ by each of the criteria, on a fine grid between the λ."""
    at, fine = np.log10(GRID[::-1]), np.linspace(np.log10(GRID[-1]), np.log10(GRID[0]), 200)

    def between(values: list[float]) -> np.ndarray:
        return np.interp(fine, at, values[::-1])

    misfit = np.exp(between([np.log(own.misfit) for own in found]))
    free = np.exp(between([np.log(n_voxels - own.n_effective) for own in found]))
    # Its slope in log λ is (m λ aᵀLa / J − γ) / 2.
    slope = between(
        [n_voxels * own.roughness / (own.misfit + own.roughness) - own.n_effective for own in found]
    )
    by_likelihood = int(np.argmin(np.cumsum(slope)))
    variance = misfit[by_likelihood] / free[by_likelihood]
    chosen = {
        "likelihood": fine[by_likelihood],
        "GCV": fine[np.argmin(misfit / free**2)],
        "SURE": fine[np.argmin(misfit - 2 * variance * free)],
    }
    held_out = [own.held_out for own in found]
    if np.isfinite(held_out).all():
        chosen["held out"] = float(np.log10(GRID[int(np.argmin(held_out))]))
    return chosen


def search_of_before(objective: Objective) -> float:
    """Seconds of the search that GCV replaced: every fifth slice left out, three λ, then the fit."""
    observed = objective.terms[0]
    held_out = held_out_slices(observed)
    assert held_out is not None
    training = replace(observed, weights=observed.weights * (1 - held_out))
    began, start = time.perf_counter(), None
    for regularization in (0.1, 0.03, 0.01):
        trial = replace(objective, terms=(training,), regularization=regularization)
        start = trial.solve(start, 1e-3, 200).value
    replace(objective, regularization=0.1).solve(start, 1e-4, 200)
    return time.perf_counter() - began


def report(case: Case, percent: float, with_held_out: bool) -> None:
    clean = case.clean
    sd = percent / 100 * case.unit
    noise = sd * np.random.default_rng(5).standard_normal(tuple(clean.slices.shape))
    slices = clean.slices + torch.from_numpy(noise).float()
    noisy = replace(case.objective, terms=(replace(clean, slices=slices),))
    n_voxels = int((clean.weights > 0).sum())
    found = points(case, noisy, with_held_out)
    psnr = [own.psnr_db for own in found]
    free = [n_voxels - own.n_effective for own in found]
    at, spread = np.log10(GRID[::-1]), [(own.misfit / f) ** 0.5 for own, f in zip(found, free, strict=True)]
    began = time.perf_counter()
    program = balance(noisy, SETTINGS)
    seconds = time.perf_counter() - began
    raw = noise_sd(slices.numpy(), 2, clean.weights.numpy() > 0)
    print(
        f"{case.name} | {percent:g} % | {sd:.2f} | {raw:.2f} | {program.noise_sd:.2f} | {max(psnr):.2f} at "
        f"{GRID[int(np.argmax(psnr))]:g}",
        end="",
    )
    every = choices(found, n_voxels) | {"program": np.log10(program.regularization)}
    for name, chosen in every.items():
        loss = max(psnr) - np.interp(chosen, at, psnr[::-1])
        print(
            f" | {name} {10**chosen:.2g}: -{loss:.2f} dB, σ {np.interp(chosen, at, spread[::-1]):.2f}", end=""
        )
    print(f" | {seconds:.1f} s, before {search_of_before(noisy):.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="λ and noise by several criteria, against the truth.")
    parser.add_argument("--scans", type=Path, required=True, help="folder with stroke/{T1,T2,FLAIR}.nii.gz")
    parser.add_argument("--profile", choices=["true", "box"], default="true", help="what the fit is told")
    parser.add_argument("--side", type=int, default=64, help="of the column, in voxels")
    parser.add_argument("--factors", type=int, nargs="+", default=[3, 5, 7])
    parser.add_argument("--targets", nargs="+", choices=["FLAIR", "T2"], default=["FLAIR", "T2"])
    parser.add_argument("--noise", type=float, nargs="+", default=[0, 1, 3, 5], help="percent")
    parser.add_argument("--held-out", action="store_true", help="all five folds at every λ: takes minutes")
    options = parser.parse_args()
    print("case | noise | its σ | diagonal differences | program's σ | best PSNR, dB")
    for target in options.targets:
        for factor in options.factors:
            case = make_case(options.scans / "stroke", target, factor, options.profile, options.side)
            for percent in options.noise:
                report(case, percent, options.held_out)


if __name__ == "__main__":
    main()

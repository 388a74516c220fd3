"""Position and slice profile by evidence, on simulated slices of a real head whose truth is known.

    python benchmarks/calibration.py position --scans DIR [--motions 6] [--noise 3] [--bias] [--inverted]
    python benchmarks/calibration.py profile --scans DIR
    python benchmarks/calibration.py restored --scans DIR [--noise 1]
    python benchmarks/calibration.py starts --anchor T1 --target IMAGE

DIR/stroke holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz. ``position``: the mean error over the head, mm,
relative to where the evidence puts the unmoved isotropic pair, since headers are no truth below 0.2 mm;
beside it that of mutual information, from which the evidence starts. ``profile``: the standard deviation that
is found for each simulated profile, and the RMS difference of its modulation transfer from the true one below
the target's Nyquist frequency, beside that of a box as thick as the sidecar says. ``restored``: PSNR of a
column of the head, graph prior, with the known profile, and what is lost with that found on the whole head
and with the stated box. ``starts``: how far apart the evidence ends for an acquired pair from five starts
around where mutual information has it.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from real import moved_by

from atlasgs_bids.core.appearance import fit_appearance
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.slice_profile import FoundProfile
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.profile import SliceProfile, profile_of, profile_with_sd, slice_profile
from atlasgs_bids.imaging.registration.register import apart_mm
from atlasgs_bids.imaging.slices import SliceGeometry, slice_geometry
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import Anchor, anchor_of
from atlasgs_bids.restoration.calibration import calibrated
from atlasgs_bids.restoration.guides import Guides
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.restoration.scaffold import SessionScaffold, scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.slice_profile import found_profile
from atlasgs_bids.restoration.stack import Calibration, PlacedStack, StackInput, place
from atlasgs_bids.runtime.progress import Progress

QUIET = Progress.quiet()
AXIS = 2
COLUMN = 64
"""Side of the part of the head that is restored for each profile, voxels."""
TARGETS = {"FLAIR": "FLAIR", "T2w": "T2"}


def main() -> None:
    options = parse_options()
    settings = RestorationSettings(device=options.device, slice_profile="box")
    options.measure(options, settings)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Position and slice profile by evidence, against the truth.")
    parser.add_argument("--device", default="cpu")
    commands = parser.add_subparsers(required=True)
    for name, measure in (("position", positions), ("profile", profiles), ("restored", restored)):
        command = commands.add_parser(name)
        command.set_defaults(measure=measure)
        command.add_argument("--scans", type=Path, required=True)
        command.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
        command.add_argument("--factors", type=int, nargs="+", default=[3, 5, 7])
        command.add_argument("--motions", type=int, default=6)
        command.add_argument("--noise", type=float, default=0.0, help="percent of the 99th percentile")
        command.add_argument("--bias", action="store_true", help="a field of 30 %% over the target")
        command.add_argument("--inverted", action="store_true", help="an anchor of inverted contrast")
    command = commands.add_parser("starts")
    command.set_defaults(measure=starts)
    command.add_argument("--anchor", type=Path, required=True)
    command.add_argument("--target", type=Path, required=True)
    return parser.parse_args()


def positions(options: argparse.Namespace, settings: RestorationSettings) -> None:
    anchor = loaded_anchor(options)
    guides = Guides(anchor)
    centre = guides.points_mm.mean(axis=0)
    print("| target | factor | mutual information, mm | evidence, mm | largest | its standard error | s |")
    print("|---|---|---|---|---|---|---|")
    for target in options.targets:
        fine = load_volume(options.scans / "stroke" / f"{TARGETS[target]}.nii.gz")
        reference = refined(at_header(fine, None, anchor), guides, settings)[0]
        for factor in options.factors:
            errors = []
            for number in range(1, options.motions + 1):
                rng = np.random.default_rng([factor, number])
                motion = moved_by(rng.uniform(-3, 3, 3), rng.uniform(-4, 4, 3), centre)
                slices = simulated(fine, paper_profile(factor), factor, options)
                moved = Volume(slices.data, motion @ slices.world_from_voxel)
                truth = motion @ reference.registration.target_from_anchor
                source = StackInput(target, geometry_of(moved, factor))
                placed = place(source, moved, anchor, settings, QUIET)
                found, seconds = refined(placed, guides, settings)
                assert found.calibration is not None
                errors.append(
                    (
                        apart_mm(placed.registration.target_from_anchor, truth, guides.points_mm),
                        apart_mm(found.registration.target_from_anchor, truth, guides.points_mm),
                        found.calibration.position_error_mm,
                        seconds,
                    )
                )
            before, after, told, seconds_each = np.array(errors, dtype=float).T
            print(
                f"| {target} | ×{factor} | {before.mean():.3f} | {after.mean():.3f} | {after.max():.3f} | "
                f"{told.mean():.3f} | {np.median(seconds_each):.1f} |",
                flush=True,
            )


@dataclass(frozen=True)
class ProfileCase:
    """A simulated profile, what the sidecar says of it, and what the slices of the whole head do."""

    target: str
    factor: int
    name: str
    true: SliceProfile
    box: SliceProfile
    """The stated one."""
    found: FoundProfile | None
    seconds: float
    fine: Volume
    """The scan that the slices are of."""

    @property
    def stated_mm(self) -> float:
        return float(np.ptp(self.box.offsets_mm))

    @property
    def used(self) -> SliceProfile:
        """As the app would have it."""
        return self.box if self.found is None else profile_with_sd(self.found.sd_mm, self.stated_mm)


def profile_cases(
    options: argparse.Namespace, anchor: Anchor, settings: RestorationSettings
) -> Iterator[ProfileCase]:
    guides = Guides(anchor)
    cases = itertools.product(options.targets, options.factors, PROFILES.items())
    for target, factor, (name, (true_profile, stated)) in cases:
        fine = load_volume(options.scans / "stroke" / f"{TARGETS[target]}.nii.gz")
        true, box = true_profile(factor), slice_profile("box", stated * factor)
        placed = at_header(simulated(fine, true, factor, options), stated * factor, anchor)
        start = time.perf_counter()
        found = found_profile(placed, guides, settings)
        yield ProfileCase(target, factor, name, true, box, found, time.perf_counter() - start, fine)


def profiles(options: argparse.Namespace, settings: RestorationSettings) -> None:
    settings = replace(settings, registration="header")
    print("| target | factor | profile | true sd, mm | found | MTF, found | MTF, stated box | s |")
    print("|---|---|---|---|---|---|---|---|")
    for case in profile_cases(options, loaded_anchor(options), settings):
        found, factor = case.found, case.factor
        said = "not told" if found is None else f"{found.sd_mm:.2f} ± {found.error_mm:.2f}"
        print(
            f"| {case.target} | ×{factor} | {case.name} | {case.true.sd_mm:.2f} | {said} | "
            f"{mtf_difference(case.used, case.true, factor):.3f} | "
            f"{mtf_difference(case.box, case.true, factor):.3f} | {case.seconds:.1f} |",
            flush=True,
        )


def restored(options: argparse.Namespace, settings: RestorationSettings) -> None:
    anchor, settings = loaded_anchor(options), replace(settings, registration="header")
    shape = anchor.volume.data.shape
    column = tuple(slice((n - COLUMN) // 2, (n + COLUMN) // 2) for n in shape[:2])
    part = anchor_of(Volume(np.ascontiguousarray(anchor.volume.data[column]), np.eye(4)))
    scaffold = scaffold_of(part, settings, QUIET)
    print("| target | factor | profile | known, dB | found | stated box |")
    print("|---|---|---|---|---|---|")
    for case in profile_cases(options, anchor, settings):
        truth = Volume(np.ascontiguousarray(case.fine.data[column]), np.eye(4))
        placed = at_header(simulated(truth, case.true, case.factor, options), case.stated_mm, part)
        known_db, found_db, box_db = (
            column_psnr_db(placed, told, scaffold, truth, settings)
            for told in (case.true, case.used, case.box)
        )
        print(
            f"| {case.target} | ×{case.factor} | {case.name} | {known_db:.2f} | {found_db - known_db:+.2f} | "
            f"{box_db - known_db:+.2f} |",
            flush=True,
        )


def column_psnr_db(
    placed: PlacedStack,
    profile: SliceProfile,
    scaffold: SessionScaffold,
    truth: Volume,
    settings: RestorationSettings,
) -> float:
    told = replace(placed, calibration=Calibration(profile=profile))
    observation = observe_placed(told, scaffold.anchor, scaffold.gaussians, settings)
    amplitudes = fit_appearance(observation, scaffold.prior, settings.core.appearance).amplitudes
    world_from_voxel, chunk = torch.from_numpy(truth.world_from_voxel), settings.core.chunk_elements
    image = render(scaffold.gaussians, amplitudes, truth.data.shape, world_from_voxel, chunk)
    mask = scaffold.anchor.volume.data > 0
    n_slices, spacing_mm = placed.acquired.data.shape[AXIS], placed.source.geometry.spacing_mm
    mask[..., int(n_slices * spacing_mm) :] = False
    return psnr_db(truth.data, image.cpu().numpy(), mask)


def starts(options: argparse.Namespace, settings: RestorationSettings) -> None:
    anchor, target = anchor_of(load_volume(options.anchor)), load_volume(options.target)
    guides = Guides(anchor)
    source = StackInput(options.target.name, slice_geometry(target.data.shape, target.world_from_voxel, {}))
    placed = place(source, target, anchor, settings, QUIET)
    ends = []
    for number in range(5):
        rng = np.random.default_rng(number)
        off = moved_by(rng.normal(0, 0.5, 3), rng.normal(0, 0.5, 3), guides.points_mm.mean(axis=0))
        start = off @ placed.registration.target_from_anchor
        registration = replace(placed.registration, target_from_anchor=start)
        found, seconds = refined(replace(placed, registration=registration), guides, settings)
        ends.append(found.registration.target_from_anchor)
        assert found.calibration is not None
        before, after = (
            apart_mm(start, ends[0], guides.points_mm),
            apart_mm(ends[-1], ends[0], guides.points_mm),
        )
        told = found.calibration.position_error_mm
        print(
            f"start {before:.2f} mm, end {after:.3f} mm off the first end, standard error {told:.3f} mm, "
            f"{seconds:.0f} s",
            flush=True,
        )


def refined(placed: PlacedStack, guides: Guides, settings: RestorationSettings) -> tuple[PlacedStack, float]:
    start = time.perf_counter()
    (found,) = calibrated([placed], guides, settings, QUIET)
    return found, time.perf_counter() - start


def loaded_anchor(options: argparse.Namespace) -> Anchor:
    anchor = anchor_of(load_volume(options.scans / "stroke" / "T1.nii.gz"))
    if not options.inverted:
        return anchor
    data = (anchor.volume.data.max() - anchor.volume.data) * anchor.foreground
    return replace(anchor, volume=replace(anchor.volume, data=data.astype(np.float32)))


def at_header(volume: Volume, thickness_mm: float | None, anchor: Anchor) -> PlacedStack:
    header = RestorationSettings(device="cpu", registration="header", slice_profile="box")
    return place(StackInput("slices", geometry_of(volume, thickness_mm)), volume, anchor, header, QUIET)


def geometry_of(volume: Volume, thickness_mm: float | None) -> SliceGeometry:
    return slice_geometry(volume.data.shape, volume.world_from_voxel, {}, thickness_mm)


def simulated(fine: Volume, profile: SliceProfile, factor: int, options: argparse.Namespace) -> Volume:
    """Slices: the integral of the profile over each fine voxel; with noise and field as asked."""
    data = fine.data.astype(np.float64)
    if options.bias:
        x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in data.shape], indexing="ij", sparse=True)
        data = data * (1 + 0.15 * x + 0.15 * y)
    n = data.shape[AXIS]
    centres = (np.arange(n // factor) + 0.5) * factor - 0.5
    edges = np.arange(n + 1) - 0.5
    weights = np.stack(
        [np.diff(np.interp(edges - c, profile.offsets_mm, profile.cumulative)) for c in centres]
    )
    weights /= weights.sum(axis=1, keepdims=True)
    slices = np.moveaxis(np.tensordot(weights, np.moveaxis(data, AXIS, 0), 1), 0, AXIS)
    sigma = options.noise / 100 * np.percentile(slices, 99)
    slices += np.random.default_rng(factor).normal(0, sigma, slices.shape) if sigma else 0
    affine = fine.world_from_voxel.copy()
    affine[:3, 3] += affine[:3, AXIS] * (factor - 1) / 2
    affine[:3, AXIS] *= factor
    return Volume(slices.astype(np.float32), affine)


def paper_profile(thickness_mm: float) -> SliceProfile:
    """Box ⊗ Gaussian of σ = 1 mm."""
    return profile_with_sd(float(np.hypot(thickness_mm / np.sqrt(12), 1.0)), thickness_mm)


def windowed_sinc(thickness_mm: float) -> SliceProfile:
    """Main lobe and first side lobes of a sinc under a Hann window, negative ones cut."""
    offsets_mm = np.linspace(-1.5, 1.5, 241) * thickness_mm
    return profile_of(
        offsets_mm, np.maximum(np.sinc(offsets_mm / (0.83 * thickness_mm)) * np.hanning(241), 0)
    )


def steep_flanks(thickness_mm: float) -> SliceProfile:
    """As of a pulse by the Shinnar-Le Roux algorithm: flat, with flanks of a fifth of the thickness."""
    offsets_mm = np.linspace(-1, 1, 201) * thickness_mm
    return profile_of(offsets_mm, 1 / (1 + np.abs(2 * offsets_mm / thickness_mm) ** 8))


PROFILES: dict[str, tuple[Callable[[float], SliceProfile], float]] = {
    "box ⊗ Gaussian of 1 mm": (paper_profile, 1.0),
    "box": (lambda d: slice_profile("box", d), 1.0),
    "Gaussian": (lambda d: slice_profile("gaussian", d), 1.0),
    "windowed sinc": (windowed_sinc, 1.0),
    "steep flanks": (steep_flanks, 1.0),
    "gap of 20 %": (lambda d: slice_profile("box", 0.8 * d), 0.8),
    "overlap of 50 %": (lambda d: slice_profile("box", 1.5 * d), 1.5),
    "box ⊗ Gaussian, stated + 30 %": (paper_profile, 1.3),
    "box ⊗ Gaussian, stated − 30 %": (paper_profile, 0.7),
    "box, stated + 30 %": (lambda d: slice_profile("box", d), 1.3),
    "box, stated − 30 %": (lambda d: slice_profile("box", d), 0.7),
}
"""Profile for slices that lie so many mm apart, and the thickness in the sidecar in parts of that."""


def mtf_difference(one: SliceProfile, other: SliceProfile, spacing_mm: float) -> float:
    """RMS difference of the modulation transfer up to the Nyquist frequency of the slices."""
    frequencies = np.linspace(0, 0.5 / spacing_mm, 50)
    first, second = (modulation_transfer(profile, frequencies) for profile in (one, other))
    return float(np.sqrt(np.mean((first - second) ** 2)))


def modulation_transfer(profile: SliceProfile, frequencies: np.ndarray) -> np.ndarray:
    offsets_mm = np.linspace(profile.offsets_mm[0], profile.offsets_mm[-1], 2001)
    mass = np.diff(np.interp(offsets_mm, profile.offsets_mm, profile.cumulative))
    centres_mm = (offsets_mm[1:] + offsets_mm[:-1]) / 2
    return np.asarray(np.abs((mass * np.exp(-2j * np.pi * frequencies[:, None] * centres_mm)).sum(axis=1)))


if __name__ == "__main__":
    main()

"""Where the head was in each slice: by intensities and by evidence, for movements that are known.

    python benchmarks/slice_motion.py --phantom
    python benchmarks/slice_motion.py --scans DIR [--targets T2w] [--factors 5]

Every slice is acquired for itself, of a head that is where it is at that time: DIR/stroke as in
calibration.py, relative to where the evidence puts the unmoved isotropic pair, or a phantom of 2 mm
(tests/imaging/phantom.py). Movements: none; one slice in four; every slice; the second of two interleaved
packets, each by up to 2 mm and 2 degrees about each axis. Errors are means over the head's pixels of a
slice, then over the slices that show 200 pixels of it (largest in brackets), mm;
seconds of the processor are those of the evidence.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from calibration import TARGETS, at_header, paper_profile, refined
from real import moved_by
from scipy import ndimage

from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.profile import SliceProfile
from atlasgs_bids.imaging.registration.itk_files import read_itk_transform
from atlasgs_bids.imaging.registration.register import write_itk_transform
from atlasgs_bids.imaging.slice_motion import SlicePosition, shots_of
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import Anchor, anchor_of
from atlasgs_bids.restoration.guides import Guides
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.slice_positions import (
    at_rest,
    is_likelier,
    matched_positions,
    matcher_of,
    positions_by_evidence,
)
from atlasgs_bids.restoration.stack import Calibration, PlacedStack
from atlasgs_bids.runtime.progress import Progress

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.imaging import phantom

QUIET = Progress.quiet()
AXIS = 2
MOST_MM, MOST_DEG = 2.0, 2.0
LEAST_PIXELS = 200
"""Of the head in a slice that counts."""
MOVEMENTS = ("none", "one in four", "every slice", "packets")
Motions = Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Head:
    """A head in two contrasts, and where it lies."""

    name: str
    anchor: Anchor
    guides: Guides
    fine: Volume
    target_from_anchor: np.ndarray


def main() -> None:
    options = parse_options()
    settings = RestorationSettings(
        device=options.device, slice_profile="box", registration="header", prior="graph"
    )
    print("| head | slices | movement | at rest | intensities | the app | evidence | s |")
    print("|---|---|---|---|---|---|---|---|")
    for head in phantoms() if options.phantom else scans(options, settings):
        for factor in options.factors:
            for movement in options.movements:
                measure(head, factor, movement, options, settings)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Where the head was in each slice, against the truth.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scans", type=Path)
    parser.add_argument("--phantom", action="store_true")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--factors", type=int, nargs="+", default=[5])
    parser.add_argument("--movements", nargs="+", choices=MOVEMENTS, default=list(MOVEMENTS))
    parser.add_argument("--noise", type=float, default=1.0, help="percent of the 99th percentile")
    parser.add_argument("--reference", type=Path, help="folder that keeps positions of unmoved pairs")
    return parser.parse_args()


def phantoms() -> Iterator[Head]:
    anchor = anchor_of(phantom.head(phantom.T1W, 2, with_scalp=False))
    guides = Guides(anchor)
    for name, contrast in (("phantom FLAIR", phantom.FLAIR), ("phantom T2w", phantom.T2W)):
        yield Head(name, anchor, guides, phantom.head(contrast, 2, with_scalp=False), np.eye(4))


def scans(options: argparse.Namespace, settings: RestorationSettings) -> Iterator[Head]:
    anchor = anchor_of(load_volume(options.scans / "stroke" / "T1.nii.gz"))
    guides = Guides(anchor)
    for target in options.targets:
        fine = load_volume(options.scans / "stroke" / f"{TARGETS[target]}.nii.gz")
        placed = at_header(fine, None, anchor)
        kept = options.reference and options.reference / f"{target}.txt"
        if kept and kept.exists():
            target_from_anchor = read_itk_transform(kept)
        else:
            found, _ = refined(placed, guides, replace(settings, registration="rigid"))
            target_from_anchor = found.registration.target_from_anchor
            if kept:
                write_itk_transform(kept, found.registration)
        yield Head(target, anchor, guides, fine, target_from_anchor)


def measure(
    head: Head, factor: int, movement: str, options: argparse.Namespace, settings: RestorationSettings
) -> None:
    centre = (head.target_from_anchor @ [*head.guides.points_mm.mean(axis=0), 1])[:3]
    n_slices = head.fine.data.shape[AXIS] // factor
    motions = motions_of(movement, n_slices, centre, factor)
    profile = paper_profile(factor * voxel_mm(head.fine))
    slices = acquired(head.fine, profile, factor, motions, options.noise)
    placed = at_header(slices, None, head.anchor)
    registration = replace(placed.registration, target_from_anchor=head.target_from_anchor)
    placed = replace(placed, registration=registration, calibration=Calibration(profile=profile))
    matcher = matcher_of(placed, head.anchor, settings)
    shots = shots_of(n_slices, {})
    by_intensity = matched_positions(matcher, shots, head.anchor, settings, QUIET)
    start = time.process_time()
    by_evidence = positions_by_evidence(placed, matcher, shots, by_intensity, head.guides, settings)
    seconds = time.process_time() - start
    rest = at_rest(shots)
    app = by_intensity if is_likelier(placed, matcher, shots, by_intensity, head.guides, settings) else rest
    ways = rest, by_intensity, app, by_evidence
    errors = [errors_mm(placed, matcher.inside, way, motions, matcher.centre_world) for way in ways]
    said = " | ".join(f"{own.mean():.3f} ({own.max():.2f})" for own in errors)
    print(f"| {head.name} | ×{factor} | {movement} | {said} | {seconds:.0f} |", flush=True)


def motions_of(movement: str, n_slices: int, centre: np.ndarray, seed: int) -> Motions:
    rng = np.random.default_rng([seed, MOVEMENTS.index(movement)])

    def drawn() -> np.ndarray:
        return moved_by(rng.uniform(-MOST_MM, MOST_MM, 3), rng.uniform(-MOST_DEG, MOST_DEG, 3), centre)

    if movement == "packets":
        second = drawn()
        return dict.fromkeys(range(1, n_slices, 2), second)
    chosen: Iterable[int] = ()
    if movement == "one in four":
        chosen = rng.permutation(n_slices)[: n_slices // 4]
    elif movement == "every slice":
        chosen = range(n_slices)
    return {int(k): drawn() for k in chosen}


def voxel_mm(volume: Volume) -> float:
    return float(np.linalg.norm(volume.world_from_voxel[:3, AXIS]))


def acquired(fine: Volume, profile: SliceProfile, factor: int, motions: Motions, noise: float) -> Volume:
    """Slices of a head that has moved: interpolated once, by splines, where it has."""
    n_x, n_y, n_z = fine.data.shape
    size_mm = voxel_mm(fine)
    low, high = profile.offsets_mm[0], profile.offsets_mm[-1]
    edges = np.linspace(low, high, max(2, round(float(high - low) / (0.7 * size_mm))) + 1)
    weights = np.diff(np.interp(edges, profile.offsets_mm, profile.cumulative))
    offsets = (edges[1:] + edges[:-1]) / 2 / size_mm
    coefficients = ndimage.spline_filter(fine.data.astype(np.float64), 3)
    i, j = np.meshgrid(np.arange(n_x), np.arange(n_y), indexing="ij")
    data = np.zeros((n_x, n_y, n_z // factor))
    for k in range(n_z // factor):
        motion = motions.get(k, np.eye(4))
        voxel_map = np.linalg.inv(fine.world_from_voxel) @ np.linalg.inv(motion) @ fine.world_from_voxel
        for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
            z = np.full(i.shape, (k + 0.5) * factor - 0.5 + offset)
            points = np.stack([i, j, z, np.ones_like(z)]).reshape(4, -1)
            indices = (voxel_map @ points)[:3]
            sampled = ndimage.map_coordinates(coefficients, indices, order=3, prefilter=False)
            data[:, :, k] += weight * sampled.reshape(n_x, n_y)
    data += np.random.default_rng(factor).normal(0, noise / 100 * np.percentile(data, 99), data.shape)
    affine = fine.world_from_voxel.copy()
    affine[:3, 3] += affine[:3, AXIS] * (factor - 1) / 2
    affine[:3, AXIS] *= factor
    return Volume(data.astype(np.float32), affine)


def errors_mm(
    placed: PlacedStack,
    inside: np.ndarray,
    positions: Mapping[int, SlicePosition],
    motions: Motions,
    centre_world: np.ndarray,
) -> np.ndarray:
    """Of each slice that shows enough, mean over its pixels of the head."""
    errors = []
    for k, position in sorted(positions.items()):
        pixels = np.argwhere(inside[:, :, k])
        if len(pixels) < LEAST_PIXELS:
            continue
        points = np.column_stack([pixels, np.full(len(pixels), k), np.ones(len(pixels))])
        world = placed.acquired.world_from_voxel @ points.T
        truth = motions.get(k, np.eye(4))
        apart = (np.linalg.inv(position.moved(centre_world)) - np.linalg.inv(truth)) @ world
        errors.append(float(np.linalg.norm(apart[:3], axis=0).mean()))
    return np.array(errors)


if __name__ == "__main__":
    main()

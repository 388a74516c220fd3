"""Positions of the volumes of a simulated diffusion series of a real head that moves, and what they bring.

    python benchmarks/volume_motion.py --scans DIR [--noise 0 1 3] [--cases still some all] [--json FILE]

DIR/stroke holds T1.nii.gz and T2.nii.gz: brain-extracted, 1 mm, on one grid. Signals are those of
benchmarks/series.py (T2w as b0, known tensors) in slices of 4 mm with pixels of 2 mm; the anchor is the T1w
at 2 mm. Noise is Rician, in percent of the b0's 99th percentile.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation
from series import Tissue, tissue_of

from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.registration.register import apart_mm
from atlasgs_bids.imaging.series import Series, SeriesKinds
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.imaging.volume_motion import SeriesMotion
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.calibration import calibrated
from atlasgs_bids.restoration.guides import Guides
from atlasgs_bids.restoration.scaffold import SessionScaffold, scaffold_of
from atlasgs_bids.restoration.series import fit_series
from atlasgs_bids.restoration.series_images import restored_volumes
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, StackInput, place
from atlasgs_bids.restoration.volume_positions import with_motion
from atlasgs_bids.runtime.costs import Clock
from atlasgs_bids.runtime.progress import Progress

Array = npt.NDArray[np.float64]
FACTORS = (2, 2, 4)
ANCHOR_FACTORS = (2, 2, 2)
MOST_MM, MOST_DEG = 3.0, 3.0
WHITE = 0.5
QUIET = Progress.quiet()
SETTINGS = RestorationSettings(
    device="cpu", registration="header", slice_profile="box", estimate_uncertainty=False
)


@dataclass(frozen=True)
class Protocol:
    b_values: Array
    directions: Array
    """(n, 3) of the scanner, world."""

    @property
    def kinds(self) -> SeriesKinds:
        kinds = tuple(f"b{b:.0f}" for b in self.b_values)
        return SeriesKinds(kinds, kinds, tuple(np.flatnonzero(self.b_values == 0).tolist()))


def protocol(n_b0: int = 2, n_1000: int = 6, n_2000: int = 4) -> Protocol:
    """Directions of each shell spread over a half sphere; b0s evenly between."""
    shells = []
    for b, n in ((1000.0, n_1000), (2000.0, n_2000)):
        index = np.arange(n)
        height, turn = (index + 0.5) / n, index * np.pi * (3 - 5**0.5) + b
        across = np.sqrt(1 - height**2)
        shells.append([(b, g) for g in np.stack([across * np.cos(turn), across * np.sin(turn), height], 1)])
    weighted = [own for pair in zip(*shells, strict=False) for own in pair]
    weighted += shells[0][n_2000:] + shells[1][n_1000:]
    every = len(weighted) / n_b0
    order: list[tuple[float, Array]] = []
    for k in range(n_b0):
        order += [(0.0, np.zeros(3)), *weighted[round(k * every) : round((k + 1) * every)]]
    return Protocol(np.array([b for b, _ in order]), np.stack([g for _, g in order]))


def motions(n: int, case: str, centre: Array, seed: int = 0) -> list[Array]:
    """Of the head in the scanner: none of them, every third, or all; up to 3 mm and 3 degrees in length."""
    rng, found = np.random.default_rng(seed), []
    for k in range(n):
        motion = np.eye(4)
        shift, turn = rng.normal(size=(2, 3))
        shift *= rng.uniform(0.3, 1) * MOST_MM / np.linalg.norm(shift)
        turn *= rng.uniform(0.3, 1) * MOST_DEG / np.linalg.norm(turn)
        if case == "all" or (case == "some" and k % 3 == 2):
            motion[:3, :3] = Rotation.from_rotvec(turn, degrees=True).as_matrix()
            motion[:3, 3] = centre + shift - motion[:3, :3] @ centre
        found.append(motion)
    return found


def acquired(
    tissue: Tissue, world: Array, own: Protocol, moved: list[Array], noise: float, seed: int = 0
) -> Series:
    """The series of the moved head: slices of means of voxels, with noise."""
    rng, sigma = np.random.default_rng(seed), 0.0
    volumes: list[np.ndarray] = []
    for b, g, motion in zip(own.b_values, own.directions, moved, strict=True):
        in_head = motion[:3, :3].T @ g @ world_axes(world)  # voxel axes
        fine = tissue.signal(b, in_head)
        if not np.array_equal(motion, np.eye(4)):
            head_from_scanner = np.linalg.inv(world) @ np.linalg.inv(motion) @ world
            fine = ndimage.affine_transform(
                fine, head_from_scanner[:3, :3], head_from_scanner[:3, 3], order=3
            )
            fine = np.maximum(fine, 0)
        mean = Volume(fine, world).averaged(FACTORS)
        if not volumes:
            sigma = noise / 100 * float(np.percentile(mean.data[mean.data > 0], 99))
        real, imaginary = rng.normal(0, 1, (2, *mean.data.shape)) * sigma
        volumes.append(np.hypot(mean.data + real, imaginary).astype(np.float32))
    return Series(np.stack(volumes, axis=3), 1.0, 0.0, mean.world_from_voxel, 1.0, None)


def world_axes(world: Array) -> Array:
    return np.asarray(world[:3, :3] / np.linalg.norm(world[:3, :3], axis=0))


def with_dropout(
    series: Series, share: float, kept: float, seed: int = 0
) -> tuple[Series, set[tuple[int, int]]]:
    """A share of the slices of the head keeps a part of its signal alone; which: (volume, slice)."""
    data, rng = series.stored.copy(), np.random.default_rng(seed)
    full = np.flatnonzero((series.volume(0) > 0).sum((0, 1)) > 400)
    chosen = {
        (v, int(k))
        for v in range(len(series))
        for k in full
        if series.stored.ndim == 4 and rng.random() < share
    }
    for v, k in chosen:
        data[:, :, k, v] *= kept
    return replace(series, stored=data), chosen


@dataclass(frozen=True)
class Head:
    """The anchor at 2 mm, with what signal follows from at 1 mm."""

    t1w: Volume
    tissue: Tissue
    scaffold: SessionScaffold
    guides: Guides
    """Of the T1w at 1 mm: where positions are looked for."""

    @property
    def world(self) -> Array:
        return self.t1w.world_from_voxel


def head_of(folder: Path) -> Head:
    t1w, t2w = (load_volume(folder / f"{name}.nii.gz") for name in ("T1", "T2"))
    anchor = anchor_of(t1w.averaged(ANCHOR_FACTORS))
    return Head(t1w, tissue_of(t1w, t2w), scaffold_of(anchor, SETTINGS, QUIET), Guides(anchor_of(t1w)))


def placed_reference(own: Head, series: Series, kinds: SeriesKinds) -> PlacedStack:
    """The mean b0 where the headers put it: what is measured is movement from volume to volume."""
    reference = series.mean(kinds.reference)
    geometry = slice_geometry(reference.data.shape, reference.world_from_voxel, {}, float(FACTORS[2]))
    stack = StackInput("series", geometry)
    placed = place(stack, reference, own.scaffold.anchor, SETTINGS, QUIET)
    return calibrated([placed], own.guides, SETTINGS, QUIET)[0]


def errors_mm(own: Head, placed: PlacedStack, motion: SeriesMotion | None, moved: list[Array]) -> Array:
    """How far off the anchor each volume is, mean over the head."""
    here, points = placed.registration.target_from_anchor, own.guides.points_mm
    found = [here if motion is None else motion.target_from_anchor(v, here) for v in range(len(moved))]
    return np.array([apart_mm(*pair, points) for pair in zip(found, moved, strict=True)])


def motion_errors_mm(own: Head, motion: SeriesMotion, kinds: SeriesKinds, moved: list[Array]) -> Array:
    """How far off the movement of each volume from the reference is, mean over the head."""
    reference = next(v for v in kinds.reference if motion.at_rest(v))
    centre, points = np.array(motion.centre_world), own.guides.points_mm
    found = [position.moved(centre) for position in motion.positions]
    truth = [m @ np.linalg.inv(moved[reference]) for m in moved]
    return np.array([apart_mm(*pair, points) for pair in zip(found, truth, strict=True)])


def scores(
    own: Head, shown: Protocol, series: Series, placed: PlacedStack, motion: SeriesMotion | None
) -> dict[str, float]:
    """PSNR of the weighted volumes, dB, and RMS error of FA in white matter, of the restored series."""
    scaffold, anchor = own.scaffold, own.scaffold.anchor
    fit = fit_series(placed, series, shown.kinds, scaffold, SETTINGS, QUIET, motion)
    result = fit.reference_result()
    images = [v.rendered for v in restored_volumes(fit, result, 0.0, Clock())]
    here = placed.registration.target_from_anchor
    turned = shown.directions.copy()
    for v in range(len(turned)):
        position = here if motion is None else motion.target_from_anchor(v, here)
        turned[v] = position[:3, :3].T @ turned[v]
    truth = [
        Volume(own.tissue.signal(b, g @ world_axes(own.world)), own.world).averaged(ANCHOR_FACTORS).data
        for b, g in zip(shown.b_values, turned, strict=True)
    ]
    inside = ndimage.binary_erosion(anchor.foreground, iterations=2)
    weighted = np.flatnonzero(shown.b_values > 0)
    db = np.mean([psnr_db(truth[v], images[v], inside) for v in weighted])
    white = Volume(own.tissue.white, own.world).averaged(ANCHOR_FACTORS).data
    where = inside & (white > WHITE)
    fa = [fractional_anisotropy(np.stack(own, -1)[where], shown.b_values, turned) for own in (images, truth)]
    return {"db": float(db), "fa": float(np.sqrt(np.mean((fa[0] - fa[1]) ** 2)))}


def fractional_anisotropy(signals: np.ndarray, b_values: Array, directions: Array) -> Array:
    """(n,) of signals (n, volumes): tensors by least squares of the logarithms (Basser et al. 1994)."""
    x, y, z = directions.T
    design = np.column_stack(
        [
            np.ones_like(x),
            *(-b_values * own for own in (x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z)),
        ]
    )
    logs = np.log(np.maximum(signals, 1e-3 * float(signals.max())))
    a, b, c, d, e, f = np.linalg.lstsq(design, logs.T.astype(np.float64), rcond=None)[0][1:]
    tensors = np.stack([np.stack(row, -1) for row in ((a, d, e), (d, b, f), (e, f, c))], -2)
    values = np.maximum(np.linalg.eigvalsh(tensors), 0)
    spread = ((values - values.mean(1, keepdims=True)) ** 2).sum(1)
    return np.asarray(np.sqrt(1.5 * spread / np.maximum((values**2).sum(1), 1e-30)))


def one_case(own: Head, case: str, noise: float, restored: bool) -> dict[str, Any]:
    shown = protocol()
    centre = own.guides.frame.centre_mm.numpy()
    moved = motions(len(shown.b_values), case, centre)
    series = acquired(own.tissue, own.world, shown, moved, noise)
    dropped: set[tuple[int, int]] = set()
    if case == "lost":
        series, dropped = with_dropout(series, 0.02, 0.3)
    before = placed_reference(own, series, shown.kinds)
    start = time.perf_counter()
    after, motion = with_motion(
        before,
        series,
        shown.kinds,
        shown.directions @ world_axes(own.world),
        own.guides,
        SETTINGS,
        QUIET,
    )
    if after is not before:
        (after,) = calibrated([replace(after, calibration=None)], own.guides, SETTINGS, QUIET)
    seconds = time.perf_counter() - start
    assert motion is not None
    off = motion_errors_mm(own, motion, shown.kinds, moved)
    lost = {(v, k) for v, slices in enumerate(motion.lost) for k in slices}
    truly = [v for v, m in enumerate(moved) if not np.array_equal(m, np.eye(4))]
    row: dict[str, Any] = {
        "case": case,
        "noise": noise,
        "volumes": len(moved),
        "moved": len(truly),
        "found": len(motion.moved),
        "without": float(errors_mm(own, before, None, moved).mean()),
        "off": float(off.mean()),
        "most": float(off.max()),
        "to_anchor": float(errors_mm(own, after, motion, moved).mean()),
        "said": float(np.mean(motion.errors_mm)),
        "lost": len(dropped),
        "named": len(lost & dropped),
        "falsely": len(lost - dropped),
        "seconds": seconds,
    }
    if restored:
        for name, stack, known in (("without", before, None), ("with", after, motion)):
            row |= {f"{key}_{name}": value for key, value in scores(own, shown, series, stack, known).items()}
    return row


COLUMNS = {
    "case": "head",
    "noise": "noise, %",
    "moved": "volumes moved",
    "found": "found",
    "without": "off without, mm",
    "off": "off, mm",
    "most": "largest",
    "lost": "slices lost",
    "named": "named",
    "falsely": "falsely",
    "db_without": "without, dB",
    "db_with": "with, dB",
    "fa_without": "FA error without",
    "fa_with": "with",
}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as docs/benchmarks.md has them."""
    head = "| " + " | ".join(COLUMNS.values()) + " |\n" + "|---" * len(COLUMNS) + "|\n"
    return head + "".join(line(row) + "\n" for row in rows)


def line(row: dict[str, Any]) -> str:
    values = [row.get(name, "") for name in COLUMNS]
    shown = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
    return "| " + " | ".join(shown) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 1.0, 3.0])
    parser.add_argument("--cases", nargs="+", default=["still", "some", "all", "lost"])
    parser.add_argument("--positions-only", action="store_true", help="do not restore")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = options.scans / "stroke"
    if not folder.exists():
        print(f"{folder} is not there: skipped")
        return
    own, rows = head_of(folder), []
    for case in options.cases:
        for noise in options.noise:
            rows.append(one_case(own, case, noise, not options.positions_only))
            print(line(rows[-1]), json.dumps(rows[-1]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

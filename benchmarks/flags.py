"""Whether what is wrong is flagged where it is, and nothing else: lesions, and regions that are shifted.

    python benchmarks/flags.py --scans DIR --cases clean lesions --out OUT [--crop] [--heads 2]
    python benchmarks/flags.py --scans DIR --cases aligned bump block --out OUT
    python benchmarks/flags.py --document OUT/flags.json     # into docs/measured and docs/study.md

DIR (or DIR/stroke) holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz: brain-extracted, isotropic, on one grid.

``clean``, ``lesions``: slices are simulated and go through ``restore`` with its defaults, position and
profile found, not told. Of the head as it is: how many regions are flagged, and their part of it; what
differs between the scans of this brain by itself (there is a stroke in it) counts. With lesions
(study/simulation/lesions.py): of each kind and size how many are flagged, one voxel of the ball being enough;
of those that the target has, also how many the image misses by more than half (volume above half the
contrast), and how many of these are flagged.

``aligned``, ``bump``, ``block``: the shifts of the patches alone, of the whole head in the position of its
headers, which is true, with the true profile. A bump of 6 mm along y in the forehead as an echo-planar image
has it; a block of 24 mm radius moved by 2 mm through the slices. Of patches that are truly off by more than
1.5 mm how many are named, and of those within 0.5 mm.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from distortion import acquired_through
from documents import DOCS, put_between, stored, with_row
from lesions import AXIS, FILES, load_head, noisy_slices, scans_folder, wanted
from scipy import ndimage

from atlasgs_bids.core.local_shifts import LocalShifts
from atlasgs_bids.imaging.nifti import to_nifti
from atlasgs_bids.imaging.profile import profile_of
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.flags import CONTRADICTED
from atlasgs_bids.restoration.guides import Guides
from atlasgs_bids.restoration.images import Result
from atlasgs_bids.restoration.patches import shifts_of
from atlasgs_bids.restoration.restore import fit_scaffold, resolved, restore
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import StackInput, place
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.results.lesion_scores import NullSpace, score_lesions
from atlasgs_bids.study.simulation.degrade import Degradation
from atlasgs_bids.study.simulation.lesions import DIAMETERS_MM, KINDS, Implanted, implant, place_lesions

BUMP_MM, BUMP_SIGMA, FOREHEAD = 6.0, 18.0, np.array([0.0, 50.0, 0.0])
BLOCK_MM, BLOCK_RADIUS, BLOCK_EDGE, BLOCK_AT = 2.0, 24.0, 2.5, np.array([-28.0, -20.0, 10.0])
"""mm and voxels of 1 mm, from the head's centre."""
OFF_MM, STILL_MM = 1.5, 0.5
LOST = 0.5
RESTORED, SHIFTED = ("clean", "lesions"), ("aligned", "bump", "block")


def main() -> int:
    options = parse_options()
    if options.document is not None:
        document(options.document)
        return 0
    scans = scans_folder(options.scans)
    if scans is None:
        return 0
    settings = resolved(RestorationSettings(device=options.device, prior=options.prior))
    if set(options.cases) & set(RESTORED):
        restored_cases(scans, options, settings)
    for case in options.cases:
        if case in SHIFTED:
            add(options.out, shifted_case(case, scans, options, settings))
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Sensitivity and false alarms of what is flagged.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--scans", type=Path, help="folder with {T1,T2,FLAIR}.nii.gz")
    what.add_argument("--document", type=Path, metavar="JSON", help="what was measured, into the documents")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--cases", nargs="+", choices=(*RESTORED, *SHIFTED), default=["clean", "lesions"])
    parser.add_argument("--target", choices=FILES, default="FLAIR")
    parser.add_argument("--factor", type=int, default=5)
    parser.add_argument("--noise", type=float, default=1.0, help="percent of the target's 99th percentile")
    parser.add_argument("--prior", choices=["graph", "learned"], default="graph")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--heads", type=int, default=2, help="sets of lesions, each a restoration")
    parser.add_argument("--crop", action="store_true", help="the middle of the head only, for a CPU")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def setting_of(case: str, options: argparse.Namespace, head: int | None = None) -> dict[str, Any]:
    """What tells one row from the others."""
    prior = options.prior if case in RESTORED else None
    return {
        "case": case, "target": options.target, "factor": options.factor, "noise": options.noise,
        "prior": prior, "head": head,
    }  # fmt: skip


def restored_cases(scans: Path, options: argparse.Namespace, settings: RestorationSettings) -> None:
    head, white, affine = load_head(scans, options)
    clean, seconds = seen(head.anchor, head.target, affine, options, settings)
    flags = clean.target.flags
    assert flags is not None
    if "clean" in options.cases:
        voxels = int(((head.anchor > 0) & clean.target.fov).sum())
        add(options.out, setting_of("clean", options) | counts(clean, voxels) | {"seconds": seconds})
    if "lesions" not in options.cases:
        return
    null_space = NullSpace(Degradation("paper", AXIS, options.factor), head.target.shape[AXIS])
    for number in range(options.heads):
        rng = np.random.default_rng(options.seed + number)
        lesions = place_lesions(white, head.fluid, wanted(number, rng), AXIS, options.factor, rng)
        implanted = implant(head, lesions)
        result, seconds = seen(implanted.anchor, implanted.target, affine, options, settings)
        scores = score_lesions(implanted, result.target.sr, clean.target.sr, null_space)
        found = found_lesions(implanted, result, [score.volume < LOST for score in scores])
        add(options.out, setting_of("lesions", options, number) | found | {"seconds": seconds})


def seen(
    anchor: np.ndarray,
    target: np.ndarray,
    affine: np.ndarray,
    options: argparse.Namespace,
    settings: RestorationSettings,
) -> tuple[Result, float]:
    """The restored slices of the target, and how long it took; the noise is always the same."""
    slices, world_from_slices = noisy_slices(target, affine, options)
    started = time.perf_counter()
    brain = to_nifti((anchor > 0).astype(np.uint8), affine, np.uint8)
    scaffold = fit_scaffold(to_nifti(anchor, affine), settings, brain_mask=brain)
    found = restore(
        scaffold, to_nifti(slices, world_from_slices), thickness_mm=float(options.factor), settings=settings
    )
    assert isinstance(found, Result)
    return found, time.perf_counter() - started


def counts(result: Result, n_voxels: int) -> dict[str, Any]:
    """Contradicted regions, and the part of the head that they hold."""
    flags = result.target.flags
    assert flags is not None
    return {
        "contradicted": len(flags.of(CONTRADICTED)),
        "contradicted_part": float((flags.labels == CONTRADICTED).sum() / n_voxels),
    }


def found_lesions(implanted: Implanted, result: Result, lost: Sequence[bool]) -> dict[str, Any]:
    """By kind and size: how many there are, are flagged, are lost, are both; and flags away from them."""
    flags = result.target.flags
    assert flags is not None
    flagged = flags.labels == CONTRADICTED
    rows: dict[str, dict[str, list[int]]] = {}
    near = np.zeros(flagged.shape, bool)
    for lesion, is_lost in zip(implanted.lesions, lost, strict=True):
        box = lesion.box(flagged.shape)
        hit = bool((flagged[box] & lesion.ball(flagged.shape)).any())
        near[box] |= lesion.ball(flagged.shape)
        cell = rows.setdefault(lesion.kind, {}).setdefault(f"{lesion.diameter_mm:g}", [0, 0, 0, 0])
        for column, value in enumerate((1, hit, is_lost, is_lost and hit)):
            cell[column] += int(value)
    near = ndimage.binary_dilation(near, iterations=implanted_reach(result))
    clusters, n = ndimage.label(flagged, np.ones((3, 3, 3)))
    touching = np.setdiff1d(np.unique(clusters[near]), [0])
    return {"lesions": rows, "elsewhere": int(n - len(touching))}


def implanted_reach(result: Result) -> int:
    """Voxels around a lesion that a slice through it shows."""
    return round(result.target.stacks[0].source.geometry.spacing_mm)


def shifted_case(
    case: str, scans: Path, options: argparse.Namespace, settings: RestorationSettings
) -> dict[str, Any]:
    """How many patches are named, of those that are off and of those that are not."""
    options = argparse.Namespace(**{**vars(options), "crop": False})
    head, _, affine = load_head(scans, options)
    field, along = field_of(case, head.anchor)
    target = head.target
    if case == "bump":
        target = np.maximum(acquired_through(head.target.astype(np.float64), field), 0).astype(np.float32)
    elif case == "block":
        source = np.indices(target.shape).astype(float)
        source[along] -= field
        target = np.maximum(ndimage.map_coordinates(target, source, order=3), 0).astype(np.float32)
    slices, world_from_slices = noisy_slices(target, affine, options)
    geometry = slice_geometry(slices.shape, world_from_slices, {}, float(options.factor))
    profile = profile_of(*Degradation("paper", AXIS, options.factor).profile(1.0))
    known = replace(settings, registration="header", slice_profile=profile)
    anchor = anchor_of(Volume(head.anchor, affine), Volume((head.anchor > 0).astype(np.float32), affine))
    placed = place(
        StackInput("slices", geometry), Volume(slices, world_from_slices), anchor, known, Progress.quiet()
    )
    started = time.process_time()
    (shifts,) = shifts_of([placed], Guides(anchor), known)
    seconds = time.process_time() - started
    return setting_of(case, options) | named(shifts, field, affine) | {"seconds": seconds}


def field_of(case: str, anchor: np.ndarray) -> tuple[np.ndarray, int]:
    """Displacement in voxels of 1 mm, and the voxel axis along which."""
    centre = np.array(ndimage.center_of_mass(anchor > 0))
    index = np.indices(anchor.shape).astype(float)
    if case == "bump":
        squares = ((index - (centre + FOREHEAD)[:, None, None, None]) ** 2).sum(0)
        return BUMP_MM * np.exp(-squares / (2 * BUMP_SIGMA**2)), 1
    if case == "block":
        distance = np.sqrt(((index - (centre + BLOCK_AT)[:, None, None, None]) ** 2).sum(0))
        return BLOCK_MM / (1 + np.exp((distance - BLOCK_RADIUS) / BLOCK_EDGE)), AXIS
    return np.zeros(anchor.shape), AXIS


def named(shifts: LocalShifts, field: np.ndarray, affine: np.ndarray) -> dict[str, Any]:
    told = np.isfinite(shifts.error_mm)
    centres_mm = shifts.first_mm + shifts.step_mm * (np.argwhere(told) + 0.5)
    centres_vox = (centres_mm - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    true = np.abs(ndimage.map_coordinates(field, centres_vox.T, order=1, mode="nearest"))
    found, length = shifts.found[told], np.linalg.norm(shifts.shift_mm[told], axis=1)
    return {
        "patches": int(told.sum()),
        "off": int((true > OFF_MM).sum()),
        "off_found": int(found[true > OFF_MM].sum()),
        "still": int((true < STILL_MM).sum()),
        "still_found": int(found[true < STILL_MM].sum()),
        "longest_mm": float(length[true < STILL_MM].max()),
    }


def add(out_dir: Path, row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)
    setting = ("case", "target", "factor", "noise", "prior", "head")
    with_row(out_dir / "flags.json", row, setting, setting, 1)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: lesions by kind and size, heads as they are, and shifts."""
    return "\n".join([*lesion_lines(rows), "", *clean_lines(rows), "", *shift_lines(rows)]) + "\n"


def case_of(row: dict[str, Any]) -> str:
    prior = f"{row['prior']} " if row["prior"] else ""
    return f"{prior}{row['target']} ×{row['factor']} {row['noise']:g} %"


def lesion_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Flagged / lesions; of those that the target has, in brackets flagged / lost."""
    sizes = [f"{size:g}" for size in DIAMETERS_MM]
    lines = ["| | " + " | ".join(f"{size} mm" for size in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    of_lesions = [row for row in rows if row["case"] == "lesions"]
    for case in dict.fromkeys(case_of(row) for row in of_lesions):
        own = [row["lesions"] for row in of_lesions if case_of(row) == case]
        for kind in KINDS:
            cells = []
            for size in sizes:
                found = np.sum([lesions.get(kind, {}).get(size, [0] * 4) for lesions in own], axis=0)
                n, hit, lost, both = (int(value) for value in found)
                in_brackets = f" ({both}/{lost})" if KINDS[kind].in_target and lost else ""
                cells.append(f"{hit}/{n}{in_brackets}" if n else "")
            lines.append(f"| {case}: {kind} | " + " | ".join(cells) + " |")
    return lines


def clean_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["| head as it is | contradicted | part of it |", "|---|---|---|"]
    return lines + [
        f"| {case_of(row)} | {row['contradicted']} | {100 * row['contradicted_part']:.2f} % |"
        for row in rows
        if row["case"] == "clean"
    ]


def shift_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["| patches | off, named | still, named | longest of these |", "|---|---|---|---|"]
    return lines + [
        f"| {row['case']} {case_of(row)} | {row['off_found']} of {row['off']} | {row['still_found']} of "
        f"{row['still']} | {row['longest_mm']:.1f} mm |"
        for row in rows
        if row["case"] in SHIFTED
    ]


def document(measured: Path) -> None:
    """The rows into docs/measured, their tables between the marks in docs/study.md."""
    rows = json.loads(measured.read_text(encoding="utf-8"))
    stored(rows, "flags.json")
    put_between(DOCS / "study.md", "flags", table(rows))


if __name__ == "__main__":
    sys.exit(main())

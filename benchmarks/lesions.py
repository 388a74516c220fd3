"""Lesions implanted into a real head, restored as the app comes, scored in what the slices do not fix.

    python benchmarks/lesions.py --scans DIR --out OUT                     # graph, on a CPU
    python benchmarks/lesions.py --scans DIR --prior learned --out OUT     # learned, on a GPU
    python benchmarks/lesions.py --document JSON     # its tables into docs/measured and docs/study.md

DIR (or DIR/stroke) holds T1.nii.gz, T2.nii.gz and FLAIR.nii.gz: brain-extracted, isotropic, on one grid. Some
70 lesions (study/simulation/lesions.py) are put into one head, in T1w, target or both; slices are simulated,
with noise; T1w and slices go through ``restore`` with its defaults: position and slice profile are found, not
told. So does the head without lesions, once, with the same noise. Cubic and spline interpolation are told the
true position, the spline the true profile as well.

OUT/lesions-TARGET-xFACTOR-PRIOR.json has the cells (study/results/lesion_cells.py says what is in them) and
the bars that are missed, -each.json the scores of each lesion, .md the tables.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from documents import DOCS, put_between, stored
from scipy import ndimage

from atlasgs_bids import __version__
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_volume, to_nifti
from atlasgs_bids.imaging.profile import profile_of
from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm
from atlasgs_bids.restoration.images import Result
from atlasgs_bids.restoration.restore import fit_scaffold, resolved, restore
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.study.methods.spline import splined
from atlasgs_bids.study.results.lesion_cells import (
    DOCUMENTED,
    LesionCell,
    cells_from,
    cells_of,
    lesion_table,
    missed_bars,
)
from atlasgs_bids.study.results.lesion_scores import LesionScore, NullSpace, score_lesions
from atlasgs_bids.study.simulation.degrade import Degradation, with_rician_noise
from atlasgs_bids.study.simulation.lesions import (
    DIAMETERS_MM,
    KINDS,
    PHASES,
    Head,
    Implanted,
    Levels,
    Wish,
    implant,
    place_lesions,
    wishes,
)

AXIS = 2
T1_LEVELS = Levels(white=170, fluid=25, lesion=230)
LEVELS = {"FLAIR": Levels(white=114, fluid=30, lesion=190), "T2w": Levels(white=95, fluid=330, lesion=230)}
"""Of the stroke scan: medians of white matter and fluid, and what lesions are given."""
FILES = {"FLAIR": "FLAIR", "T2w": "T2"}
WHITE_ABOVE, FLUID_BELOW = 140, 50
"""Of the T1w, smoothed by 0.7 voxel."""
CROP = (slice(14, 110), slice(24, 136), slice(20, 130))


@dataclass(frozen=True)
class Seen:
    """One image of the target by each method, and where the program says that slices and prior disagree."""

    images: dict[str, np.ndarray]
    disagrees: np.ndarray
    seconds: float


def main() -> int:
    options = parse_options()
    if options.document is not None:
        document(options.document)
        return 0
    scans = scans_folder(options.scans)
    if scans is None:
        return 0
    head, white, affine = load_head(scans, options)
    settings = resolved(RestorationSettings(device=options.device, prior=options.prior))
    settings = replace(settings, estimate_uncertainty=False)  # the image does not depend on it
    degradation = Degradation("paper", AXIS, options.factor)
    without = see(head.anchor, head.target, affine, degradation, options, settings)
    print(f"without lesions: {without.seconds:.0f} s", flush=True)
    null_space = NullSpace(degradation, head.target.shape[AXIS])
    scores: dict[str, list[LesionScore]] = {name: [] for name in without.images}
    heads = []
    rng = np.random.default_rng(options.seed)
    for number in range(options.heads):
        lesions = place_lesions(white, head.fluid, wanted(number, rng), AXIS, options.factor, rng)
        implanted = implant(head, lesions)
        seen = see(implanted.anchor, implanted.target, affine, degradation, options, settings)
        for name, image in seen.images.items():
            flags = seen.disagrees if name == options.prior else None
            scores[name] += score_lesions(implanted, image, without.images[name], null_space, flags)
        outside = flagged_outside(implanted, seen.disagrees, null_space)
        heads.append({"n_lesions": len(lesions), "seconds": seen.seconds, "flagged_outside": outside})
        print(
            f"head {number}: {len(lesions)} lesions, {seen.seconds:.0f} s, flagged outside {outside:.5f}",
            flush=True,
        )
    write(options, scores, heads, settings.device)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Lesions in a real head, scored in the null space.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--scans", type=Path, help="folder with {T1,T2,FLAIR}.nii.gz")
    what.add_argument("--document", type=Path, metavar="JSON", help="what was measured, into the documents")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output"))
    parser.add_argument("--target", choices=FILES, default="FLAIR")
    parser.add_argument("--factor", type=int, default=5)
    parser.add_argument("--noise", type=float, default=1.0, help="percent of the target's 99th percentile")
    parser.add_argument("--prior", choices=["graph", "learned"], default="graph")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--heads", type=int, default=4, help="sets of lesions, each a restoration")
    parser.add_argument("--crop", action="store_true", help="the middle of the head only, for a CPU")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.device == "auto" and options.prior == "graph":
        options.device = "cpu"
    return options


def load_head(scans: Path, options: argparse.Namespace) -> tuple[Head, np.ndarray, np.ndarray]:
    """The scan, its white matter, and its affine."""
    t1w, target = (load_volume(scans / f"{name}.nii.gz") for name in ("T1", FILES[options.target]))
    middle = CROP if options.crop else (slice(None),) * 3
    anchor, image = (np.ascontiguousarray(volume.data[middle]) for volume in (t1w, target))
    smooth = ndimage.gaussian_filter(anchor, 0.7)
    fluid = (smooth < FLUID_BELOW) & (anchor > 0)
    affine = t1w.world_from_voxel.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start or 0 for part in middle]
    return Head(anchor, image, T1_LEVELS, LEVELS[options.target], fluid), smooth > WHITE_ABOVE, affine


def wanted(number: int, rng: np.random.Generator) -> list[Wish]:
    """Two of each kind and size, of other phases in every head; of the largest one."""
    phases = [PHASES[(2 * number + own) % len(PHASES)] for own in range(2)]
    largest = max(DIAMETERS_MM)
    smaller = [size for size in DIAMETERS_MM if size < largest]
    return [
        *wishes(list(KINDS), [largest], [PHASES[number % len(PHASES)]], rng),
        *wishes(list(KINDS), smaller, phases, rng),
    ]


def scans_folder(scans: Path) -> Path | None:
    """The folder, or the stroke scan's in it; None, said, where there is no scan."""
    folder = scans / "stroke" if (scans / "stroke").is_dir() else scans
    if (folder / "T1.nii.gz").exists():
        return folder
    print(f"skipped: {folder} has no T1.nii.gz; give the scan's folder with --scans")
    return None


def noisy_slices(
    target: np.ndarray, affine: np.ndarray, options: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray]:
    """Slices of the target and their world_from_voxel; the noise is always the same."""
    slices, world_from_slices = Degradation("paper", AXIS, options.factor).slices(target, affine)
    noise_sd = options.noise / 100 * float(np.percentile(target[target > 0], 99))
    return with_rician_noise(slices, noise_sd, np.random.default_rng(options.seed)), world_from_slices


def see(
    anchor: np.ndarray,
    target: np.ndarray,
    affine: np.ndarray,
    degradation: Degradation,
    options: argparse.Namespace,
    settings: RestorationSettings,
) -> Seen:
    """What each method makes of the slices of the target; the noise is always the same."""
    slices, world_from_slices = noisy_slices(target, affine, options)
    voxel_mm = float(voxel_sizes_mm(affine)[AXIS])
    started = time.monotonic()
    brain = to_nifti((anchor > 0).astype(np.uint8), affine, np.uint8)
    scaffold = fit_scaffold(to_nifti(anchor, affine), settings, brain_mask=brain)
    stack = to_nifti(slices, world_from_slices)
    restored = restore(scaffold, stack, thickness_mm=options.factor * voxel_mm, settings=settings)
    assert isinstance(restored, Result)
    seconds = time.monotonic() - started
    volume = Volume(slices, world_from_slices)
    lines = splined(volume, AXIS, profile_of(*degradation.profile(voxel_mm)), voxel_mm)
    grid = restored.target.grid
    images = {
        "cubic": resample(volume, grid, np.eye(4), order=3),
        "spline": resample(lines, grid, np.eye(4), order=3),
        options.prior: restored.target.sr,
    }
    return Seen(images, restored.target.stacks[0].disagrees, seconds)


def flagged_outside(implanted: Implanted, disagrees: np.ndarray, null_space: NullSpace) -> float:
    """Part of the slices' voxels away from every lesion, in the head, that are flagged."""
    away = implanted.healthy.target > 0
    for lesion in implanted.lesions:
        away[lesion.box(away.shape)] = False
    own = null_space.slices(away) > 0.99
    return float(disagrees[own].mean())


def write(
    options: argparse.Namespace, scores: Mapping[str, Sequence[LesionScore]], heads: list[Any], device: str
) -> None:
    """The cells, the bars that are missed and every lesion's scores as JSON; the table as Markdown."""
    cells = cells_of(scores)
    missed = {name: missed_bars(*(of(cells, own) for own in (name, "cubic"))) for name in scores}
    setting = {
        "target": options.target,
        "factor": options.factor,
        "noise_percent": options.noise,
        "prior": options.prior,
        "crop": options.crop,
        "device": device,
        "seed": options.seed,
        "heads": heads,
        "versions": {name: version(name) for name in ("torch", "numpy")} | {"atlasgs": __version__},
    }
    content = {
        "setting": setting,
        "missed_bars": missed,
        "cells": [asdict(cell) for cell in cells],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    stem = f"lesions-{options.target}-x{options.factor}-{options.prior}"
    table = lesion_table(cells)
    (options.out / f"{stem}.md").write_text(table, encoding="utf-8")
    path = options.out / f"{stem}.json"
    path.write_text(json.dumps(plain(content), indent=1) + "\n", encoding="utf-8")
    lesions = {name: [plain(asdict(score)) for score in own] for name, own in scores.items()}
    (options.out / f"{stem}-each.json").write_text(json.dumps(lesions) + "\n", encoding="utf-8")
    print(table)
    for name, bars in missed.items():
        for bar, said in bars.items():
            print(f"{name} misses {bar}:", *said, sep="\n  ")
    print(path)


def document(measured: Path) -> None:
    """The cells into docs/measured, their tables between the marks of that name in docs/study.md."""
    content = json.loads(measured.read_text(encoding="utf-8"))
    page = DOCS / "study.md"
    print(stored(content, measured.name))
    put_between(page, measured.stem, lesion_table(cells_from(content["cells"]), DOCUMENTED))
    print(page)


def of(cells: Sequence[LesionCell], method: str) -> list[LesionCell]:
    return [cell for cell in cells if cell.method == method]


def plain(content: Any) -> Any:
    """For JSON: NaN is null, and four digits tell all that was measured."""
    if isinstance(content, Mapping):
        return {name: plain(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    if isinstance(content, float):
        return None if math.isnan(content) else float(f"{content:.4g}")
    return content


if __name__ == "__main__":
    sys.exit(main())

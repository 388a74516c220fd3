"""Scores of many lesions -> a cell for each size, kind and method, and the bars that they have to meet."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlasgs_bids.study.results.lesion_scores import LesionScore
from atlasgs_bids.study.simulation.lesions import KINDS, SHOWN_NOWHERE

DRAWN_MEAN, DRAWN_WORST = 0.2, 0.4
"""What may be drawn of a lesion that the target does not have, in its null-space RMS."""
KEPT_LESS, KEPT_MOST = 0.1, 1.2
"""How much less of a lesion's null space than cubic interpolation an image may have; and the most of it."""
FLAGGED = 0.05
"""Part of a lesion's voxels from which it counts as found by the program."""


@dataclass(frozen=True)
class LesionCell:
    """Lesions of one kind and size, restored by one method.

    ``error``, ``own_error``, ``leak`` and ``kept`` are of all of them together, since the phase at which a
    lesion lies in a slice decides how much of it is in the null space; the others are means.
    """

    kind: str
    diameter_mm: float
    method: str
    n: int
    power: float
    """Of all of them: what a mean over cells weighs them by."""
    error: float
    leak: float
    own_error: float
    worst_own_error: float
    drawn: float
    """Mean of the lesions' own errors: of a decoy or control, what was made of it."""
    kept: float
    peak: float
    volume: float
    volume_bias: float
    """|mean volume − 1|; of what the target does not have, the volume itself."""
    seen: float
    """Part of them whose change comes to half the lesion's contrast along its axis."""
    end_error_mm: float
    """Of those that are seen."""
    flagged: float
    """Part of the slices' voxels in the ball in which the program says that slices and prior disagree."""
    found: float
    """Part of the lesions of which that is at least 5 %."""


def cells_of(scores: Mapping[str, Iterable[LesionScore]]) -> list[LesionCell]:
    """By method, kind and size."""
    groups: dict[tuple[str, float, str], list[LesionScore]] = {}
    for method, own in scores.items():
        for score in own:
            groups.setdefault((score.lesion.kind, score.lesion.diameter_mm, method), []).append(score)
    kinds, methods = list(KINDS), list(scores)
    ordered = sorted(groups, key=lambda own: (kinds.index(own[0]), own[1], methods.index(own[2])))
    return [_cell(*key, groups[key]) for key in ordered]


def _cell(kind: str, diameter_mm: float, method: str, scores: Sequence[LesionScore]) -> LesionCell:
    def mean(value: Callable[[LesionScore], float]) -> float:
        values = np.array([value(score) for score in scores])
        known = values[~np.isnan(values)]
        return float(known.mean()) if known.size else math.nan

    power = np.array([score.power for score in scores])

    def together(value: Callable[[LesionScore], float]) -> float:
        return float((power * [value(score) for score in scores]).sum() / power.sum())

    volume = mean(lambda score: score.volume)
    return LesionCell(
        kind=kind,
        diameter_mm=diameter_mm,
        method=method,
        n=len(scores),
        power=float(power.sum()),
        error=math.sqrt(together(lambda score: score.error**2)),
        leak=together(lambda score: score.leak),
        own_error=math.sqrt(together(lambda score: score.own_error**2)),
        worst_own_error=max(score.own_error for score in scores),
        drawn=mean(lambda score: score.own_error),
        kept=together(lambda score: score.kept),
        peak=mean(lambda score: score.peak),
        volume=volume,
        volume_bias=abs(volume) if kind in SHOWN_NOWHERE else abs(volume - 1),
        seen=mean(lambda score: float(not math.isnan(score.end_error_mm))),
        end_error_mm=mean(lambda score: score.end_error_mm),
        flagged=mean(lambda score: score.flagged),
        found=mean(lambda score: math.nan if math.isnan(score.flagged) else float(score.flagged >= FLAGGED)),
    )


def missed_bars(cells: Sequence[LesionCell], cubic: Sequence[LesionCell]) -> dict[str, list[str]]:
    """By bar, what an image gets wrong that it must not, in words; a bar that is met is absent.

    Of what the target shows, ``error``, ``own_error`` and ``volume_bias`` are at most those of cubic
    interpolation, at any size; ``kept``, over all sizes, is not more than 0.1 below its, nor above 1.2. Of
    what the target does not show, ``drawn`` is at most 0.2 on average and 0.4 at worst, and ``kept``, the
    part of the lesion itself in that, at most 0.2; ``leak``, to which anatomy adds, at most 0.4.
    """
    missed: dict[str, list[str]] = {}
    kinds = dict.fromkeys(cell.kind for cell in cells)
    for kind in kinds:
        own, other = ([cell for cell in each if cell.kind == kind] for each in (cells, cubic))
        for bar, said in _drawn(own) if kind in SHOWN_NOWHERE else _changed(own, other):
            missed.setdefault(bar, []).append(f"{kind}{said}")
    return missed


def _drawn(cells: Sequence[LesionCell]) -> Iterator[tuple[str, str]]:
    mean = sum(cell.n * cell.drawn for cell in cells) / sum(cell.n for cell in cells)
    if mean > DRAWN_MEAN:
        yield "drawn", f": {mean:.2f} on average, expected {DRAWN_MEAN}"
    for cell in cells:
        if cell.worst_own_error > DRAWN_WORST:
            said = f"{cell.worst_own_error:.2f} at worst, expected {DRAWN_WORST}"
            yield "drawn", f" of {cell.diameter_mm:g} mm: {said}"
    for bar, most in (("kept", DRAWN_MEAN), ("leak", DRAWN_WORST)):
        part = _over_sizes(cells, bar)
        if abs(part) > most:
            yield bar, f": {part:.2f}, expected {most} of a lesion that is not there"


def _changed(cells: Sequence[LesionCell], cubic: Sequence[LesionCell]) -> Iterator[tuple[str, str]]:
    by_size = {cell.diameter_mm: cell for cell in cubic}
    for cell in cells:
        for bar in ("error", "own_error", "volume_bias"):
            own, allowed = getattr(cell, bar), getattr(by_size[cell.diameter_mm], bar)
            if own > allowed:
                yield bar, f" of {cell.diameter_mm:g} mm: {own:.2f}, cubic {allowed:.2f}"
    kept, of_cubic = (
        sum(c.power * c.kept for c in own) / sum(c.power for c in own) for own in (cells, cubic)
    )
    if not of_cubic - KEPT_LESS <= kept <= KEPT_MOST:
        yield "kept", f": {kept:.2f}, cubic {of_cubic:.2f}"


def _over_sizes(cells: Sequence[LesionCell], name: str) -> float:
    return float(sum(cell.power * getattr(cell, name) for cell in cells) / sum(cell.power for cell in cells))


DOCUMENTED = ("own_error", "error", "kept", "volume", "end_error_mm", "found")
"""In docs/study.md."""
TABLES = {
    "own_error": "RMS in the null space of what is wrong by the lesion, over the lesion's own",
    "error": "the same of image − truth, anatomy and noise included",
    "kept": "part of the lesion's null space that the image has",
    "peak": "largest change over the lesion's",
    "volume": "volume above half the contrast, over the lesion's",
    "end_error_mm": "mean error of the ends along the slice axis, mm, of those that are seen",
    "seen": "part of the lesions that come to half their contrast along the axis",
}
DETECTION = {
    "flagged": "part of the slices' voxels in the lesion that are flagged",
    "found": "part of the lesions with at least 5 % of their voxels flagged",
}


def lesion_table(cells: Sequence[LesionCell], quantities: Sequence[str] = (*TABLES, *DETECTION)) -> str:
    """Markdown: for each quantity a table of kinds and sizes, the methods side by side."""
    methods = list(dict.fromkeys(cell.method for cell in cells))
    parts = [_table("n, lesions in a cell", cells, methods[:1], "n")]
    for name in quantities:
        own = methods[-1:] if name in DETECTION else methods
        title = f"`{name}`, {(TABLES | DETECTION)[name]}; {' / '.join(own)}"
        parts.append(_table(title, cells, own, name))
    return "\n".join(parts)


def cells_from(records: Iterable[Mapping[str, Any]]) -> list[LesionCell]:
    """Cells as they were written to JSON, in which NaN is null."""
    cells = []
    for record in records:
        values: dict[str, Any] = {name: math.nan if own is None else own for name, own in record.items()}
        cells.append(LesionCell(**values))
    return cells


def _table(title: str, cells: Sequence[LesionCell], methods: Sequence[str], name: str) -> str:
    sizes = sorted({cell.diameter_mm for cell in cells})
    at = {(cell.kind, cell.diameter_mm, cell.method): cell for cell in cells}

    def entry(kind: str, size: float) -> str:
        own = [at[kind, size, method] for method in methods if (kind, size, method) in at]
        return " / ".join(_number(getattr(cell, name)) for cell in own)

    kinds = dict.fromkeys(cell.kind for cell in cells)
    rows = [f"| {kind} | " + " | ".join(entry(kind, size) for size in sizes) + " |" for kind in kinds]
    heading = "| | " + " | ".join(f"{size:g} mm" for size in sizes) + " |"
    rule = "|---|" + "---|" * len(sizes)
    return "\n".join([f"{title}:", "", heading, rule, *rows, ""])


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "–" if math.isnan(value) else f"{value:.2f}"

"""The summary of a study as Markdown and as LaTeX."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from atlasgs_bids.study.results.oblique import ANGLES_DEG
from atlasgs_bids.study.results.tissues import CLASSES

_SHOWN = (("psnr", "PSNR, dB", 2), ("ssim_mask", "SSIM", 3), ("mae", "MAE", 2))
_MORE = (
    ("ssim_volume", "SSIM of the volume", 3),
    ("edge_ncc", "edge NCC", 3),
    ("consistency_rms", "consistency RMS", 2),
    ("sharpness", "sharpness along the slice axis", 2),
    ("invented", "patches invented, %", 1),
    ("erased", "patches erased, %", 1),
    *((f"dice_{name}", f"Dice of the {name} tissue", 3) for name in CLASSES),
    *((f"bias_{name}", f"volume bias of the {name} tissue", 3) for name in CLASSES),
    *((f"oblique_{angle}", f"PSNR at {angle} degrees, dB", 2) for angle in ANGLES_DEG),
    ("position_error", "position error, mm", 2),
    ("lesion_contrast", "lesion contrast", 2),
)
_COMPARED_WITH = ("cubic", "graph")
Row = Mapping[str, Any]


def markdown_table(summary: Sequence[Row], comparisons: Sequence[Row], not_run: Mapping[str, str]) -> str:
    """One table for each target, region and metric: methods as rows, factors as columns, n in each heading.

    Intervals are in brackets. Where there are several subjects, paired differences of PSNR follow.
    """
    parts = []
    for target, region in _places(summary):
        own = [row for row in summary if (row["target"], row["region"]) == (target, region)]
        factors = sorted({row["factor"] for row in own})
        for metric, name, digits in (*_SHOWN, *_MORE):
            table = _table(own, metric, digits, factors, lambda text, best: f"**{text}**" if best else text)
            if not table:
                continue
            n = numbers_of_subjects([row for row in own if row["metric"] == metric])
            parts += _titled(f"{target}, {region}: {name}; n = {n}", factors, table)
        parts += _difference_parts(comparisons, target, region)
    parts.append(_note(summary) + "\n")
    parts += [f"- not run: {method}: {reason}" for method, reason in not_run.items()]
    return "\n".join(parts).rstrip() + "\n"


def differences_from(comparisons: Sequence[Row], reference: str) -> list[Row]:
    """Rows of pairs with a method -> rows of the others minus it, as a summary's."""
    rows: list[Row] = []
    for row in comparisons:
        if reference not in (row["first"], row["second"]):
            continue
        is_second = row["second"] == reference
        sign = 1 if is_second else -1
        ends = (row["low"], row["high"]) if is_second else (-row["high"], -row["low"])
        method = row["first"] if is_second else row["second"]
        rows.append(
            {
                **row, "method": method, "mean": sign * row["difference"], "low": ends[0], "high": ends[1],
                "n_subjects": row["n"],
            }
        )  # fmt: skip
    return rows


def numbers_of_subjects(rows: Sequence[Row]) -> str:
    """``8``, or ``6 to 8`` where methods or factors differ."""
    return span([row["n_subjects"] for row in rows])


def span(numbers: Sequence[int]) -> str:
    """The one number, or the least and the largest."""
    return str(numbers[0]) if len(set(numbers)) == 1 else f"{min(numbers)} to {max(numbers)}"


def _difference_parts(comparisons: Sequence[Row], target: str, region: str) -> list[str]:
    parts = []
    for reference in _COMPARED_WITH:
        of_place = [r for r in comparisons if (r["target"], r["region"]) == (target, region)]
        own = [
            r
            for r in differences_from(of_place, reference)
            if (r["unit"], r["metric"]) == ("subjects", "psnr")
        ]
        factors = sorted({row["factor"] for row in own})
        table = _table(own, "psnr", 2, factors, lambda text, _best: text)
        if table:
            title = f"{target}, {region}: PSNR minus that of {reference}, dB; n = {numbers_of_subjects(own)}"
            parts += _titled(title, factors, table)
    return parts


def _titled(title: str, factors: Sequence[int], table: Sequence[Sequence[str]]) -> list[str]:
    """Heading and Markdown of a table with methods as rows and factors as columns."""
    heading = ["method", *(f"×{factor}" for factor in factors)]
    lines = [heading, ["---"] * len(heading), *table]
    return [f"### {title}\n", "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"]


def latex_table(summary: Sequence[Row]) -> str:
    """The same for PSNR, SSIM and MAE, with booktabs."""
    parts = []
    for target, region in _places(summary):
        own = [row for row in summary if (row["target"], row["region"]) == (target, region)]
        factors = sorted({row["factor"] for row in own})
        for metric, name, digits in _SHOWN:
            table = _table(
                own, metric, digits, factors, lambda text, best: rf"\textbf{{{text}}}" if best else text
            )
            if not table:
                continue
            n = numbers_of_subjects([row for row in own if row["metric"] == metric])
            parts += [
                rf"% {target}, {region}: {name}; n = {n}",
                rf"\begin{{tabular}}{{l{'r' * len(factors)}}}",
                r"\toprule",
                " & ".join(["method", *(rf"$\times {factor}$" for factor in factors)]) + r" \\",
                r"\midrule",
                *(" & ".join(cell.replace("_", r"\_") for cell in line) + r" \\" for line in table),
                r"\bottomrule",
                r"\end{tabular}",
                "",
            ]
    return "\n".join([*parts, f"% {_note(summary)}"]) + "\n"


def _places(summary: Sequence[Row]) -> list[tuple[str, str]]:
    places = dict.fromkeys((row["target"], row["region"]) for row in summary)
    return sorted(places, key=lambda place: (place[0], place[1] != "mask", place[1]))


def _table(
    own: Sequence[Row], metric: str, digits: int, factors: Sequence[int], mark: Callable[[str, bool], str]
) -> list[list[str]]:
    """Rows of text; the best of each factor is marked where more is better, or less."""
    found = {(r["method"], r["factor"]): r for r in own if r["metric"] == metric}
    if not found:
        return []
    better = {"psnr": max, "ssim_mask": max, "ssim_volume": max, "mae": min}.get(metric)
    lines = []
    for method in dict.fromkeys(row["method"] for row in own):
        line = [method]
        for factor in factors:
            row = found.get((method, factor))
            if row is None:
                line.append("–")
                continue
            of_factor = [r["mean"] for (_, f), r in found.items() if f == factor]
            best = better is not None and len(of_factor) > 1 and row["mean"] == better(of_factor)
            line.append(mark(f"{row['mean']:.{digits}f}", best) + _brackets(row, digits))
        lines.append(line)
    return lines


def _brackets(row: Row, digits: int) -> str:
    if not (np.isfinite(row["low"]) and np.isfinite(row["high"])):
        return ""
    return f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def _note(summary: Sequence[Row]) -> str:
    """What the intervals are of."""
    of_subjects = [row for row in summary if np.isfinite(row["low"]) and row["unit"] == "subjects"]
    if of_subjects:
        n = numbers_of_subjects(of_subjects)
        return f"n = {n} subjects; brackets: bootstrap 95 % intervals over them."
    return (
        "n = 1 subject; brackets: bootstrap 95 % intervals over its slices. Neighbouring slices are alike, "
        "and other subjects differ: the intervals say how even a method is within this brain, no more."
    )

"""The summary of a study as Markdown and as LaTeX."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_SHOWN = (("psnr", "PSNR, dB", 2), ("ssim_mask", "SSIM", 3), ("mae", "MAE", 2))
_MORE = (
    ("ssim_volume", "SSIM of the volume", 3),
    ("edge_ncc", "edge NCC", 3),
    ("consistency_rms", "consistency RMS", 2),
    ("lesion_contrast", "lesion contrast", 2),
)
Row = Mapping[str, Any]


def markdown_table(summary: Sequence[Row], not_run: Mapping[str, str]) -> str:
    """One table for each target and region: methods as rows, factors as columns, intervals in brackets."""
    parts = []
    for target, region in _places(summary):
        own = [row for row in summary if (row["target"], row["region"]) == (target, region)]
        factors = sorted({row["factor"] for row in own})
        for metric, name, digits in (*_SHOWN, *_MORE):
            table = _table(own, metric, digits, factors, lambda text, best: f"**{text}**" if best else text)
            if not table:
                continue
            heading = ["method", *(f"×{factor}" for factor in factors)]
            lines = [heading, ["---"] * len(heading), *table]
            parts.append(f"### {target}, {region}: {name}\n")
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    parts.append(_note(summary) + "\n")
    parts += [f"- not run: {method}: {reason}" for method, reason in not_run.items()]
    return "\n".join(parts).rstrip() + "\n"


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
            parts += [
                rf"% {target}, {region}: {name}",
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
    units = {row["unit"]: row["n"] for row in summary if np.isfinite(row["low"])}
    if "subjects" in units:
        return f"Brackets: bootstrap 95 % intervals over {units['subjects']} subjects."
    return (
        "Brackets: bootstrap 95 % intervals over the slices of one subject. Neighbouring slices are alike, "
        "and other subjects differ: the intervals say how even a method is within this brain, no more."
    )

"""The figures of a study: scores over thickness, and cuts of truth, methods and errors in one sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure

_MARKERS = "osD^v<>PX*"
_SPREAD, _SPREAD_OF_GAP = 0.12, 0.4
"""Between markers of neighbouring methods, in factors: intervals would hide each other. All methods together
take no more than this share of the way to the next factor."""
_PANEL_INCHES = 1.9
_ERROR_SHARE = 0.5
"""Error that is drawn in full colour, over the range of the truth's grey window."""
_AXIS_SHOWN = (2, 1)


@dataclass(frozen=True)
class Line:
    """One method."""

    name: str
    factors: Sequence[int]
    values: Sequence[float]
    intervals: Sequence[tuple[float, float]]


def factor_figure(path: str | Path, lines: Sequence[Line], title: str) -> None:
    """PNG of PSNR over the thickness of the slices, a line for each method."""
    figure = Figure(figsize=(7.5, 4.8))
    panel = figure.subplots()
    colors = colormaps["tab20" if len(lines) > 10 else "tab10"].colors  # type: ignore[attr-defined]
    factors = sorted({factor for line in lines for factor in line.factors})
    gap = min(np.diff(factors), default=1)
    spread = min(_SPREAD, _SPREAD_OF_GAP * gap / len(lines))
    for place, line in enumerate(lines):
        x = np.asarray(line.factors) + spread * (place - (len(lines) - 1) / 2)
        low, high = np.asarray(line.intervals, float).T
        values = np.asarray(line.values, float)
        errors = np.nan_to_num(np.maximum(np.stack([values - low, high - values]), 0))
        panel.errorbar(
            x, values, yerr=errors, label=line.name, color=colors[place % len(colors)], capsize=2,
            linewidth=1.2, marker=_MARKERS[place % len(_MARKERS)], markersize=4.5,
        )  # fmt: skip
    panel.set_xticks(factors)
    panel.margins(x=0.15)
    panel.set_xlabel("thickness of a slice, voxels")
    panel.set_ylabel("PSNR in the mask, dB")
    panel.set_title(title, fontsize=10)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, format="png", dpi=130, bbox_inches="tight", metadata={"Software": None})


def cuts_figure(
    path: str | Path,
    truth: Mapping[str, npt.NDArray[Any]],
    images: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    title: str,
) -> None:
    """PNG: truth and methods as columns; for two planes a row of images and one of image minus truth."""
    shown = [f"axis{axis}" for axis in _AXIS_SHOWN]
    values = np.concatenate([truth[name].ravel() for name in shown])
    low, high = 0.0, float(np.percentile(values[values > 0], 99.5)) if (values > 0).any() else 1.0
    columns = ["truth", *images]
    figure = Figure(figsize=(_PANEL_INCHES * len(columns), 2 * _PANEL_INCHES * len(shown) + 0.5))
    panels = figure.subplots(2 * len(shown), len(columns), squeeze=False)
    for row, name in enumerate(shown):
        for column, label in enumerate(columns):
            upper, lower = panels[2 * row, column], panels[2 * row + 1, column]
            image = truth[name] if label == "truth" else images[label][name]
            upper.imshow(image.T, cmap="gray", origin="lower", vmin=low, vmax=high)
            if label != "truth":
                reach = _ERROR_SHARE * (high - low)
                lower.imshow((image - truth[name]).T, cmap="RdBu_r", origin="lower", vmin=-reach, vmax=reach)
            if row == 0:
                upper.set_title(label, fontsize=9)
    for panel in panels.ravel():
        panel.set_axis_off()
    figure.suptitle(f"{title}: images, and image minus truth", fontsize=10)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.93, wspace=0.03, hspace=0.03)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})

"""The figure of the movement between the slices of a stack."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure


class Position(Protocol):
    """What is drawn of a slice."""

    @property
    def translation_mm(self) -> tuple[float, float, float]: ...
    @property
    def rotation_deg(self) -> tuple[float, float, float]: ...
    @property
    def gain(self) -> float: ...


def motion_figure(path: str | Path, motion: Sequence[Position], title: str) -> None:
    """PNG with translation, rotation and gain over the slice index."""
    figure = Figure(figsize=(8, 6))
    panels = figure.subplots(3, 1, sharex=True)
    slices = np.arange(len(motion))
    rows = (
        ("translation (RAS), mm", [p.translation_mm for p in motion], "xyz"),
        ("rotation (RAS), degrees", [p.rotation_deg for p in motion], "xyz"),
        ("gain", [(p.gain,) for p in motion], ("",)),
    )
    for panel, (label, values, names) in zip(panels, rows, strict=True):
        for column, name in zip(np.array(values).T, names, strict=True):
            panel.plot(slices, column, ".-", label=name, linewidth=0.8)
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
        if len(names) > 1:
            panel.legend(ncols=3, fontsize=8)
    panels[-1].set_xlabel("slice")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})

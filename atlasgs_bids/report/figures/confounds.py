"""The figure of the movement of a series: where each volume lay, how far it moved, and what it lost."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from atlasgs_bids.imaging.volume_motion import SeriesMotion

_LOST_COLOUR, _ERROR_COLOUR = "#c0392b", "#888888"


def confounds_figure(path: str | Path, motion: SeriesMotion, n_slices: int, title: str) -> None:
    """PNG with translations, rotations, framewise displacement and lost slices over the volume's index."""
    figure = Figure(figsize=(8, 8), layout="constrained")
    panels = figure.subplots(4, 1, sharex=True)
    volumes = np.arange(len(motion.positions))
    for panel, label, values in (
        (panels[0], "translation (RAS), mm", [own.translation_mm for own in motion.positions]),
        (panels[1], "rotation (RAS), degrees", [own.rotation_deg for own in motion.positions]),
    ):
        for column, name in zip(np.array(values).T, "xyz", strict=True):
            panel.plot(volumes, column, ".-", label=name, linewidth=0.8)
        panel.set_ylabel(label)
        panel.legend(ncols=3, fontsize=8)
    displacement = [np.nan if own is None else own for own in motion.framewise_displacement_mm]
    panels[2].plot(volumes, displacement, ".-", color="black", linewidth=0.8, label="framewise displacement")
    panels[2].plot(
        volumes, motion.errors_mm, "_", color=_ERROR_COLOUR, label="standard error of the position"
    )
    panels[2].set_ylabel("mm")
    panels[2].set_ylim(bottom=0)
    panels[2].legend(ncols=2, fontsize=8)
    lost = np.array([(v, k) for v, slices in enumerate(motion.lost) for k in slices]).reshape(-1, 2)
    panels[3].scatter(lost[:, 0], lost[:, 1], marker="s", s=18, color=_LOST_COLOUR)
    panels[3].set_ylim(-0.5, n_slices - 0.5)
    panels[3].set_ylabel(f"lost slices ({len(lost)})")
    panels[3].set_xlabel("volume")
    panels[3].set_xlim(-0.5, max(len(volumes) - 0.5, 0.5))
    for panel in panels:
        panel.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})

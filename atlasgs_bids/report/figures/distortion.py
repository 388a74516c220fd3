"""The figure of a displacement: slices as acquired and as corrected, the anchor's edges, and the field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

_PLANES = ((2, (0, 1), ("R", "L")), (0, (1, 2), ("A", "P")))
"""Axis through the plane, axes across and up it, what lies on its left and right; both drawn from RAS."""
_TOWARDS = ("right", "front", "top")
"""Of the world's axes."""
_MARGIN_VOXELS = 4
_EDGE_COLOUR = "#ffa028"
_EDGE_SHARE = 0.2
"""Of the voxels of the head: those of the steepest intensity of the anchor."""
_WINDOW_PERCENT = (0.5, 99.5)


@dataclass(frozen=True)
class DistortionImages:
    """What the figure shows, all on one grid."""

    anchor: npt.NDArray[np.float32]
    acquired: npt.NDArray[np.float32]
    """Interpolated in its rigid position."""
    corrected: npt.NDArray[np.float32]
    """The same with the displacement, and with the signal where it belongs."""
    vectors_mm: npt.NDArray[np.float64]
    """(x, y, z, 3), world."""
    mask: npt.NDArray[np.bool_]
    """The head."""


def distortion_figure(
    path: str | Path, shown: DistortionImages, world_from_voxel: npt.ArrayLike, title: str
) -> None:
    """PNG with an axial and a sagittal plane as rows, and acquired, corrected and displacement as columns."""
    to_ras = nib.orientations.io_orientation(np.asarray(world_from_voxel, dtype=np.float64))
    anchor, acquired, corrected, mask = (
        nib.orientations.apply_orientation(np.asarray(image, np.float32), to_ras)
        for image in (shown.anchor, shown.acquired, shown.corrected, shown.mask)
    )
    inside = mask > 0 if mask.any() else np.ones(mask.shape, bool)
    main = int(np.abs(shown.vectors_mm[shown.mask]).mean(0).argmax()) if shown.mask.any() else 1
    along = nib.orientations.apply_orientation(shown.vectors_mm[..., main], to_ras)
    steep = ndimage.gaussian_gradient_magnitude(anchor, 1.0)
    edges = steep > np.quantile(steep[inside], 1 - _EDGE_SHARE)
    box = tuple(
        slice(max(0, int(own.min()) - _MARGIN_VOXELS), int(own.max()) + _MARGIN_VOXELS + 1)
        for own in np.nonzero(inside)
    )
    anchor, acquired, corrected, inside, along, edges = (
        image[box] for image in (anchor, acquired, corrected, inside, along, edges)
    )
    window = np.percentile(np.concatenate([acquired[inside], corrected[inside]]), _WINDOW_PERCENT)
    most_mm = max(float(np.abs(along[inside]).max()), 0.5)
    figure = Figure(figsize=(10.5, 7.2), facecolor="black", layout="constrained")
    figure.suptitle(title, color="white", fontsize=10)
    rows = figure.subplots(len(_PLANES), 3)
    names = (
        "acquired, anchor's edges",
        "corrected, anchor's edges",
        f"displacement towards the {_TOWARDS[main]}, mm",
    )
    for row, (axis, (across, up), sides) in zip(rows, _PLANES, strict=True):
        spread = np.where(inside, along**2, 0).sum(axis=(across, up))
        at = int(spread.argmax()) if axis == 2 else int(np.argwhere(inside)[:, axis].mean())

        def cut(image: npt.NDArray[np.generic], axis: int = axis, at: int = at) -> npt.NDArray[np.generic]:
            # Rows go up, columns against the axis: the patient's right, and the face, are on the left.
            return np.take(image, at, axis=axis).T[:, ::-1]

        for panel, image in zip(row, (acquired, corrected), strict=False):
            panel.imshow(cut(image), cmap="gray", vmin=window[0], vmax=window[1], origin="lower")
            panel.contour(cut(edges).astype(float), [0.5], colors=_EDGE_COLOUR, linewidths=0.5)
        field = row[2].imshow(
            np.where(cut(inside), cut(along), np.nan),
            cmap="RdBu_r",
            vmin=-most_mm,
            vmax=most_mm,
            origin="lower",
        )
        bar = figure.colorbar(field, ax=row[2], shrink=0.7)
        bar.ax.tick_params(colors="white")
        for panel in row:
            _dress(panel, sides)
    for panel, name in zip(rows[0], names, strict=True):
        panel.set_title(name, color="white", fontsize=9)
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})


def _dress(panel: Axes, sides: tuple[str, str]) -> None:
    panel.set_facecolor("black")
    panel.set_xticks([])
    panel.set_yticks([])
    for text, x, ha in ((sides[0], 0.02, "left"), (sides[1], 0.98, "right")):
        panel.text(x, 0.5, text, transform=panel.transAxes, color="white", fontsize=8, ha=ha)

"""The figure of one target: anchor, acquired and result in three planes through one point."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

_BACKGROUND, _TEXT, _FAINT_TEXT = "#0d0d0f", "#f2f2f2", "#9a9aa2"
_WARNING_TEXT, _WARNING_LETTERS, _LINE_INCHES = "#ffb347", 130, 0.18
_COLUMNS = ("acquired, interpolated", "result", "standard deviation")
_TRUSTED, _CONTRADICTED, _MISALIGNED = "#35d0ff", "#ff4d6d", "#ffd23f"
_COLUMN_WIDTH_INCHES = 3.2
_DOTS_PER_INCH = 150
_MARGIN_MM = 6.0
_WINDOW_PERCENT = (0.5, 99.5)


@dataclass(frozen=True)
class _Plane:
    """One anatomical plane of an image in RAS voxel order, seen in radiological convention."""

    name: str
    axis: int
    across: int
    up: int
    edges: tuple[str, str]
    """What lies on the left and on the right of the picture."""


# Both horizontal axes are drawn against their direction: the patient's right, and the face, are on the left.
_PLANES = (
    _Plane("axial", axis=2, across=0, up=1, edges=("R", "L")),
    _Plane("coronal", axis=1, across=0, up=2, edges=("R", "L")),
    _Plane("sagittal", axis=0, across=1, up=2, edges=("A", "P")),
)


@dataclass(frozen=True)
class _View:
    """What all panels of a figure show of images in RAS voxel order."""

    point: npt.NDArray[np.int64]
    """The voxel that all planes go through."""
    box: tuple[slice, ...]
    sizes_mm: npt.NDArray[np.float64]
    """Of a voxel."""


@dataclass(frozen=True)
class TargetImages:
    """What a target's figure shows, all on one grid."""

    anchor: npt.NDArray[Any]
    acquired: npt.NDArray[Any]
    """Interpolated."""
    result: npt.NDArray[Any]
    sd: npt.NDArray[Any] | None = None
    """Of the result's error; None: the figure has no column for it."""
    trusted: npt.NDArray[Any] | None = None
    """Where the result may be believed; None: nobody knows."""
    flagged: npt.NDArray[Any] | None = None
    """Labels of where slices and anchor disagree (restoration/flags.py); None: nobody knows."""
    anchor_name: str = "T1w"


def target_figure(
    path: str | Path,
    shown: TargetImages,
    world_from_voxel: npt.ArrayLike,
    title: str,
    mask: npt.NDArray[Any],
    warnings: Sequence[str] = (),
) -> None:
    """PNG with three planes as rows through the centre of the mask, and the images as columns.

    All arrays lie on the grid of ``world_from_voxel`` (RAS, mm), whatever its orientation. Acquired and
    result share one grey window; what is trusted is outlined over the standard deviation, what is flagged
    over the result. An empty mask counts as a mask of everything. Warnings stand below the title.
    """
    affine = np.asarray(world_from_voxel, dtype=np.float64)
    to_ras = nib.orientations.io_orientation(affine)
    ras_affine = affine @ nib.orientations.inv_ornt_aff(to_ras, shown.anchor.shape)
    sizes_mm = np.linalg.norm(ras_affine[:3, :3], axis=0)
    given = [shown.anchor, shown.acquired, shown.result, *([] if shown.sd is None else [shown.sd])]
    images = [
        np.nan_to_num(nib.orientations.apply_orientation(np.asarray(image, dtype=np.float32), to_ras))
        for image in given
    ]
    outlined: list[tuple[int, npt.NDArray[Any], str, str]] = []
    if shown.sd is not None and shown.trusted is not None:
        outlined.append((3, shown.trusted, _TRUSTED, ", trusted outlined"))
    if shown.flagged is not None:
        for value, colour, said in (
            (1, _CONTRADICTED, ", contradicted red"), (2, _MISALIGNED, ", misaligned yellow"),
        ):  # fmt: skip
            if (shown.flagged == value).any():
                outlined.append((2, shown.flagged == value, colour, said))
    inside = nib.orientations.apply_orientation(np.asarray(mask) > 0, to_ras)
    if not inside.any():
        inside = np.ones_like(inside)
    view = _View(_point_inside(inside), _box_around(inside, sizes_mm), sizes_mm)
    windows = [_window([images[0]], inside), *[_window(images[1:3], inside)] * 2]
    windows += [(0.0, _window([sd], inside)[1]) for sd in images[3:]]

    extents_mm = np.array([span.stop - span.start for span in view.box]) * sizes_mm
    heights_mm = [extents_mm[plane.up] for plane in _PLANES]
    inches_per_mm = _COLUMN_WIDTH_INCHES / max(extents_mm[plane.across] for plane in _PLANES)
    lines = [line for text in warnings for line in textwrap.wrap(f"Warning: {text}", _WARNING_LETTERS)]
    top_inches = 0.65 + _LINE_INCHES * len(lines)
    size_inches = (
        len(images) * _COLUMN_WIDTH_INCHES + 0.5,
        float(sum(heights_mm)) * inches_per_mm + top_inches + 0.35,
    )
    figure = Figure(figsize=size_inches, facecolor=_BACKGROUND)
    grid = {"height_ratios": heights_mm, "wspace": 0.04, "hspace": 0.04}
    axes = figure.subplots(3, len(images), gridspec_kw=grid)
    figure.subplots_adjust(
        left=0.4 / size_inches[0],
        right=1 - 0.1 / size_inches[0],
        top=1 - top_inches / size_inches[1],
        bottom=0.35 / size_inches[1],
    )
    for plane, row in zip(_PLANES, axes, strict=True):
        for image, window, panel in zip(images, windows, row, strict=True):
            _draw(panel, plane, image, view, window, "inferno" if panel in row[3:] else "gray")
        for number, marked, colour, _ in outlined:
            in_ras = nib.orientations.apply_orientation(np.asarray(marked, np.float32), to_ras)
            _outline(row[number], plane, in_ras, view, colour)
        middle = row[0].get_position().y0 + row[0].get_position().height / 2
        label = figure.text(0.2 / size_inches[0], middle, plane.name, ha="center", va="center")
        label.set(color=_TEXT, fontsize=10, rotation=90)
    columns = [f"{shown.anchor_name} (anchor)", *_COLUMNS]
    for number, _, _, words in outlined:
        columns[number] += words
    for panel, column in zip(axes[0], columns[: len(images)], strict=True):
        panel.set_title(column, color=_TEXT, fontsize=10, pad=5)
    figure.text(0.5, 1 - 0.2 / size_inches[1], title, color=_TEXT, fontsize=12, ha="center", va="center")
    for row_number, line in enumerate(lines):
        height = 1 - (0.45 + _LINE_INCHES * row_number) / size_inches[1]
        figure.text(0.5, height, line, color=_WARNING_TEXT, fontsize=8, ha="center", va="center")
    point_world = ras_affine[:3, :3] @ view.point + ras_affine[:3, 3]
    low, high = windows[2]
    caption = (
        f"planes through x {point_world[0]:.0f}, y {point_world[1]:.0f}, z {point_world[2]:.0f} mm (RAS); "
        f"radiological: patient's right on the left; acquired and result: grey from {low:.4g} to {high:.4g}"
        + "".join(f"; standard deviation: black 0, yellow {top:.4g}" for _, top in windows[3:])
    )
    figure.text(0.5, 0.16 / size_inches[1], caption, color=_FAINT_TEXT, fontsize=7, ha="center", va="center")
    figure.savefig(path, format="png", dpi=_DOTS_PER_INCH, facecolor=_BACKGROUND, metadata={"Software": None})


def _draw(
    panel: Axes,
    plane: _Plane,
    image: npt.NDArray[np.float32],
    view: _View,
    window: tuple[float, float],
    colours: str = "gray",
) -> None:
    panel.imshow(
        _picture(plane, image, view),
        cmap=colours,
        origin="lower",
        vmin=window[0],
        vmax=window[1],
        aspect=float(view.sizes_mm[plane.up] / view.sizes_mm[plane.across]),
    )
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_facecolor(_BACKGROUND)
    panel.spines[:].set_visible(False)
    for position, label, alignment in zip((0.015, 0.985), plane.edges, ("left", "right"), strict=True):
        panel.text(
            position,
            0.96,
            label,
            transform=panel.transAxes,
            color=_TEXT,
            fontsize=8,
            ha=alignment,
            va="top",
        )


def _picture(plane: _Plane, image: npt.NDArray[Any], view: _View) -> npt.NDArray[Any]:
    """(rows, columns) of one plane, as it is seen."""
    index: list[int | slice] = list(view.box)
    index[plane.axis] = int(view.point[plane.axis])
    return np.asarray(image[tuple(index)].T[:, ::-1])


def _outline(panel: Axes, plane: _Plane, mask: npt.NDArray[Any], view: _View, colour: str) -> None:
    picture = _picture(plane, mask, view)
    if 0 < picture.mean() < 1:
        panel.contour(picture, levels=[0.5], colors=[colour], linewidths=0.6)


def _point_inside(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(3,) voxel of the mask that is nearest to its centre."""
    voxels = np.argwhere(inside)
    return np.asarray(voxels[((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1).argmin()])


def _box_around(inside: npt.NDArray[np.bool_], sizes_mm: npt.NDArray[np.float64]) -> tuple[slice, ...]:
    voxels = np.argwhere(inside)
    margin = np.ceil(_MARGIN_MM / sizes_mm).astype(int)
    first = np.maximum(0, voxels.min(axis=0) - margin)
    last = np.minimum(inside.shape, voxels.max(axis=0) + 1 + margin)
    return tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))


def _window(images: list[npt.NDArray[np.float32]], inside: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Grey values of black and white: robust extremes inside the mask, 0 for black where that is near."""
    values = np.concatenate([image[inside] for image in images])
    low, high = (float(value) for value in np.percentile(values, _WINDOW_PERCENT))
    if abs(low) < 0.3 * high:
        low = 0.0
    return (low, high) if high > low else (low, low + 1.0)

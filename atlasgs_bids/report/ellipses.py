"""Gaussians near a plane as ellipses over the image that they stand for."""

import base64
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from atlasgs_bids.report.pictures import Bytes

_WIDTH_MM = 40.0
_MOST_DRAWN = 6000
_ORANGE = "#ffb000"


def ellipse_picture(
    scaffold: Path, grey: Bytes, world_from_voxel: npt.NDArray[np.float64], point: tuple[int, int, int]
) -> str | None:
    """Data URI of a part of an axial plane (voxels in RAS order) under its Gaussians; None without a file."""
    try:
        with np.load(scaffold) as stored:
            means, scales, quaternions = (stored[name] for name in ("means_mm", "scales_mm", "quaternions"))
    except (OSError, KeyError, ValueError):
        return None
    centre = world_from_voxel[:3, :3] @ np.array(point) + world_from_voxel[:3, 3]
    sizes_mm = np.linalg.norm(world_from_voxel[:3, :3], axis=0)
    rotations = world_from_voxel[:3, :3] / sizes_mm
    local = (means - centre) @ rotations
    near = (np.abs(local[:, 2]) <= sizes_mm[2] / 2) & (np.abs(local[:, :2]).max(axis=1) < _WIDTH_MM / 2)
    (chosen,) = np.nonzero(near)
    chosen = chosen[:_MOST_DRAWN]
    axes = np.einsum("ji,njk->nik", rotations, _matrices(quaternions[chosen])) * scales[chosen][:, None, :]
    covariances = np.einsum("nij,nkj->nik", axes, axes)[:, :2, :2]
    values, vectors = np.linalg.eigh(covariances)
    angles = np.degrees(np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1]))
    figure = Figure(figsize=(4.4, 4.4), facecolor="black")
    panel = figure.add_axes((0, 0, 1, 1))
    extent = (np.array([[0, 0], grey.shape[:2]]) - 0.5 - np.array(point[:2])) * sizes_mm[:2]
    panel.imshow(
        grey[:, :, point[2]].T, cmap="gray", origin="lower", vmin=0, vmax=255,
        extent=(extent[0, 0], extent[1, 0], extent[0, 1], extent[1, 1]),
    )  # fmt: skip
    panel.add_collection(
        EllipseCollection(
            2 * np.sqrt(values[:, 1]), 2 * np.sqrt(np.maximum(values[:, 0], 0)), angles, units="xy",
            offsets=local[chosen][:, :2], offset_transform=panel.transData, facecolors="none",
            edgecolors=_ORANGE, linewidths=0.5,
        )
    )  # fmt: skip
    panel.set_axis_off()
    panel.set_xlim(_WIDTH_MM / 2, -_WIDTH_MM / 2)
    panel.set_ylim(-_WIDTH_MM / 2, _WIDTH_MM / 2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _matrices(quaternions: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(n, 3, 3) rotations of quaternions (w, x, y, z)."""
    unit = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    w, x, y, z = unit.astype(np.float64).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)

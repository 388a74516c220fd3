"""A target's Gaussians found by their file, and views of them as NIfTI with sidecar or as PNG."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
from matplotlib import image as pictures

from atlasgs_bids.bids.outputs.names import json_path
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.nifti import to_nifti, write_image
from atlasgs_bids.imaging.planes import Layout, shown_as
from atlasgs_bids.imaging.volume import Grid, voxel_sizes_mm
from atlasgs_bids.restoration.target_files import n_shared_of, read_session, read_target
from atlasgs_bids.restoration.views import TargetModel
from atlasgs_bids.runtime.files import atomic, save_json
from atlasgs_bids.version import __version__

_DATASET = "dataset_description.json"
_MOST_SLICES = 100
"""Of a PNG."""
_WHITE_PERCENT = 99.5

Image = npt.NDArray[np.float32]


def load_target(path: str | Path, scaffold: str | Path | None = None) -> TargetModel:
    """What ``*_mod-FLAIR_*_scaffold.npz`` holds, or the anchor of a session's ``*_scaffold.npz``.

    ``scaffold``: the session's, with which a target shares Gaussians; None: where the sidecar says. Raises
    InputError where one of them is missing, damaged, or another one.
    """
    path = Path(path)
    n_shared = n_shared_of(path)
    if n_shared is None:
        return read_session(path)
    if n_shared == 0:
        return read_target(path, None)
    return read_target(path, Path(scaffold) if scaffold is not None else session_of(path))


def session_of(path: Path) -> Path:
    """The session's scaffold of a target's, as its sidecar names it; InputError where there is none."""
    sidecar = json_path(path)
    remedy = "keep the files of a dataset together, or name it with --scaffold"
    try:
        sources = json.loads(sidecar.read_text(encoding="utf-8"))["Sources"]
        uri = next(source for source in sources if str(source).startswith("bids::"))
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise InputError(
            f"{sidecar.name}: found no source in it, expected the session's scaffold there, whose Gaussians "
            f"{path.name} shares; {remedy}"
        ) from error
    name = unquote(uri.removeprefix("bids::"))
    roots = [folder for folder in path.absolute().parents if (folder / _DATASET).exists()]
    found = [folder / name for folder in roots if (folder / name).exists()]
    found += [path.with_name(Path(name).name)]
    if not found[0].exists():
        raise InputError(f"{path.name}: found no {name}, expected it in the same dataset; {remedy}")
    return found[0]


def save_nifti(path: Path, image: Image, grid: Grid, form_code: int, sidecar: Mapping[str, Any]) -> None:
    """float32 with both forms, after its sidecar."""
    with atomic(path) as temporary:
        write_image(to_nifti(image, grid.world_from_voxel, form_code=form_code), temporary)
        save_json(sidecar, json_path(path))


def view_sidecar(description: str, sources: Sequence[Path], path: Path, **more: Any) -> dict[str, Any]:
    """Of a view at ``path``: sources by their paths from there."""
    named = [
        Path(os.path.relpath(source.absolute(), path.absolute().parent)).as_posix() for source in sources
    ]
    generated = [{"Name": "AtlasGS", "Version": __version__}]
    fields = {"Description": description, "Sources": named, **more, "GeneratedBy": generated}
    return {name: value for name, value in fields.items() if value is not None}


def save_png(
    path: Path,
    images: Sequence[Image],
    grids: Sequence[Grid],
    window: tuple[float, float] | None,
    layout: Callable[[Grid], Layout] = shown_as,
) -> None:
    """Every slice of the images beside one another, in radiological convention; one grey window.

    ``layout``: how a slice is turned; ``window``: black and white (None: 0, and what 0.5 % of the values
    above 0 exceed).
    """
    n_slices = sum(image.shape[2] for image in images)
    if n_slices > _MOST_SLICES:
        raise InputError(
            f"{path.name}: {n_slices} slices, expected at most {_MOST_SLICES} in a picture; write NIfTI, or "
            "choose a plane"
        )
    panels = [
        _shown(image[..., k], grid, layout(grid))
        for image, grid in zip(images, grids, strict=True)
        for k in range(image.shape[2])
    ]
    black, white = window or _window(images)
    with atomic(path) as temporary:
        pictures.imsave(
            temporary, _montage(panels), cmap="gray", vmin=black, vmax=white, format="png",
            pil_kwargs={"optimize": True},
        )  # fmt: skip


def _shown(plane: Image, grid: Grid, layout: Layout) -> Image:
    """Rows from top to bottom, columns from left to right, pixels made square by repeating them."""
    is_transposed, (right, up) = layout
    sides_mm = voxel_sizes_mm(grid.world_from_voxel)[:2]
    repeats = np.maximum(1, np.round(sides_mm / sides_mm.min())).astype(int)
    square = np.repeat(np.repeat(plane, repeats[0], axis=0), repeats[1], axis=1)
    upright = (square.T if is_transposed else square)[::right, ::up]
    return np.ascontiguousarray(upright.T[::-1])


def _montage(panels: Sequence[Image]) -> Image:
    """Panels in rows of about as many as there are rows; a short last row is black."""
    height, width = (max(panel.shape[axis] for panel in panels) for axis in (0, 1))
    n_columns = math.ceil(math.sqrt(len(panels) * height / width)) if len(panels) > 1 else 1
    n_columns = min(max(n_columns, 1), len(panels))
    n_rows = math.ceil(len(panels) / n_columns)
    sheet = np.zeros((n_rows * height, n_columns * width), np.float32)
    for number, panel in enumerate(panels):
        row, column = divmod(number, n_columns)
        top = row * height + (height - panel.shape[0]) // 2
        left = column * width + (width - panel.shape[1]) // 2
        sheet[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
    return sheet


def _window(images: Sequence[Image]) -> tuple[float, float]:
    values = np.concatenate([image[image > 0] for image in images])
    white = float(np.percentile(values, _WHITE_PERCENT)) if len(values) else 0.0
    return 0.0, white if white > 0 else 1.0

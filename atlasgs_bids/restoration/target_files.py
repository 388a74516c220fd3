"""A target's Gaussians as a file: amplitudes on the session's scaffold, Gaussians of its own, their error."""

import hashlib
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atlasgs_bids.core.gaussians import Gaussians, joined
from atlasgs_bids.core.settings import ScaffoldSettings
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.header import MOST_VOXELS
from atlasgs_bids.imaging.volume import Grid
from atlasgs_bids.restoration.scaffold_files import (
    DAMAGED,
    GAUSSIAN_ARRAYS,
    SCAFFOLD_SCHEMA,
    array_of,
    gaussians_of,
    text_of,
)
from atlasgs_bids.restoration.views import Region, TargetModel

_SCHEMA = "atlasgs-appearance-2"
_FIRST_SCHEMA = "atlasgs-appearance-1"
"""Of amplitudes and own Gaussians alone; still read."""


def save_target(path: Path, model: TargetModel, n_shared: int) -> None:
    """``shared_amplitudes`` (n,), the target's own Gaussians as specific_means_mm and so on, what views need.

    docs/scaffold.md has every array. The first ``n_shared`` Gaussians are the session's.
    """
    gaussians = model.gaussians
    arrays = {
        "schema": np.array(_SCHEMA),
        "shared_digest": np.array(_digest(gaussians.means_mm[:n_shared])),
        "shared_amplitudes": gaussians.amplitudes[:n_shared].cpu().numpy(),
        "cell_mm": np.asarray(model.cell_mm, np.float64),
        "floor": np.array(np.nan if model.floor is None else model.floor),
        "form_code": np.array(model.form_code),
    }
    for name in GAUSSIAN_ARRAYS:
        arrays[f"specific_{name}"] = getattr(gaussians, name)[n_shared:].cpu().numpy()
    if model.sd is not None:
        unit = max(float(model.sd.max()), 1e-30)
        in_units = (model.sd / unit).cpu().numpy().astype(np.float16)
        arrays |= {
            "sd_unit": np.array(unit),
            "shared_sd": in_units[:n_shared],
            "specific_sd": in_units[n_shared:],
        }
    if model.region is not None:
        grid = model.region.grid
        arrays |= {
            "region_shape": np.array(grid.shape),
            "region_world_from_voxel": np.asarray(grid.world_from_voxel, np.float64),
            "region_runs": _runs(model.region.inside),
        }
    np.savez(path, **arrays)  # type: ignore[arg-type]


def n_shared_of(path: Path) -> int | None:
    """How many of a target's Gaussians are the session's; None: the file is a session's scaffold itself."""
    try:
        with ZipFile(path) as archive:
            schema = text_of(archive, "schema")
            if schema == SCAFFOLD_SCHEMA:
                return None
            if schema not in (_SCHEMA, _FIRST_SCHEMA):
                raise ValueError(f"schema {schema}, expected {_SCHEMA} or {SCAFFOLD_SCHEMA}")
            return len(array_of(archive, "shared_amplitudes"))
    except DAMAGED as error:
        raise _unreadable(path, error) from error


def read_target(path: Path, scaffold: Path | None) -> TargetModel:
    """The target of a file; ``scaffold``: that of its session (None: the file has no shared Gaussians).

    Raises InputError for a file that is none, and where the scaffold is another one.
    """
    shared = None if scaffold is None else read_session(scaffold).gaussians
    try:
        with ZipFile(path) as archive:
            return _target(archive, path, shared, scaffold)
    except DAMAGED as error:
        raise _unreadable(path, error) from error


def read_session(path: Path) -> TargetModel:
    """The anchor itself, as a session's scaffold renders it."""
    try:
        with ZipFile(path) as archive:
            gaussians = gaussians_of(archive)
    except DAMAGED as error:
        raise _unreadable(path, error) from error
    return TargetModel(gaussians, np.eye(3) * _spacing_mm(gaussians))


def _target(archive: ZipFile, path: Path, shared: Gaussians | None, scaffold: Path | None) -> TargetModel:
    amplitudes = torch.from_numpy(array_of(archive, "shared_amplitudes").astype(np.float32))
    own = gaussians_of(archive, "specific_") if len(array_of(archive, "specific_amplitudes")) else None
    if shared is None and len(amplitudes):
        raise InputError(
            f"{path.name}: {len(amplitudes)} of its Gaussians are its session's, expected their file as well"
        )
    parts = [] if own is None else [own]
    if shared is not None and len(amplitudes):
        if len(shared) != len(amplitudes) or _is_other(archive, shared):
            name = "" if scaffold is None else scaffold.name
            raise InputError(
                f"{name}: {len(shared)} Gaussians that are not those of {path.name}, expected the "
                f"{len(amplitudes)} that it was fitted with; was the session run again without it? "
                "Run it again with --overwrite"
            )
        parts = [replace(shared, amplitudes=amplitudes), *parts]
    gaussians = joined(parts)
    names = set(archive.namelist())
    if "cell_mm.npy" not in names:
        return TargetModel(gaussians, np.eye(3) * _spacing_mm(gaussians))
    floor = float(array_of(archive, "floor"))
    return TargetModel(
        gaussians,
        np.asarray(array_of(archive, "cell_mm"), np.float64),
        _sd(archive) if "sd_unit.npy" in names else None,
        _region(archive) if "region_runs.npy" in names else None,
        None if np.isnan(floor) else floor,
        int(array_of(archive, "form_code")),
    )


def _is_other(archive: ZipFile, shared: Gaussians) -> bool:
    if "shared_digest.npy" not in archive.namelist():
        return False
    return text_of(archive, "shared_digest") != _digest(shared.means_mm)


def _digest(means_mm: Tensor) -> str:
    return hashlib.sha256(means_mm.cpu().contiguous().numpy().tobytes()).hexdigest()


def _sd(archive: ZipFile) -> Tensor:
    unit = np.float32(array_of(archive, "sd_unit"))
    parts = [array_of(archive, f"{kind}_sd").astype(np.float32) for kind in ("shared", "specific")]
    return torch.from_numpy(np.concatenate(parts) * unit)


def _runs(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Lengths of the runs of a mask in C order: outside, inside, outside, ...

    >>> _runs(np.array([True, True, False])).tolist()
    [0, 2, 1]
    """
    flat = np.concatenate([[False], inside.ravel()])
    changes = np.flatnonzero(np.diff(flat)).astype(np.int64)
    return np.diff(np.concatenate([[0], changes, [inside.size]]))


def _region(archive: ZipFile) -> Region:
    n_i, n_j, n_k = (int(n) for n in array_of(archive, "region_shape"))
    runs = np.asarray(array_of(archive, "region_runs"), np.int64)
    n_voxels = n_i * n_j * n_k
    if min(n_i, n_j, n_k) < 1 or n_voxels > MOST_VOXELS or runs.min() < 0 or runs.sum() != n_voxels:
        raise ValueError(f"a region of {runs.sum()} voxels, expected {n_i} x {n_j} x {n_k}")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(n_i, n_j, n_k)
    world_from_voxel = np.asarray(array_of(archive, "region_world_from_voxel"), np.float64)
    return Region(Grid((n_i, n_j, n_k), world_from_voxel), inside)


def _spacing_mm(gaussians: Gaussians) -> float:
    """Spacing of a lattice by its σ: for files that do not tell what a Gaussian stands for."""
    return float(gaussians.scales_mm.median()) / ScaffoldSettings().sigma_spacings


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path.name}: not readable as Gaussians ({error}), expected the npz of a target or a session that "
        "AtlasGS writes; give *_desc-atlasgs_scaffold.npz"
    )

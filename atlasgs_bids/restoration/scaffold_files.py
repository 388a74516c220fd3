"""A scaffold as files: npz for programs, PLY for viewers of Gaussians."""

import hashlib
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import IO
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt
import torch
from plyfile import PlyData, PlyParseError

from atlasgs_bids.core.gaussians import Gaussians, world_points
from atlasgs_bids.core.scaffold import anchor_amplitudes, rendering_psnr_db
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.errors import InputError
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.version import __version__

_LEAST_INSIDE = 0.5

SCAFFOLD_SCHEMA = "atlasgs-scaffold-1"
GAUSSIAN_ARRAYS = ("means_mm", "scales_mm", "quaternions", "amplitudes")
_MOST = 50_000_000
"""Gaussians, some 2 GB: what says that it has more is damaged, or made to fill the memory."""
_LONGEST_TEXT = 4096
DAMAGED = (
    OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, BadZipFile, zlib.error, PlyParseError
)  # fmt: skip
"""What readers raise for a file that is damaged, or none that they know (RuntimeError: with a password)."""
_SH_DEGREE_0 = 0.28209479177387814
"""Y₀₀: a viewer shows the colour 0.5 + Y₀₀ · f_dc."""
_OPACITY_LOGIT = 2.0


def save_scaffold(path: Path, gaussians: Gaussians, fingerprint: str, anchor_psnr_db: float) -> None:
    """Arrays means_mm (n, 3), scales_mm (n, 3), quaternions (n, 4; w first), amplitudes (n,); RAS, mm."""
    arrays = {name: getattr(gaussians, name).cpu().numpy() for name in GAUSSIAN_ARRAYS}
    np.savez(path, schema=SCAFFOLD_SCHEMA, fingerprint=fingerprint, anchor_psnr_db=anchor_psnr_db, **arrays)


def load_scaffold(path: Path, fingerprint: str) -> tuple[Gaussians, float] | None:
    """The scaffold and its PSNR; None where there is none made from this anchor with these settings."""
    if not path.exists():
        return None
    try:
        with ZipFile(path) as archive:
            if (
                text_of(archive, "schema") != SCAFFOLD_SCHEMA
                or text_of(archive, "fingerprint") != fingerprint
            ):
                return None
            return gaussians_of(archive), float(array_of(archive, "anchor_psnr_db"))
    except DAMAGED:  # or written by another version: fitted again
        return None


def save_ply(path: Path, gaussians: Gaussians) -> None:
    """PLY of common Gaussian viewers: positions in mm, the anchor's amplitudes as grey."""
    from gsplat.exporter import export_splats  # noqa: PLC0415 - takes 5 s to import

    top = float(torch.quantile(gaussians.amplitudes[:: max(1, len(gaussians) // 100_000)].cpu(), 0.99))
    grey = (gaussians.amplitudes.cpu() / max(top, 1e-6)).clamp(0, 1)
    export_splats(
        means=gaussians.means_mm.cpu(),
        scales=gaussians.scales_mm.cpu().log(),
        quats=gaussians.quaternions.cpu(),
        opacities=torch.full((len(gaussians),), _OPACITY_LOGIT),
        sh0=((grey - 0.5) / _SH_DEGREE_0)[:, None, None].expand(-1, 1, 3).contiguous(),
        shN=torch.zeros(len(gaussians), 0, 3),
        save_to=str(path),
    )


def read_scaffold(path: Path) -> tuple[Gaussians, bool]:
    """Gaussians of an npz (docs/scaffold.md) or a PLY file, and whether their amplitudes are the anchor's.

    A PLY has a grey value in place of the amplitude, so amplitudes are all 0 there. Raises InputError for a
    file that is neither, or whose Gaussians cannot be.
    """
    try:
        gaussians = _from_ply(path) if path.suffix == ".ply" else _from_npz(path)
    except DAMAGED as error:
        raise InputError(
            f"{path.name}: not readable as a scaffold ({error}), expected the npz or PLY that AtlasGS "
            "writes, edited or not; save it as an uncompressed binary PLY"
        ) from error
    return gaussians, path.suffix != ".ply"


def _from_npz(path: Path) -> Gaussians:
    with ZipFile(path) as archive:
        schema = text_of(archive, "schema")
        if schema != SCAFFOLD_SCHEMA:
            raise ValueError(f"schema {schema}, expected {SCAFFOLD_SCHEMA}")
        return gaussians_of(archive)


def gaussians_of(archive: ZipFile, prefix: str = "") -> Gaussians:
    """Those in the arrays of these names; ValueError where they cannot be."""
    return _checked({name: array_of(archive, prefix + name).astype(np.float32) for name in GAUSSIAN_ARRAYS})


def text_of(archive: ZipFile, name: str) -> str:
    """One text of an npz."""
    return str(array_of(archive, name))


def array_of(archive: ZipFile, name: str) -> npt.NDArray[np.generic]:
    """One array of an npz, never unpickled; ValueError, before memory is taken, where it cannot be ours."""
    with archive.open(f"{name}.npy") as file:
        shape, dtype = _header(file)
        is_text = shape == () and dtype.kind == "U" and dtype.itemsize <= _LONGEST_TEXT
        n_numbers = shape[0] if shape else 1
        is_numbers = dtype.kind in "fiu" and shape[1:] in ((), (3,), (4,)) and n_numbers <= _MOST
        if not (is_text or is_numbers):
            raise ValueError(
                f"{name} is an array of {dtype} of shape {shape}, expected up to {_MOST} Gaussians"
            )
    with archive.open(f"{name}.npy") as file:
        array: npt.NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, dtype


def _check_ply_header(path: Path) -> None:
    """ValueError where the header counts more than can be."""
    with path.open("rb") as file:
        header = file.read(2**16).partition(b"end_header")[0]
    counts = [int(count) for count in re.findall(rb"^\s*element\s+\S+\s+(\d{1,30})", header, re.MULTILINE)]
    if sum(counts) > _MOST:
        raise ValueError(f"its header counts {sum(counts)} elements, expected up to {_MOST} Gaussians")


def _from_ply(path: Path) -> Gaussians:
    _check_ply_header(path)
    vertices = PlyData.read(path)["vertex"]

    def columns(*names: str) -> npt.NDArray[np.float32]:
        return np.stack([np.asarray(vertices[name], np.float32) for name in names], axis=1)

    rotations = columns("rot_0", "rot_1", "rot_2", "rot_3")
    arrays = {
        "means_mm": columns("x", "y", "z"),
        "scales_mm": np.exp(columns("scale_0", "scale_1", "scale_2")),
        "quaternions": rotations / np.maximum(np.linalg.norm(rotations, axis=1, keepdims=True), 1e-12),
        "amplitudes": np.zeros(len(rotations), np.float32),
    }
    return _checked(arrays)


def _checked(arrays: dict[str, npt.NDArray[np.float32]]) -> Gaussians:
    """The Gaussians; ValueError where they cannot be."""
    n = len(arrays["means_mm"])
    shapes = [array.shape for array in arrays.values()]
    if n == 0 or shapes != [(n, 3), (n, 3), (n, 4), (n,)]:
        raise ValueError(f"arrays of shapes {shapes}, expected (n, 3), (n, 3), (n, 4), (n,)")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("not finite everywhere")
    least_mm = float(arrays["scales_mm"].min())
    if least_mm <= 0:
        raise ValueError(f"a scale of {least_mm:g} mm, expected positive ones")
    return Gaussians(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def given_scaffold(path: Path, anchor: Anchor, config: RestorationSettings) -> tuple[Gaussians, float]:
    """Gaussians of a file and how well they render the anchor, dB; InputError where they lie elsewhere."""
    gaussians, has_amplitudes = read_scaffold(path)
    gaussians = gaussians.to(config.device)
    support = torch.from_numpy(anchor.support).to(config.device)
    world_from_voxel = torch.from_numpy(anchor.volume.world_from_voxel)
    means_vox = (
        world_points(gaussians.means_mm.cpu(), torch.linalg.inv(world_from_voxel).float()).round().long()
    )
    limits = torch.tensor(anchor.support.shape)
    inside = ((means_vox >= 0) & (means_vox < limits)).all(1)
    inside[inside.clone()] = support.cpu()[tuple(means_vox[inside].T)]
    share = float(inside.float().mean())
    if share < _LEAST_INSIDE:
        raise InputError(
            f"{path.name}: {share:.0%} of the Gaussians lie in the anchor's foreground, expected at least "
            f"{_LEAST_INSIDE:.0%}; is it the scaffold of this {anchor.name}?"
        )
    shape = (anchor.support.shape[0], anchor.support.shape[1], anchor.support.shape[2])
    splat_op = SplatOperator(gaussians, shape, world_from_voxel, support, config.core.chunk_elements)
    image = torch.from_numpy(anchor.volume.data).to(config.device)
    if not has_amplitudes:
        gaussians = replace(gaussians, amplitudes=anchor_amplitudes(splat_op, image))
    return gaussians, rendering_psnr_db(splat_op, gaussians.amplitudes, image, support)


def scaffold_fingerprint(anchor: Anchor, config: RestorationSettings) -> str:
    """Changes with everything that the scaffold is made from."""
    digest = hashlib.sha256(repr((__version__, config.core.scaffold)).encode())
    arrays: tuple[npt.NDArray, ...] = (anchor.volume.data, anchor.volume.world_from_voxel, anchor.support)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

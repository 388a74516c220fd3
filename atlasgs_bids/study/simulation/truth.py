"""A session of a dataset -> isotropic images with a known truth on the grid of their T1w."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt

from atlasgs_bids.bids.entities import image_label
from atlasgs_bids.bids.images import ImageFile, no_volume
from atlasgs_bids.bids.inputs.discover import SubjectInputs
from atlasgs_bids.bids.inputs.masks import find_region_masks
from atlasgs_bids.bids.plan.anchor import ISOTROPIC_ENOUGH
from atlasgs_bids.bids.plan.targets import image_header
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.grid import fov_mask, resample, resample_mask
from atlasgs_bids.imaging.nifti import load_mask, load_volume
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm
from atlasgs_bids.restoration.calibration import aligned
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.study.settings import StudyConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Truth:
    """One target on the T1w's grid, as it was before slices are simulated."""

    data: npt.NDArray[np.float32]
    inside: npt.NDArray[np.bool_]
    """Where it was acquired."""
    axis: int
    """Voxel axis of the grid to cut slices along."""


def isotropic_targets(inputs: SubjectInputs, config: StudyConfig) -> list[ImageFile]:
    """The session's 3-D targets that are as good as isotropic; why others are not used is logged."""
    found: list[ImageFile] = []
    for image in inputs.targets:
        if image.entities["suffix"] not in config.targets:
            continue
        reason = _unusable(image)
        if reason is None and image_label(image.entities) in {image_label(i.entities) for i in found}:
            reason = "another file has the same name but for the extension"
        if reason is None:
            found.append(image)
        else:
            logger.info("skipping %s: %s", image.path.name, reason)
    return found


def _unusable(image: ImageFile) -> str | None:
    problem = no_volume(image)
    if problem is not None:
        return problem
    sides_mm = voxel_sizes_mm(image_header(image).world_from_voxel)
    if sides_mm.max() / sides_mm.min() > ISOTROPIC_ENOUGH:
        sides = " x ".join(f"{side:.3g}" for side in sides_mm)
        return f"voxels of {sides} mm, expected isotropic ones: there is no truth between thick slices"
    return None


def load_truth(image: ImageFile, scaffold: SessionScaffold, config: StudyConfig) -> Truth:
    """The target on the anchor's grid: as it is where it lies there already, else by cubic interpolation."""
    anchor = scaffold.anchor
    grid, volume = anchor.volume.grid, load_volume(image.path)
    settings = RestorationSettings(device="cpu", registration=config.registration)
    found = aligned(volume, image.path.name, scaffold, settings).registration
    axis = _slice_axis(image, volume.grid, grid, found.target_from_anchor, config.axis)
    inside = fov_mask(volume.grid, grid, found.target_from_anchor)
    if volume.observed is not None:
        observed = Volume(volume.observed.astype(np.float32), volume.world_from_voxel)
        inside &= resample_mask(observed, grid, found.target_from_anchor)
    if found.method == "header" and _same_grid(volume.grid, grid):
        return Truth(volume.data, inside, axis)
    logger.info("%s: interpolated onto the T1w's grid, which is then the truth", image.path.name)
    # Cubic interpolation overshoots beside edges, and a magnitude is nowhere negative.
    floor = np.float32(0 if volume.data.min() >= 0 else -np.inf)
    return Truth(np.maximum(resample(volume, grid, found.target_from_anchor), floor), inside, axis)


def region_masks(
    image: ImageFile, scaffold: SessionScaffold, config: StudyConfig
) -> dict[str, npt.NDArray[np.bool_]]:
    """Masks of lesions and other regions in the T1w's space, by label, on the anchor's grid."""
    grid, found = scaffold.anchor.volume.grid, {}
    entities: Mapping[str, str] = image.entities
    paths = find_region_masks(
        config.bids_dir, entities["subject"], entities.get("session"), config.derivatives
    )
    for name, path in paths.items():
        mask = resample_mask(load_mask(path), grid)
        if not mask.any():
            logger.warning("%s: empty on the T1w's grid, not used", path.name)
        else:
            found[name] = mask
    return found


def _slice_axis(
    image: ImageFile,
    own: Grid,
    anchor: Grid,
    target_from_anchor: npt.NDArray[np.float64],
    asked: str,
) -> int:
    """Voxel axis of the anchor; ``slice``: nearest to the slice axis of the target, else to its third."""
    if asked != "slice":
        return int(asked)
    header = nib.load(image.path).header
    stated = header.get_dim_info()[2] if isinstance(header, nib.Nifti1Header) else None
    direction = own.world_from_voxel[:3, 2 if stated is None else stated]
    in_anchor = np.linalg.inv(anchor.world_from_voxel[:3, :3]) @ target_from_anchor[:3, :3].T @ direction
    return int(np.abs(in_anchor * voxel_sizes_mm(anchor.world_from_voxel)).argmax())


def _same_grid(first: Grid, second: Grid) -> bool:
    return first.shape == second.shape and np.allclose(
        first.world_from_voxel, second.world_from_voxel, atol=1e-3
    )


def check_anchor(scaffold: SessionScaffold) -> None:
    """Raise InputError where the anchor's own grid is no grid for a truth."""
    sides_mm = voxel_sizes_mm(scaffold.anchor.volume.world_from_voxel)
    if sides_mm.max() / sides_mm.min() > ISOTROPIC_ENOUGH:
        sides = " x ".join(f"{side:.3g}" for side in sides_mm)
        raise InputError(f"T1w with voxels of {sides} mm, expected isotropic ones to hold the truth")

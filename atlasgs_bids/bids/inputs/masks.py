"""Brain masks that other pipelines left in the dataset's derivatives."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from atlasgs_bids.bids.entities import DERIVATIVE_ENTITIES, parse_entities
from atlasgs_bids.bids.images import IMAGE_EXTENSIONS, ImageFile, ImageHeader, read_header


def find_brain_masks(
    bids_dir: Path, participant: str, derivatives: Mapping[str, Path] | None = None
) -> list[ImageFile]:
    """Brain masks in T1w space: of the given derivatives, then of those that lie in the dataset."""
    masks = []
    for path in _mask_paths([*(derivatives or {}).values(), *bids_dir.glob("derivatives/*")], participant):
        entities = parse_entities(path)
        if entities["extension"] in IMAGE_EXTENSIONS and entities.get("space", "T1w") == "T1w":
            header, problem = read_header(path)
            masks.append(ImageFile(path, entities, {}, header, problem))
    return masks


def find_region_masks(
    bids_dir: Path, participant: str, session: str | None, derivatives: Mapping[str, Path] | None = None
) -> dict[str, Path]:
    """Masks in T1w space, not of the brain, by ``label-`` or ``desc-``; the first of a name counts."""
    roots = [*(derivatives or {}).values(), *sorted(bids_dir.glob("derivatives/*"))]
    found: dict[str, Path] = {}
    for path in _mask_paths(roots, participant, "_mask"):
        entities = parse_entities(path)
        name = entities.get("label") or entities.get("desc")
        if name in (None, "brain", "head") or "fov" in str(name) or entities.get("space", "T1w") != "T1w":
            continue
        if entities["extension"] in IMAGE_EXTENSIONS and entities.get("session") in (None, session):
            found.setdefault(str(name), path)
    return found


def _mask_paths(roots: Sequence[Path], participant: str, ending: str = "desc-brain_mask") -> list[Path]:
    paths: list[Path] = []
    for root in roots:
        for folder in (f"sub-{participant}/anat", f"sub-{participant}/ses-*/anat"):
            paths += sorted(root.glob(f"{folder}/sub-*{ending}.nii*"))
    return paths


def choose_brain_mask(masks: Sequence[ImageFile], anchor: ImageFile) -> tuple[ImageFile | None, list[str]]:
    """The brain mask derivative that fits the anchor, if any, and warnings about those that do not."""
    ignored = {*DERIVATIVE_ENTITIES, "suffix", "extension", "datatype"}
    warnings: list[str] = []
    if anchor.entities["suffix"] != "T1w":
        return None, warnings
    # A mask belongs to the T1w that it was made from, whichever pipeline is named first.
    for mask in sorted(masks, key=lambda mask: mask.path.parent != anchor.path.parent):
        own = {name: value for name, value in mask.entities.items() if name not in ignored}
        if mask.entities.get("session") != anchor.entities.get("session"):
            continue
        if not own.items() <= anchor.entities.items():
            continue
        if mask.problem is not None or mask.header is None:
            warnings.append(f"brain mask {mask.path} not used: {mask.problem}")
        elif anchor.header is None or not _covers(mask.header, anchor.header):
            warnings.append(f"brain mask {mask.path} not used: its grid does not cover {anchor.path.name}")
        else:
            return mask, warnings
    return None, warnings


def _covers(mask: ImageHeader, anchor: ImageHeader) -> bool:
    """Whether the mask's field of view holds the anchor's, to within one voxel of the mask."""
    if len(mask.shape) != 3:
        return False
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in anchor.shape[:3]], [1], indexing="ij"), -1)
    mask_from_anchor = np.linalg.inv(mask.world_from_voxel) @ anchor.world_from_voxel
    corners_voxel = (corners.reshape(-1, 4) @ mask_from_anchor.T)[:, :3]
    return bool((corners_voxel >= -1).all() and (corners_voxel <= np.array(mask.shape)).all())

"""Inputs and settings -> what will be done for each session, and why; pure."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from atlasgs_bids.bids.entities import session_label
from atlasgs_bids.bids.images import ImageFile
from atlasgs_bids.bids.inputs.discover import SubjectInputs
from atlasgs_bids.bids.inputs.ignore import BIDSIGNORE
from atlasgs_bids.bids.inputs.masks import choose_brain_mask
from atlasgs_bids.bids.outputs.names import Naming
from atlasgs_bids.bids.plan.anchor import choose_anchor, inversion_magnitude, other_anchor
from atlasgs_bids.bids.plan.files import named_targets
from atlasgs_bids.bids.plan.positions import Position, find_position
from atlasgs_bids.bids.plan.settings import PlanSettings
from atlasgs_bids.bids.plan.targets import (
    TargetPlan,
    image_header,
    plan_targets,
)
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.volume import voxel_sizes_mm

MAX_OUTPUT_VOXELS = 1e9


@dataclass(frozen=True)
class SubjectPlan:
    """One session of a participant: what will be restored, from what, and what will not be."""

    participant: str
    session: str | None
    anchor: ImageFile
    anchor_reason: str
    brain_mask: ImageFile | None
    other_anchor: ImageFile | None
    """The image of another session that the scaffold is compared with; None: there is only one."""
    targets: tuple[TargetPlan, ...]
    skipped: tuple[tuple[Path, str], ...]
    """Images that need no restoration or are none of the app's, with the reason."""
    warnings: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    """Label and message of the targets that cannot be used."""
    magnitude: ImageFile | None = None
    """Of a UNIT1 anchor the second inversion, which tells the head from the air; None: there is none."""

    @property
    def space(self) -> str:
        """The anchor's suffix, after which the space of the results is called."""
        return self.anchor.entities["suffix"]

    @property
    def label(self) -> str:
        """``sub-01`` or ``sub-01 ses-1``."""
        return session_label(self.participant, self.session)


@np.errstate(all="ignore")  # headers and sidecars may hold any number: what comes of it is checked
def plan_subject(inputs: SubjectInputs, settings: PlanSettings, naming: Naming) -> SubjectPlan:
    """The plan of one session; raises InputError where it has no usable anchor."""
    if inputs.problem is not None:
        raise InputError(inputs.problem)
    anchor, anchor_reason, refused, warnings = choose_anchor(inputs, settings)
    _check_resolution(naming.resolution, anchor)
    anchor_voxel_mm = float(voxel_sizes_mm(image_header(anchor).world_from_voxel).min())
    brain_mask, mask_warnings = choose_brain_mask(inputs.brain_masks, anchor)
    magnitude, magnitude_warnings = inversion_magnitude(inputs, anchor)
    suffix = anchor.entities["suffix"]
    images = [image for image in inputs.targets if image.path != anchor.path]
    if suffix != "T1w":
        images += [i for i in inputs.anchors if _is_t1w_of(i, inputs.session)]
    others = {image.path for image in images}

    def position_of(image: ImageFile) -> Position:
        return find_position(anchor, image, inputs.transforms, inputs.preprocessed)

    found = plan_targets(images, position_of, anchor_voxel_mm, settings)
    targets, nameless = named_targets(found.targets, replace(naming, space=suffix))
    return SubjectPlan(
        participant=inputs.participant,
        session=inputs.session,
        anchor=anchor,
        anchor_reason=anchor_reason,
        brain_mask=brain_mask,
        other_anchor=other_anchor(inputs, anchor, settings),
        targets=tuple(targets),
        skipped=(
            *(own for own in refused if own[0] not in others),
            *found.skipped,
            *((path, BIDSIGNORE) for path in inputs.ignored),
        ),
        warnings=(*inputs.warnings, *warnings, *mask_warnings, *magnitude_warnings, *found.warnings),
        failures=(*inputs.failures, *found.failures, *nameless),
        magnitude=magnitude,
    )


def _check_resolution(resolution: str | float, anchor: ImageFile) -> None:
    """Raise InputError where the output grid would hold more voxels than any machine renders."""
    if isinstance(resolution, str):
        return
    header = image_header(anchor)
    volume_mm3 = float(np.prod(voxel_sizes_mm(header.world_from_voxel)) * np.prod(header.shape[:3]))
    n_voxels = volume_mm3 / resolution**3
    if n_voxels > MAX_OUTPUT_VOXELS:
        raise InputError(
            f"--resolution {resolution:g} mm makes {n_voxels:.2g} voxels over the field of view of "
            f"{anchor.path.name}, expected at most {MAX_OUTPUT_VOXELS:.2g}; choose larger voxels"
        )


def _is_t1w_of(image: ImageFile, session: str | None) -> bool:
    return image.entities["suffix"] == "T1w" and image.entities.get("session") == session

"""Images of a session -> targets: what is restored alone, what together, and what not; pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from atlasgs_bids.bids.entities import DERIVATIVE_ENTITIES, image_label
from atlasgs_bids.bids.images import ImageFile, ImageHeader
from atlasgs_bids.bids.plan.positions import Position
from atlasgs_bids.bids.plan.series import SeriesPlan, plan_series
from atlasgs_bids.bids.plan.settings import PlanSettings
from atlasgs_bids.errors import error_text
from atlasgs_bids.imaging.orientation import check_orientation
from atlasgs_bids.imaging.registration.itk_files import TransformStep
from atlasgs_bids.imaging.slices import SliceGeometry, slice_geometry, slice_normal

MIN_THICKNESS_RATIO = 1.5
"""Slice spacing over in-plane spacing, or over the anchor's voxel, from which an image is restored."""
_STACK_ENTITIES = ("acquisition", "direction", "run", "chunk")
"""Entities in which the stacks of one contrast may differ."""
_CONTRAST_FIELDS = ("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle")
_SAME_CONTRAST = 0.1
_PARALLEL_DEG = 30.0


@dataclass(frozen=True)
class StackPlan:
    """One acquired image."""

    source: ImageFile
    geometry: SliceGeometry
    transforms: tuple[TransformStep, ...] = ()
    """ITK files of other pipelines that lead to the anchor; none: it is registered."""


@dataclass(frozen=True)
class TargetPlan:
    """One output: a stack, several stacks of one contrast, or a series of volumes."""

    stacks: tuple[StackPlan, ...]
    entities: Mapping[str, str]
    """Of the output: those of the stacks, without the ones in which they differ."""
    label: str
    """``FLAIR``, ``acq-axial_T2w``."""
    series: SeriesPlan | None = None
    """What the volumes of a 4-D image are; None: a 3-D image."""

    @property
    def source(self) -> ImageFile:
        """The first stack's image."""
        return self.stacks[0].source

    @property
    def geometry(self) -> SliceGeometry:
        """The first stack's geometry."""
        return self.stacks[0].geometry

    def movement(self, asked: str) -> str:
        """What ``--motion`` means for it: between its ``volume``s, between its ``slice``s, or ``none``."""
        if self.series is not None:
            return "none" if asked == "none" else "volume"
        return "slice" if asked == "slice" else "none"


@dataclass
class SessionTargets:
    """The targets of one session, and what became of its other images."""

    targets: list[TargetPlan] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    """Images that need no restoration or are none of the app's, with the reason."""
    warnings: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    """Label and message of the images that cannot be used."""


def plan_targets(
    images: Sequence[ImageFile],
    position_of: Callable[[ImageFile], Position],
    anchor_voxel_mm: float,
    settings: PlanSettings,
) -> SessionTargets:
    """Every usable thick image of a session, stacks of one contrast together (``--combine-stacks``).

    ``position_of``: where other pipelines have an image.
    """
    found = SessionTargets()
    for image in images:
        label = image_label(image.entities)
        reason = not_raw_magnitude(image)
        if reason is None and label in {target.label for target in found.targets}:
            reason = "another file has the same name but for the extension"
        if reason is not None:
            found.skipped.append((image.path, reason))
            continue
        try:
            series = plan_series(image, images)
            geometry, orientation_warning = _target_geometry(image, settings)
            position = position_of(image)
        except Exception as error:  # noqa: BLE001 - whatever breaks one target breaks no other
            found.failures.append((label, led_by_name(image, error_text(error))))
            continue
        reason = _thin_enough(geometry, anchor_voxel_mm)
        if reason is not None:
            found.skipped.append((image.path, reason))
            continue
        stack = StackPlan(image, geometry, position.steps)
        found.targets.append(TargetPlan((stack,), image.entities, label, series))
        found.warnings += [
            f"{label}: {text}" for text in (*geometry.warnings, *orientation_warning, *position.warnings)
        ]
    return _combined(found, settings.combine_stacks)


def not_raw_magnitude(image: ImageFile) -> str | None:
    """Why an image is none that a scanner wrote as it is, or None."""
    part = image.entities.get("part", "mag")
    if part != "mag":
        return f"part-{part} is no magnitude image"
    derived = [name for name in DERIVATIVE_ENTITIES if name in image.entities]
    return f"a derivative ({derived[0]} in its name) among raw images" if derived else None


def orientation_conflict(image: ImageFile) -> str | None:
    """Warning where the two forms of a header disagree; InputError where one of them must be wrong."""
    header = image_header(image)
    return check_orientation(header.sform, header.sform_code, header.qform, header.qform_code, header.shape)


def led_by_name(image: ImageFile, message: str) -> str:
    """The message, led by the image's name where it does not have it.

    >>> image = ImageFile(Path("sub-01_T2w.nii"), {}, {}, None, None)
    >>> led_by_name(image, "no header"), led_by_name(image, "sub-01_T2w.nii is a broken link")
    ('sub-01_T2w.nii: no header', 'sub-01_T2w.nii is a broken link')
    """
    return message if image.path.name in message else f"{image.path.name}: {message}"


def image_header(image: ImageFile) -> ImageHeader:
    """The header of an image that has one."""
    assert image.header is not None, "an image without a header is refused before"
    return image.header


def _target_geometry(image: ImageFile, settings: PlanSettings) -> tuple[SliceGeometry, list[str]]:
    """How the slices lie, and a warning about the orientation; InputError where the image is unusable."""
    header = image_header(image)
    warning = orientation_conflict(image)
    given_mm = settings.given_thickness_mm(image.entities["suffix"])
    geometry = slice_geometry(header.shape[:3], header.world_from_voxel, image.sidecar, given_mm)
    return geometry, [warning] if warning else []


def _thin_enough(geometry: SliceGeometry, anchor_voxel_mm: float) -> str | None:
    """Why an image needs no restoration; None: its slices are thick."""
    in_plane_mm = max(geometry.in_plane_mm)
    limit_mm = MIN_THICKNESS_RATIO * min(in_plane_mm, anchor_voxel_mm)
    if geometry.spacing_mm >= limit_mm * (1 - 1e-3):  # an affine's last bits decide nothing
        return None
    return (
        f"slice spacing {geometry.spacing_mm:.3g} mm is below {MIN_THICKNESS_RATIO:g} times the in-plane "
        f"spacing ({in_plane_mm:.3g} mm) and the anchor's voxel ({anchor_voxel_mm:.3g} mm)"
    )


def _combined(found: SessionTargets, how: str) -> SessionTargets:
    """Stacks of one contrast made one target each (docs/decisions/0010-stacks.md)."""
    sets: dict[tuple[tuple[str, str], ...], list[TargetPlan]] = {}
    for target in found.targets:
        kept = {n: v for n, v in target.entities.items() if n not in (*_STACK_ENTITIES, "extension")}
        if target.series is not None or how == "none":
            kept = dict(target.entities)
        sets.setdefault(tuple(sorted(kept.items())), []).append(target)
    found.targets = []
    for members in sets.values():
        apart = _why_apart(members, how) if len(members) > 1 else None
        if len(members) == 1 or apart is not None:
            found.targets += members
            found.warnings += [apart] if apart else []
        else:
            found.targets.append(_joined(members))
    return found


def _joined(members: Sequence[TargetPlan]) -> TargetPlan:
    shared = dict(members[0].entities)
    for member in members[1:]:
        shared = {name: value for name, value in shared.items() if member.entities.get(name) == value}
    shared["extension"] = members[0].entities["extension"]
    stacks = tuple(stack for member in members for stack in member.stacks)
    return replace(members[0], stacks=stacks, entities=shared, label=image_label(shared))


def _why_apart(members: Sequence[TargetPlan], how: str) -> str | None:
    """Why images that could be stacks of one contrast are restored apart; None: they are combined."""
    names = ", ".join(member.label for member in members)
    for name in _CONTRAST_FIELDS:
        values = [member.source.sidecar.get(name) for member in members]
        numbers = [float(value) for value in values if isinstance(value, (int, float)) and 0 < value < np.inf]
        if numbers and max(numbers) > (1 + _SAME_CONTRAST) * min(numbers):
            return f"{names}: {name} differs ({_listed(numbers)}), so they are restored apart"
    if how == "all" or _are_chunks(members):
        return None
    normals = [
        slice_normal(image_header(stack.source).world_from_voxel, stack.geometry.axis)
        for member in members
        for stack in member.stacks
    ]
    cosines = [abs(float(a @ b)) for i, a in enumerate(normals) for b in normals[:i]]
    if max(cosines) > np.cos(np.radians(_PARALLEL_DEG)):
        return (
            f"{names}: slices in the same direction, so they count as repeats and are restored apart; "
            "--combine-stacks all restores them together, --bids-filter-file picks some"
        )
    return None


def _are_chunks(members: Sequence[TargetPlan]) -> bool:
    """Whether they are the parts of one field of view."""

    def others(target: TargetPlan) -> dict[str, Any]:
        return {n: v for n, v in target.entities.items() if n not in ("chunk", "extension")}

    chunked = all("chunk" in member.entities for member in members)
    return chunked and all(others(member) == others(members[0]) for member in members)


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)

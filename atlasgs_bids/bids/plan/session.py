"""Inputs and settings -> what will be done for each session, and why; pure."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atlasgs_bids.bids.entities import session_label
from atlasgs_bids.bids.images import ImageFile, ImageHeader, no_volume
from atlasgs_bids.bids.inputs.discover import SubjectInputs
from atlasgs_bids.bids.inputs.ignore import BIDSIGNORE
from atlasgs_bids.bids.inputs.masks import choose_brain_mask
from atlasgs_bids.bids.outputs.names import Naming
from atlasgs_bids.bids.plan.files import named_targets
from atlasgs_bids.bids.plan.positions import Position, find_position
from atlasgs_bids.bids.plan.settings import PlanSettings
from atlasgs_bids.bids.plan.targets import (
    TargetPlan,
    image_header,
    led_by_name,
    not_raw_magnitude,
    orientation_conflict,
    plan_targets,
)
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.volume import voxel_sizes_mm

MAX_ANCHOR_ANISOTROPY = 3.0
"""Longest over shortest voxel side from which a T1w is no anchor."""
ISOTROPIC_ENOUGH = 1.5
"""Anisotropy up to which an anchor counts as isotropic."""
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
    """The T1w of another session that the scaffold is compared with; None: there is only one."""
    targets: tuple[TargetPlan, ...]
    skipped: tuple[tuple[Path, str], ...]
    """Images that need no restoration or are none of the app's, with the reason."""
    warnings: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    """Label and message of the targets that cannot be used."""

    @property
    def label(self) -> str:
        """``sub-01`` or ``sub-01 ses-1``."""
        return session_label(self.participant, self.session)


@np.errstate(all="ignore")  # headers and sidecars may hold any number: what comes of it is checked
def plan_subject(inputs: SubjectInputs, settings: PlanSettings, naming: Naming) -> SubjectPlan:
    """The plan of one session; raises InputError where it has no usable T1w."""
    if inputs.problem is not None:
        raise InputError(inputs.problem)
    anchor, anchor_reason, refused, warnings = _choose_anchor(inputs, settings.anchor_session)
    _check_resolution(naming.resolution, anchor)
    anchor_voxel_mm = float(voxel_sizes_mm(image_header(anchor).world_from_voxel).min())
    brain_mask, mask_warnings = choose_brain_mask(inputs.brain_masks, anchor)

    def position_of(image: ImageFile) -> Position:
        return find_position(anchor, image, inputs.transforms, inputs.preprocessed)

    found = plan_targets(inputs.targets, position_of, anchor_voxel_mm, settings)
    targets, nameless = named_targets(found.targets, naming)
    return SubjectPlan(
        participant=inputs.participant,
        session=inputs.session,
        anchor=anchor,
        anchor_reason=anchor_reason,
        brain_mask=brain_mask,
        other_anchor=_other_anchor(inputs, anchor),
        targets=tuple(targets),
        skipped=(*refused, *found.skipped, *((path, BIDSIGNORE) for path in inputs.ignored)),
        warnings=(*inputs.warnings, *warnings, *mask_warnings, *found.warnings),
        failures=(*inputs.failures, *found.failures, *nameless),
    )


def _choose_anchor(
    inputs: SubjectInputs, asked_session: str | None
) -> tuple[ImageFile, str, list[tuple[Path, str]], list[str]]:
    """The T1w to use, why this one, the session's T1w images that cannot be used, and warnings."""
    wanted = asked_session or inputs.session
    ready = [i for i in inputs.preprocessed if i.entities.get("session") in (wanted, None)]
    problems_of_ready = [(i, no_volume(i)) for i in ready]
    unused = [f"{led_by_name(i, problem)}; it is not used" for i, problem in problems_of_ready if problem]
    ready = [i for i, problem in problems_of_ready if problem is None]
    if ready:
        anchor = max(ready, key=lambda image: "session" in image.entities)
        return anchor, f"preprocessed, {_sides(image_header(anchor))} mm", [], unused
    judged = [(image, _anchor_problem(image)) for image in inputs.anchors]
    usable = [image for image, problem in judged if problem is None]
    refused = [(image, problem) for image, problem in judged if problem is not None]
    sessions = sorted({image.entities.get("session") for image in usable}, key=lambda label: label or "")
    if not sessions or (asked_session is not None and asked_session not in sessions):
        problems = [led_by_name(image, problem) for image, problem in refused]
        problems += [
            f"{path.name}: ignored ({BIDSIGNORE})" for path in inputs.ignored if "_T1w." in path.name
        ]
        problems += [message for label, message in inputs.failures if label == "anat"]
        where = f" in ses-{asked_session} (--anchor-session)" if asked_session else ""
        raise InputError(
            f"{'; '.join(problems) or 'found no T1w image'}{where}; expected a T1w with a voxel anisotropy "
            f"below {MAX_ANCHOR_ANISOTROPY:g} as the anchor; add one, or point to it with --bids-filter-file"
        )
    session = wanted if wanted in sessions else sessions[0]
    candidates = sorted((i for i in usable if i.entities.get("session") == session), key=_anchor_rank)
    anchor = candidates[0]
    header = image_header(anchor)
    warnings = unused
    if session not in (inputs.session, asked_session):
        where = f"ses-{session}" if session else "outside the sessions"
        warnings.append(f"no usable T1w in this session; {anchor.path.name} ({where}) is the anchor")
    conflict = orientation_conflict(anchor)
    warnings += [f"{anchor.path.name}: {conflict}"] if conflict else []
    if _anisotropy(header) > ISOTROPIC_ENOUGH:
        warnings.append(
            f"{anchor.path.name} has voxels of {_sides(header)} mm, expected isotropic ones; "
            "the results can be no better along its longest side"
        )
    here = [(i.path, problem) for i, problem in refused if i.entities.get("session") == inputs.session]
    return anchor, _anchor_reason(candidates), here, warnings


def _other_anchor(inputs: SubjectInputs, anchor: ImageFile) -> ImageFile | None:
    """This session's own T1w where another session's is the anchor, else that of the first other session."""
    usable = [image for image in inputs.anchors if _anchor_problem(image) is None]
    others = [i for i in usable if i.entities.get("session") != anchor.entities.get("session")]
    if not others or anchor.entities.get("session") is None:
        return None
    session = inputs.session
    if session not in {image.entities.get("session") for image in others}:
        session = min(image.entities.get("session") or "" for image in others)
    return min((i for i in others if (i.entities.get("session") or "") == (session or "")), key=_anchor_rank)


def _anchor_problem(image: ImageFile) -> str | None:
    """Why a raw T1w cannot be the anchor."""
    problem = image.problem or not_raw_magnitude(image) or no_volume(image)
    if problem is not None:
        return problem
    header = image_header(image)
    anisotropy = _anisotropy(header)
    if anisotropy >= MAX_ANCHOR_ANISOTROPY:
        return f"thick slices, voxels of {_sides(header)} mm (anisotropy {anisotropy:.1f})"
    try:
        orientation_conflict(image)
    except InputError as error:
        return str(error)
    return None


def _anchor_rank(image: ImageFile) -> tuple[object, ...]:
    """Sort key: isotropic, smallest voxel, no contrast agent, first run, path."""
    header = image_header(image)
    volume_mm3 = float(np.prod(voxel_sizes_mm(header.world_from_voxel)))
    return (
        _anisotropy(header) > ISOTROPIC_ENOUGH,
        # Three digits: the last bits of an affine must not overrule the order of the runs.
        float(f"{volume_mm3:.3g}"),
        "ceagent" in image.entities,
        _natural(image.entities.get("run", "")),
        image.path.as_posix(),
    )


def _natural(label: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort key of any text: its numbers count as numbers, and come before letters.

    >>> sorted(["b", "10", "5F", "2", "", "5A"], key=_natural)
    ['', '2', '5A', '5F', '10', 'b']
    """
    parts = re.findall(r"([0-9]+)|([^0-9]+)", label)
    return tuple((bool(text), int(digits or 0), text) for digits, text in parts)


def _anchor_reason(candidates: list[ImageFile]) -> str:
    """Why the first of the ranked candidates was taken."""
    first = candidates[0]
    if len(candidates) == 1:
        return f"the only usable T1w, {_sides(image_header(first))} mm"
    ranks = [_anchor_rank(image) for image in candidates[:2]]
    words = (
        "isotropic",
        "the smallest voxels",
        "without contrast agent",
        "the first run",
        "the first by name",
    )
    word = next(word for word, best, second in zip(words, *ranks, strict=True) if best != second)
    others = ", ".join(image.path.name for image in candidates[1:])
    return f"{word} of {len(candidates)} T1w images, {_sides(image_header(first))} mm (not {others})"


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


def _anisotropy(header: ImageHeader) -> float:
    sides_mm = voxel_sizes_mm(header.world_from_voxel)
    return float(sides_mm.max() / sides_mm.min())


def _sides(header: ImageHeader) -> str:
    return " x ".join(f"{side:.3g}" for side in voxel_sizes_mm(header.world_from_voxel))

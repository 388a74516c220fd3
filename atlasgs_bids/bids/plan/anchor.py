"""Which image of a session is its anchor, and why; pure."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atlasgs_bids.bids.entities import ANCHOR_SUFFIXES, parse_entities
from atlasgs_bids.bids.images import ImageFile, ImageHeader, no_volume, same_grid
from atlasgs_bids.bids.inputs.discover import SubjectInputs
from atlasgs_bids.bids.inputs.ignore import BIDSIGNORE
from atlasgs_bids.bids.plan.settings import PlanSettings
from atlasgs_bids.bids.plan.targets import image_header, led_by_name, not_raw_magnitude, orientation_conflict
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.volume import voxel_sizes_mm

MAX_ANCHOR_ANISOTROPY = 3.0
"""Longest over shortest voxel side from which an image is no anchor."""
ISOTROPIC_ENOUGH = 1.5
"""Anisotropy up to which an anchor counts as isotropic."""
LEAST_EXTENT_MM = 60.0
"""Of a T2w or FLAIR that ``auto`` takes: fine isotropic slabs show an ear, a nerve or a hippocampus."""
MOST_THICKNESS_MM = 20.0
_ALIKE_MM = 1e-2
"""Up to which two grids are one: of images of one acquisition."""
_ANCHORS_ONLY = ("T1w", "UNIT1")
"""Kinds that are mostly there to be an anchor."""


def choose_anchor(
    inputs: SubjectInputs, settings: PlanSettings
) -> tuple[ImageFile, str, list[tuple[Path, str]], list[str]]:
    """The image to use, why this one, the session's images that cannot be used, and warnings."""
    asked_session = settings.anchor_session
    wanted = asked_session or inputs.session
    allowed = ANCHOR_SUFFIXES if settings.anchor == "auto" else (settings.anchor,)
    ready = [i for i in inputs.preprocessed if i.entities.get("session") in (wanted, None)]
    ready = ready if "T1w" in allowed else []
    problems_of_ready = [(i, no_volume(i)) for i in ready]
    unused = [f"{led_by_name(i, problem)}; it is not used" for i, problem in problems_of_ready if problem]
    ready = [i for i, problem in problems_of_ready if problem is None]
    if ready:
        anchor = max(ready, key=lambda image: "session" in image.entities)
        return anchor, f"preprocessed, {_sides(image_header(anchor))} mm", [], unused
    judged = [(i, _anchor_problem(i, settings)) for i in inputs.anchors if i.entities["suffix"] in allowed]
    usable = [image for image, problem in judged if problem is None]
    refused = [(image, problem) for image, problem in judged if problem is not None]
    sessions = {image.entities.get("session") for image in usable}
    if not sessions or (asked_session is not None and asked_session not in sessions):
        raise InputError(_no_anchor(inputs, settings, refused))
    # Of one kind before of this session: all sessions of a participant then lie in one space.
    in_session = [i for i in usable if asked_session in (None, i.entities.get("session"))]
    kind = min(in_session, key=_kind_rank).entities["suffix"]
    if any(image.problem is not None and _comes_before(image, kind) for image, _ in refused):
        # It would be the anchor: a file that was not fetched must not move the results elsewhere.
        raise InputError(_no_anchor(inputs, settings, refused))
    of_kind = [image for image in in_session if image.entities["suffix"] == kind]
    sessions = {image.entities.get("session") for image in of_kind}
    session = wanted if wanted in sessions else min(sessions, key=lambda label: label or "")
    candidates = sorted((i for i in of_kind if i.entities.get("session") == session), key=_anchor_rank)
    anchor = candidates[0]
    warnings = unused
    if session not in (inputs.session, asked_session):
        where = f"ses-{session}" if session else "outside the sessions"
        warnings.append(f"no usable {kind} in this session; {anchor.path.name} ({where}) is the anchor")
    conflict = orientation_conflict(anchor)
    warnings += [f"{anchor.path.name}: {conflict}"] if conflict else []
    if _anisotropy(anchor) > ISOTROPIC_ENOUGH:
        warnings.append(
            f"{anchor.path.name} has voxels of {_acquired_sides(anchor)} mm, expected isotropic ones; "
            "the results can be no better along its longest side"
        )
    here = [(i.path, problem) for i, problem in refused if i.entities.get("session") == inputs.session]
    reason = _anchor_reason(candidates) + _instead_of(anchor, in_session, settings)
    return anchor, reason, here, warnings


def _no_anchor(
    inputs: SubjectInputs, settings: PlanSettings, refused: Sequence[tuple[ImageFile, str]]
) -> str:
    """Why a session cannot be restored: what was found, and what is expected."""
    kinds = _ANCHORS_ONLY if settings.anchor == "auto" else (settings.anchor,)
    problems = [led_by_name(i, problem) for i, problem in refused if i.entities["suffix"] in kinds]
    problems += [
        f"{path.name}: ignored ({BIDSIGNORE})"
        for path in inputs.ignored
        if parse_entities(path)["suffix"] in kinds
    ]
    problems += [message for label, message in inputs.failures if label == "anat"]
    asked = settings.anchor_session
    where = f" in ses-{asked} (--anchor-session)" if asked else ""
    others = " (or an isotropic UNIT1, T2w or FLAIR)" if settings.anchor == "auto" else ""
    return (
        f"{'; '.join(problems) or f'found no {kinds[0]} image'}{where}; expected a {kinds[0]} with a voxel "
        f"anisotropy below {MAX_ANCHOR_ANISOTROPY:g}{others} as the anchor; add one, or point to it with "
        "--bids-filter-file or --anchor"
    )


def _instead_of(anchor: ImageFile, usable: Sequence[ImageFile], settings: PlanSettings) -> str:
    """What was not taken for the sake of this anchor, or is not there; "": there was no other kind."""
    suffix = anchor.entities["suffix"]
    if settings.anchor != "auto":
        return " (--anchor)"
    order = ANCHOR_SUFFIXES.index(suffix)
    there = {image.entities["suffix"] for image in usable}
    missing = [name for name in ANCHOR_SUFFIXES[:order] if name not in there]
    coarser = [name for name in ANCHOR_SUFFIXES[:order] if name in there]
    later = [name for name in ANCHOR_SUFFIXES[order + 1 :] if name in there]
    said = {"no usable": missing, "more isotropic than the": coarser, "before": later}
    return "".join(f"; {words} {', '.join(names)}" for words, names in said.items() if names)


def inversion_magnitude(inputs: SubjectInputs, anchor: ImageFile) -> tuple[ImageFile | None, list[str]]:
    """The second inversion of a UNIT1, whose air is silent, and why one is not used."""
    if anchor.entities["suffix"] != "UNIT1":
        return None, []
    own = {**anchor.entities, "suffix": "MP2RAGE", "inv": "2"}
    for image in inputs.inversions:
        its = {name: value for name, value in image.entities.items() if name != "part"}
        its["inv"] = its.get("inv", "").lstrip("0")
        if not_raw_magnitude(image) or {**its, "extension": ""} != {**own, "extension": ""}:
            continue
        problem = no_volume(image) or (
            None if same_grid(image, anchor, _ALIKE_MM) else "not on the grid of the UNIT1"
        )
        return (image, []) if problem is None else (None, [f"{led_by_name(image, problem)}; it is not used"])
    return None, []


def other_anchor(inputs: SubjectInputs, anchor: ImageFile, settings: PlanSettings) -> ImageFile | None:
    """This session's own image where another session's is the anchor, else the first other session's."""
    suffix = anchor.entities["suffix"]
    of_kind = [image for image in inputs.anchors if image.entities["suffix"] == suffix]
    usable = [image for image in of_kind if _anchor_problem(image, settings) is None]
    others = [i for i in usable if i.entities.get("session") != anchor.entities.get("session")]
    if not others or anchor.entities.get("session") is None:
        return None
    session = inputs.session
    if session not in {image.entities.get("session") for image in others}:
        session = min(image.entities.get("session") or "" for image in others)
    return min((i for i in others if (i.entities.get("session") or "") == (session or "")), key=_anchor_rank)


def _anchor_problem(image: ImageFile, settings: PlanSettings) -> str | None:
    """Why a raw image cannot be the anchor."""
    problem = image.problem or not_raw_magnitude(image) or no_volume(image)
    if problem is not None:
        return problem
    header = image_header(image)
    sides_mm = voxel_sizes_mm(header.world_from_voxel)
    anisotropy = float(sides_mm.max() / sides_mm.min())
    if anisotropy >= MAX_ANCHOR_ANISOTROPY:
        return f"thick slices, voxels of {_sides(header)} mm (anisotropy {anisotropy:.1f})"
    if settings.anchor == "auto" and image.entities["suffix"] != "T1w":
        if _anisotropy(image) > ISOTROPIC_ENOUGH:
            return f"voxels of {_acquired_sides(image)} mm, expected isotropic ones of an anchor"
        shortest_mm = float((np.array(header.shape[:3]) * sides_mm).min())
        if shortest_mm < LEAST_EXTENT_MM:
            return f"a slab of {shortest_mm:.0f} mm, expected at least {LEAST_EXTENT_MM:g} mm of an anchor"
    try:
        orientation_conflict(image)
    except InputError as error:
        return str(error)
    return None


def _kind_rank(image: ImageFile) -> tuple[bool, int]:
    """Sort key of kinds of anchors: isotropic ones first, then in the order of ``ANCHOR_SUFFIXES``."""
    return _anisotropy(image) > ISOTROPIC_ENOUGH, ANCHOR_SUFFIXES.index(image.entities["suffix"])


def _comes_before(image: ImageFile, kind: str) -> bool:
    """Whether an image, were it usable, is the anchor instead of one of ``kind``: a T2w may be thick."""
    suffix = image.entities["suffix"]
    return suffix in _ANCHORS_ONLY and ANCHOR_SUFFIXES.index(suffix) < ANCHOR_SUFFIXES.index(kind)


def _anchor_rank(image: ImageFile) -> tuple[object, ...]:
    """Sort key: isotropic, smallest voxel, no contrast agent, first run, path."""
    volume_mm3 = float(np.prod(voxel_sizes_mm(image_header(image).world_from_voxel)))
    return (
        _anisotropy(image) > ISOTROPIC_ENOUGH,
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
        return f"the only usable {first.entities['suffix']}, {_sides(image_header(first))} mm"
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
    sides, kind = _sides(image_header(first)), first.entities["suffix"]
    return f"{word} of {len(candidates)} {kind} images, {sides} mm (not {others})"


def _anisotropy(image: ImageFile) -> float:
    """Longest over shortest side of what a voxel was acquired from."""
    sides_mm = voxel_sizes_mm(image_header(image).world_from_voxel)
    return float(max(sides_mm.max(), _stated_thickness_mm(image)) / sides_mm.min())


def _stated_thickness_mm(image: ImageFile) -> float:
    """``SliceThickness``, which interpolated slices keep; 0 where none that can be is stated."""
    stated: Any = image.sidecar.get("SliceThickness")
    is_one = (
        isinstance(stated, (int, float)) and not isinstance(stated, bool) and 0 < stated < MOST_THICKNESS_MM
    )
    return float(stated) if is_one else 0.0


def _acquired_sides(image: ImageFile) -> str:
    """The sides of a voxel, and the thickness of what it was interpolated from."""
    header, stated_mm = image_header(image), _stated_thickness_mm(image)
    longest_mm = float(voxel_sizes_mm(header.world_from_voxel).max())
    interpolated = stated_mm > ISOTROPIC_ENOUGH * longest_mm
    return _sides(header) + (f" (from slices of {stated_mm:g})" if interpolated else "")


def _sides(header: ImageHeader) -> str:
    return " x ".join(f"{side:.3g}" for side in voxel_sizes_mm(header.world_from_voxel))

"""Rigid registration of a target to the anchor, and its ITK transform file."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.itk import itk_affine
from atlasgs_bids.imaging.registration.alignment import align, mirrored_information, mutual_information
from atlasgs_bids.imaging.registration.itk_files import Affine, Points
from atlasgs_bids.imaging.registration.pair import ImagePair
from atlasgs_bids.imaging.volume import Volume

_MAX_ROTATION_DEG, _MAX_DISPLACEMENT_MM = 45.0, 150.0
_LARGE_ROTATION_DEG, _LARGE_DISPLACEMENT_MM = 20.0, 30.0
_MIN_METRIC_RATIO = 0.98
_MIRRORED_BETTER, _MIRRORED_SURELY = 1.02, 1.2
"""Mutual information of the mirror image over the target's own from which left and right may be, and are,
swapped: 0.3 to 0.5 where they are right, 2.2 to 3.1 where they are swapped (one head, FLAIR and T2w, slices
of 3 to 7 mm); 0.93 to 0.99 and 1.01 to 1.08 in an atlas, which is nearly symmetric."""
_LEAST_COVERED = 0.01
"""Part of the anchor's foreground that a target covers at least."""
_N_POINTS = 20_000


@dataclass(frozen=True)
class Registration:
    """Where the target lies relative to the anchor, and how that was found."""

    target_from_anchor: Affine
    """(4, 4) rigid point map, RAS world mm."""
    rotation_deg: float
    translation_mm: float
    """Displacement of the centre of the anchor's foreground."""
    displacement_mm: float
    """Mean displacement over the anchor's foreground."""
    method: str
    """Where ``target_from_anchor`` comes from: ``rigid``, ``header`` or ``derivative``."""
    metric_before: float | None
    """Mutual information at the position in the headers, nats, higher is better; None: not known."""
    metric_after: float | None
    """The same at the position that registration found, also where that was then refused."""
    warnings: tuple[str, ...] = ()


def register(
    anchor: Volume, anchor_foreground: npt.NDArray[np.bool_], target: Volume, method: str
) -> Registration:
    """Position of the target relative to the anchor: ``header`` as stored, ``rigid`` refined from there.

    The result is the same for every number of threads. Where registration fails, or moves the target to
    where it fits worse or cannot be, the position in the headers is returned with a warning. Raises
    InputError for a target that fits better mirrored, or that covers nothing of the foreground.
    """
    points_world = foreground_points(anchor, anchor_foreground)
    if method == "header":
        found = described(np.eye(4), points_world, "header", None, None)
    elif method == "rigid":
        found = _refined(anchor, anchor_foreground, target, points_world)
    else:
        raise ValueError(f"registration method {method!r}, expected 'rigid' or 'header'")
    check_cover(found, points_world, target)
    return found


def _refined(
    anchor: Volume,
    anchor_foreground: npt.NDArray[np.bool_],
    target: Volume,
    points_world: Points,
) -> Registration:
    pair = ImagePair.of(anchor, anchor_foreground, points_world, target)
    before = after = None
    try:
        before = mutual_information(pair, np.eye(4))
        alignment = align(pair)
        after = mutual_information(pair, alignment.anchor_from_target)
    except RuntimeError as error:
        stopped = f"registration stopped ({str(error).strip().splitlines()[-1].strip()})"
        return _header_instead(stopped, points_world, before, after)
    target_from_anchor = np.asarray(np.linalg.inv(alignment.anchor_from_target), dtype=np.float64)
    found = described(target_from_anchor, points_world, "rigid", before, after)
    # Where the headers do not overlap at all they say nothing of how far the head may lie from them.
    apart = in_view(np.eye(4), points_world, target).mean() < _LEAST_COVERED
    problem = _problem(found, math.inf if apart else _MAX_DISPLACEMENT_MM)
    if problem:
        return _header_instead(problem, points_world, before, after)
    warning = _handedness_warning(pair, alignment.anchor_from_target, after)
    return found if warning is None else replace(found, warnings=(*found.warnings, warning))


def _handedness_warning(pair: ImagePair, anchor_from_target: Affine, information: float | None) -> str | None:
    """What to say where the target fits a little better mirrored; InputError where it fits far better."""
    mirrored = mirrored_information(pair, anchor_from_target)
    if mirrored is None or information is None or mirrored <= _MIRRORED_BETTER * information:
        return None
    seen = f"fits the anchor better mirrored (mutual information {mirrored:.2f} instead of {information:.2f})"
    if mirrored > _MIRRORED_SURELY * information:
        raise InputError(
            f"{seen}, so left and right are swapped in one of the two headers; correct that one (convert it "
            "again from DICOM)"
        )
    return f"{seen}, so left and right may be swapped in one of the two headers; check them"


def in_view(target_from_anchor: Affine, points_world: Points, target: Volume) -> npt.NDArray[np.bool_]:
    """(n,) whether points (n, 3) of the anchor's world lie in the target's field of view."""
    voxel_from_anchor = np.linalg.inv(target.world_from_voxel) @ target_from_anchor
    points_vox = points_world @ voxel_from_anchor[:3, :3].T + voxel_from_anchor[:3, 3]
    within = (points_vox >= -0.5) & (points_vox <= np.array(target.data.shape) - 0.5)
    return np.asarray(within.all(axis=1))


def check_cover(found: Registration, points_world: Points, target: Volume) -> None:
    """InputError where the target shows nothing of the head, given by points (n, 3) all over it."""
    covered = float(in_view(found.target_from_anchor, points_world, target).mean())
    if covered < _LEAST_COVERED:
        why = f"; {found.warnings[0]}" if found.warnings else ""
        raise InputError(
            f"the slices cover {covered:.1%} of the anchor's head ({found.method} position), expected at "
            f"least {_LEAST_COVERED:.0%}; check that both show one head, and the origins in their "
            f"headers{why}"
        )


def apart_mm(one: Affine, other: Affine, points_world: Points) -> float:
    """Mean distance between where two point maps (4, 4) put points (n, 3), mm."""
    difference = one - other
    return float(np.linalg.norm(points_world @ difference[:3, :3].T + difference[:3, 3], axis=1).mean())


def moved_registration(found: Registration, target_from_anchor: Affine, points_world: Points) -> Registration:
    """The registration refined to another position; ``points_world`` (n, 3) lie all over the foreground."""
    moved = described(target_from_anchor, points_world, "rigid", found.metric_before, found.metric_after)
    return replace(moved, warnings=found.warnings)


def foreground_points(anchor: Volume, anchor_foreground: npt.NDArray[np.bool_]) -> Points:
    """(n, 3) world points all over the foreground."""
    if not anchor_foreground.any():
        raise InputError(
            "the anchor's foreground mask is empty, expected a head or brain; "
            "check the image and its brain mask"
        )
    indices = np.argwhere(anchor_foreground)
    indices = indices[:: max(1, len(indices) // _N_POINTS)]
    return np.asarray(indices @ anchor.world_from_voxel[:3, :3].T + anchor.world_from_voxel[:3, 3])


def write_itk_transform(path: str | Path, registration: Registration) -> None:
    """ITK text file with the point map anchor -> target in LPS mm.

    As ``antsApplyTransforms -i target -r anchor -t <path>`` wants it, to bring the target onto the anchor.
    """
    SimpleITK.WriteTransform(itk_affine(registration.target_from_anchor), str(path))


def described(
    target_from_anchor: Affine,
    points_world: Points,
    method: str,
    metric_before: float | None,
    metric_after: float | None,
    warnings: tuple[str, ...] = (),
) -> Registration:
    """The registration with its motion measured over the anchor's foreground."""
    moved_mm = points_world @ target_from_anchor[:3, :3].T + target_from_anchor[:3, 3] - points_world
    # Half the Frobenius distance is accurate at small angles, where arccos of the trace is not.
    half_sine = float(np.linalg.norm(target_from_anchor[:3, :3] - np.eye(3))) / (2 * np.sqrt(2))
    rotation_deg = float(np.degrees(2 * np.arcsin(min(1.0, half_sine))))
    displacement_mm = float(np.linalg.norm(moved_mm, axis=1).mean())
    if rotation_deg > _LARGE_ROTATION_DEG or displacement_mm > _LARGE_DISPLACEMENT_MM:
        seen = f"the target was moved by {displacement_mm:.0f} mm and {rotation_deg:.0f} degrees"
        remedy = "check the figure, or use --registration header"
        warnings += (f"{seen}, more than expected within a session; {remedy}",)
    return Registration(
        target_from_anchor=target_from_anchor,
        rotation_deg=rotation_deg,
        translation_mm=float(np.linalg.norm(moved_mm.mean(axis=0))),
        displacement_mm=displacement_mm,
        method=method,
        metric_before=metric_before,
        metric_after=metric_after,
        warnings=warnings,
    )


def _problem(found: Registration, max_displacement_mm: float = _MAX_DISPLACEMENT_MM) -> str | None:
    """Why the position cannot be believed, or None."""
    if found.rotation_deg > _MAX_ROTATION_DEG or found.displacement_mm > max_displacement_mm:
        return (
            f"registration moved the target by {found.displacement_mm:.0f} mm and {found.rotation_deg:.0f} "
            f"degrees, expected at most {_MAX_DISPLACEMENT_MM:.0f} mm and {_MAX_ROTATION_DEG:.0f} degrees"
        )
    if found.metric_after is None:
        return "registration moved the target off the anchor's foreground"
    if found.metric_before is not None and found.metric_after < _MIN_METRIC_RATIO * found.metric_before:
        return (
            f"registration lowered the mutual information from {found.metric_before:.4f} "
            f"to {found.metric_after:.4f}, expected it to rise"
        )
    return None


def _header_instead(
    problem: str,
    points_world: Points,
    metric_before: float | None,
    metric_after: float | None,
) -> Registration:
    warning = f"{problem}; the position in the headers is used instead; check that the two images fit there"
    return described(np.eye(4), points_world, "header", metric_before, metric_after, (warning,))

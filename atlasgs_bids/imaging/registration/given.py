"""Positions that others found: rigid ones, and those that bend, as what is rigid in them and the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.displacement import Displacement, centres_mm, coarse_grid, parted
from atlasgs_bids.imaging.registration.itk_files import PointMap, Points, TransformStep, chained
from atlasgs_bids.imaging.registration.register import (
    Registration,
    check_cover,
    described,
    foreground_points,
    in_view,
)
from atlasgs_bids.imaging.volume import Volume

_MAX_SCALING = 0.01
_FIELD_MM = 2.0
"""Voxels of a field over the anchor: about those of the echo-planar images that fields are made from."""
_MOST_UNKNOWN = 0.01
"""Part of the head in the slices that a field may say nothing of."""

Mask = npt.NDArray[np.bool_]


def given_registration(
    anchor: Volume, anchor_foreground: Mask, target: Volume, steps: Sequence[TransformStep]
) -> tuple[Registration, Displacement | None]:
    """The position that another pipeline found, from its ITK files; InputError where that cannot be.

    A displacement: of the head in the anchor's world, before the rigid position.
    """
    way, names = chained(steps), ", ".join(step.path.name for step in steps)
    points_mm = foreground_points(anchor, anchor_foreground)
    if way.affine is None:
        whole = _over_anchor(way, anchor, points_mm, target, names)
        return displaced_registration(points_mm, target, whole)
    linear = way.affine[:3, :3]
    if np.abs(linear @ linear.T - np.eye(3)).max() > _MAX_SCALING or np.linalg.det(linear) < 0:
        raise InputError(
            f"{names}: scales or mirrors, expected a rigid transform; without it the target is registered"
        )
    found = described(way.affine, points_mm, "derivative", None, None)
    check_cover(found, points_mm, target)
    return found, None


def displaced_registration(
    points_mm: Points, target: Volume, whole: Displacement
) -> tuple[Registration, Displacement]:
    """What is rigid in a map from the anchor's points to the target's, and the displacement before it.

    ``points_mm`` (n, 3) lie all over the head.
    """
    target_from_anchor, displacement = parted(whole, points_mm)
    found = described(target_from_anchor, points_mm, "derivative", None, None)
    check_cover(found, points_mm, target)
    return found, displacement


def _over_anchor(
    way: PointMap, anchor: Volume, points_mm: Points, target: Volume, names: str
) -> Displacement:
    """A map that bends as one field; InputError where it does not know enough of the head in the slices."""
    moved_mm, known = way.moved(points_mm)
    shown = in_view(np.eye(4), moved_mm, target)
    unknown = float((~known[shown]).mean()) if shown.any() else 0.0
    if unknown > _MOST_UNKNOWN:
        raise InputError(
            f"{names}: of {unknown:.1%} of the head in the slices the displacement field does not say where "
            f"it lies (it ends before, or folds and has no inverse), expected at most {_MOST_UNKNOWN:.0%}; "
            "write a field over all slices, or one in the other direction, or its affine part alone under "
            "this name, or take the file out of the folder: then the target is registered"
        )
    grid = coarse_grid(anchor.grid, _FIELD_MM)
    nodes_mm = centres_mm(grid)
    vectors_mm = (way.moved(nodes_mm)[0] - nodes_mm).astype(np.float32)
    return Displacement(vectors_mm.reshape(*grid.shape, 3), grid)

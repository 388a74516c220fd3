"""Point maps in ITK files: linear ones, displacement fields, composites of them, and chains of such files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK
from scipy.spatial import KDTree

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.displacement import Displacement, centres_mm, displacement_of, read_displacement
from atlasgs_bids.imaging.itk import ras_point_map, ras_vectors

Affine = npt.NDArray[np.float64]
Points = npt.NDArray[np.float64]

_IMAGE = ".nii.gz"
"""What the name of a field ends with that is an image, not a transform file."""
_NO_INVERSE_MM = 0.1
"""By how much a displacement gone backwards and forwards may miss a point."""
_FOLD_MM = 2.0
"""Voxels on which folds are looked for: finer ones cost gigabytes."""


@dataclass(frozen=True)
class Undone:
    """A displacement gone backwards."""

    displacement: Displacement


Part = Affine | Displacement | Undone
"""Of a point map, RAS mm; affine: (4, 4)."""


@dataclass(frozen=True)
class PointMap:
    """Points of one world to those of another, as ITK composes it: part after part, the last first."""

    parts: tuple[Part, ...]

    @property
    def affine(self) -> Affine | None:
        """(4, 4), RAS mm; None where the map holds a displacement."""
        product = np.eye(4)
        for part in self.parts:
            if not isinstance(part, np.ndarray):
                return None
            product = product @ part
        return product

    def moved(self, points_mm: Points) -> tuple[Points, npt.NDArray[np.bool_]]:
        """Where points (n, 3) go, and for each whether it is known: all fields reach there, backwards too."""
        known = np.ones(len(points_mm), bool)
        for part in reversed(self.parts):
            if isinstance(part, np.ndarray):
                points_mm = points_mm @ part[:3, :3].T + part[:3, 3]
            elif isinstance(part, Displacement):
                known &= part.covers(points_mm)
                points_mm = points_mm + part.at(points_mm)
            else:
                field = part.displacement
                source = field.undone(points_mm)
                missed_mm = np.linalg.norm(source + field.at(source) - points_mm, axis=1)
                known &= field.covers(source) & (missed_mm < _NO_INVERSE_MM) & ~_several(field, points_mm)
                points_mm = source
        return points_mm, known

    def inverse(self) -> PointMap:
        """The other way; where a displacement has no inverse, ``moved`` does not know."""
        return PointMap(tuple(_inverse(part) for part in reversed(self.parts)))


def _several(field: Displacement, points_mm: Points) -> npt.NDArray[np.bool_]:
    """(n,) whether a displacement that folds brings several points to one of these (n, 3), to a voxel."""
    field = field.thinned(_FOLD_MM)
    nodes = centres_mm(field.grid)
    folded = nodes[field.stretch_at(nodes) <= 0]
    if not len(folded):
        return np.zeros(len(points_mm), bool)
    distances_mm, _ = KDTree(folded + field.at(folded)).query(points_mm)
    return np.asarray(distances_mm < field.voxel_mm)


def _inverse(part: Part) -> Part:
    if isinstance(part, Displacement):
        return Undone(part)
    return part.displacement if isinstance(part, Undone) else np.asarray(np.linalg.inv(part), np.float64)


@dataclass(frozen=True)
class TransformStep:
    """An ITK file of another pipeline, and which way it is gone."""

    path: Path
    inverted: bool = False
    """False: as ``antsApplyTransforms -t`` takes it, to bring an image of ``from-`` to ``to-``."""


def read_point_map(path: Path) -> PointMap:
    """What an ITK file (``.txt``, ``.mat``, ``.h5``, composite or not; a field: ``.nii.gz``) does to points.

    InputError for another file, or another kind of transform than linear ones and displacement fields.
    """
    if path.name.endswith(_IMAGE):
        return PointMap((read_displacement(path),))
    try:
        transform = SimpleITK.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(f"{path.name}: not readable, expected an ITK transform; write it again") from error
    if transform.GetDimension() != 3:
        raise InputError(
            f"{path.name}: a transform in {transform.GetDimension()} dimensions, expected 3; write it again"
        )
    return PointMap(tuple(_part(own, path.name) for own in _transforms(transform)))


def read_itk_transform(path: str | Path) -> Affine:
    """(4, 4) target_from_anchor, RAS world mm, from an ITK file; InputError where it is not linear."""
    path = Path(path)
    affine = read_point_map(path).affine
    if affine is None:
        raise InputError(
            f"{path.name}: holds a displacement field, expected a linear transform; give its affine part"
        )
    return affine


def chained(steps: Sequence[TransformStep]) -> PointMap:
    """target_from_anchor of files that lead from the target to the anchor, the target's own first."""
    parts: list[Part] = []
    for step in steps:
        own = read_point_map(step.path)
        parts += (own.inverse() if step.inverted else own).parts
    return PointMap(tuple(parts))


def _transforms(transform: SimpleITK.Transform) -> list[SimpleITK.Transform]:
    """The transforms of a composite, in the order in which their matrices are multiplied; else the one."""
    if transform.GetTransformEnum() != SimpleITK.sitkComposite:
        return [transform]
    composite = SimpleITK.CompositeTransform(transform)
    composite.FlattenTransform()
    return [composite.GetNthTransform(i) for i in range(composite.GetNumberOfTransforms())]


def _part(transform: SimpleITK.Transform, name: str) -> Part:
    if transform.IsLinear():
        return ras_point_map(transform)
    if transform.GetTransformEnum() != SimpleITK.sitkDisplacementField:
        raise InputError(
            f"{name}: holds a {transform.GetName()}, expected a linear transform or a displacement field; "
            "write it as a field (antsApplyTransforms -o [NAME,1])"
        )
    field = SimpleITK.DisplacementFieldTransform(transform).GetDisplacementField()
    return displacement_of(*ras_vectors(field), name)

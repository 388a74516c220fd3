"""Positions in ITK files: their affine parts, what they hold beside them, and chains of such files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.displacement import centres_mm
from atlasgs_bids.imaging.itk import LPS_FROM_RAS, ras_point_map
from atlasgs_bids.imaging.volume import Grid, voxel_sizes_mm

Affine = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ItkPosition:
    """The point map source -> target of an ITK file: x goes to ``target_from_source`` (x + displacement)."""

    target_from_source: Affine
    """(4, 4), RAS mm: the linear parts, one after the other."""
    point_map: SimpleITK.Transform
    """All of it, LPS mm."""

    @property
    def nonlinear_parts(self) -> list[str]:
        """ITK's names of the parts that are not linear; empty: there is no displacement."""
        return [part.GetName() for part in _parts(self.point_map) if not part.IsLinear()]

    def displacement_mm(self, grid: Grid) -> npt.NDArray[np.float64] | None:
        """(i, j, k, 3): RAS displacement of each voxel centre of a grid in the source's world; None: none."""
        if not self.nonlinear_parts:
            return None
        lps_from_voxel = LPS_FROM_RAS @ grid.world_from_voxel
        sizes_mm = voxel_sizes_mm(lps_from_voxel)
        field = SimpleITK.TransformToDisplacementField(
            self.point_map,
            SimpleITK.sitkVectorFloat64,
            [int(n) for n in grid.shape],
            lps_from_voxel[:3, 3].tolist(),
            sizes_mm.tolist(),
            (lps_from_voxel[:3, :3] / sizes_mm).ravel().tolist(),
        )
        moves_lps = SimpleITK.GetArrayViewFromImage(field).transpose(2, 1, 0, 3)
        source = centres_mm(grid).reshape(*grid.shape, 3)
        target = source + moves_lps @ LPS_FROM_RAS[:3, :3]
        source_from_target = np.linalg.inv(self.target_from_source)
        return np.asarray(target @ source_from_target[:3, :3].T + source_from_target[:3, 3] - source)


@dataclass(frozen=True)
class TransformStep:
    """An ITK file of another pipeline, and which way it is gone."""

    path: Path
    inverted: bool = False
    """False: as ``antsApplyTransforms -t`` takes it, to bring an image of ``from-`` to ``to-``."""


def read_itk_position(path: Path) -> ItkPosition:
    """What an ITK file (``.txt``, ``.mat``, ``.h5``; composite or not) holds; InputError where it is none."""
    try:
        transform = SimpleITK.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(f"{path.name}: not readable, expected an ITK transform; write it again") from error
    if transform.GetDimension() != 3:
        raise InputError(
            f"{path.name}: a transform in {transform.GetDimension()} dimensions, expected 3; write it again"
        )
    linear = np.eye(4)
    for part in _parts(transform):
        linear = linear @ (ras_point_map(part) if part.IsLinear() else np.eye(4))
    return ItkPosition(linear, transform)


def read_itk_transform(path: str | Path) -> Affine:
    """(4, 4) target_from_anchor, RAS world mm, from an ITK file; InputError where it is not linear."""
    path = Path(path)
    position = read_itk_position(path)
    if position.nonlinear_parts:
        raise InputError(
            f"{path.name}: holds a {', a '.join(position.nonlinear_parts)}, expected a linear transform: "
            "slices cannot be bent yet; write its affine part alone under this name, or take the file out of "
            "the folder: then the target is registered rigidly"
        )
    return position.target_from_source


def chained(steps: Sequence[TransformStep]) -> Affine:
    """(4, 4) target_from_anchor of files that lead from the target to the anchor, the target's own first."""
    target_from_anchor = np.eye(4)
    for step in steps:
        affine = read_itk_transform(step.path)
        target_from_anchor = target_from_anchor @ (np.linalg.inv(affine) if step.inverted else affine)
    return target_from_anchor


def _parts(transform: SimpleITK.Transform) -> list[SimpleITK.Transform]:
    """The transforms of a composite, in the order in which their matrices are multiplied; else the one."""
    if transform.GetTransformEnum() != SimpleITK.sitkComposite:
        return [transform]
    composite = SimpleITK.CompositeTransform(transform)
    composite.FlattenTransform()
    return [composite.GetNthTransform(i) for i in range(composite.GetNumberOfTransforms())]

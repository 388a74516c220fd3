"""Volumes and rigid maps (RAS, numpy) <-> SimpleITK images and transforms (LPS)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import SimpleITK

from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def itk_image(volume: Volume, pixel_type: int = SimpleITK.sitkFloat32) -> SimpleITK.Image:
    """SimpleITK image with the same voxel centres in space."""
    lps_from_voxel = LPS_FROM_RAS @ volume.world_from_voxel
    sizes_mm = voxel_sizes_mm(lps_from_voxel)
    image = SimpleITK.Cast(SimpleITK.GetImageFromArray(np.ascontiguousarray(volume.data.T)), pixel_type)
    image.SetSpacing(sizes_mm.tolist())
    image.SetOrigin(lps_from_voxel[:3, 3].tolist())
    image.SetDirection((lps_from_voxel[:3, :3] / sizes_mm).ravel().tolist())
    return image


def itk_rigid(
    target_from_source: npt.NDArray[np.float64], centre_world: npt.NDArray[np.float64]
) -> SimpleITK.Euler3DTransform:
    """The rigid point map with ``centre_world`` as its centre of rotation."""
    point_map_lps = LPS_FROM_RAS @ target_from_source @ LPS_FROM_RAS
    centre_lps = LPS_FROM_RAS[:3, :3] @ centre_world
    transform = SimpleITK.Euler3DTransform()
    transform.SetCenter(centre_lps.tolist())
    transform.SetMatrix(point_map_lps[:3, :3].ravel().tolist(), 1e-6)
    transform.SetTranslation(
        (point_map_lps[:3, :3] @ centre_lps + point_map_lps[:3, 3] - centre_lps).tolist()
    )
    return transform


def itk_affine(target_from_source: npt.NDArray[np.float64]) -> SimpleITK.AffineTransform:
    """The point map as ITK's plain affine transform about the origin."""
    point_map_lps = LPS_FROM_RAS @ target_from_source @ LPS_FROM_RAS
    transform = SimpleITK.AffineTransform(3)
    transform.SetMatrix(point_map_lps[:3, :3].ravel().tolist())
    transform.SetTranslation(point_map_lps[:3, 3].tolist())
    return transform


def ras_vectors(
    field: SimpleITK.Image,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """(x, y, z, 3) vectors of a SimpleITK displacement field, RAS mm, and its world_from_voxel (4, 4)."""
    vectors = SimpleITK.GetArrayViewFromImage(field).transpose(2, 1, 0, 3) @ LPS_FROM_RAS[:3, :3]
    lps_from_voxel = np.eye(4)
    lps_from_voxel[:3, :3] = np.reshape(field.GetDirection(), (3, 3)) * field.GetSpacing()
    lps_from_voxel[:3, 3] = field.GetOrigin()
    return vectors.astype(np.float32), LPS_FROM_RAS @ lps_from_voxel


def ras_point_map(transform: SimpleITK.Transform) -> npt.NDArray[np.float64]:
    """(4, 4) RAS point map of a linear ITK transform of any kind, from where it sends the unit points."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    point_map_lps = np.eye(4)
    for axis, unit in enumerate(np.eye(3)):
        point_map_lps[:3, axis] = np.array(transform.TransformPoint(unit.tolist())) - origin
    point_map_lps[:3, 3] = origin
    return LPS_FROM_RAS @ point_map_lps @ LPS_FROM_RAS

"""The smooth field that a receive coil multiplies an image with (N4)."""

import numpy as np
import numpy.typing as npt
import SimpleITK

from atlasgs_bids.imaging.itk import itk_image
from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm

_SHRUNK_MM = 4.0
_N_ITERATIONS = (20, 20, 20)
_FIELD_LIMITS = (0.1, 10.0)


def bias_field(volume: Volume, foreground: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """The field over the whole grid, mean 1 in the foreground (Tustison 2010); 1 where none can be estimated.

    Estimated at 4 mm, which a field that varies over centimetres does not notice.
    """
    if not foreground.any():
        return np.ones(volume.data.shape, np.float32)
    sizes_mm = voxel_sizes_mm(volume.world_from_voxel)
    factors = np.maximum(1, np.round(_SHRUNK_MM / sizes_mm)).astype(int)
    factors = np.minimum(factors, np.maximum(1, np.array(volume.data.shape) // 8))
    positive = Volume(np.maximum(volume.data, np.float32(0)), volume.world_from_voxel)
    mask = Volume((foreground & (positive.data > 0)).astype(np.float32), volume.world_from_voxel)
    full = itk_image(positive)
    shrunk = SimpleITK.Shrink(full, factors.tolist())
    shrunk_mask = SimpleITK.Shrink(itk_image(mask, SimpleITK.sitkUInt8), factors.tolist())
    correction = SimpleITK.N4BiasFieldCorrectionImageFilter()
    correction.SetMaximumNumberOfIterations(list(_N_ITERATIONS))
    # Sums in threads have no fixed order; at 4 mm one thread takes a second.
    correction.SetNumberOfThreads(1)
    correction.SetNumberOfWorkUnits(1)
    try:
        correction.Execute(shrunk, shrunk_mask)
        log_field = SimpleITK.GetArrayFromImage(correction.GetLogBiasFieldAsImage(full)).T
    except RuntimeError:  # too few voxels, or all alike: there is nothing to estimate
        return np.ones(volume.data.shape, np.float32)
    log_field = log_field - log_field[foreground].mean()
    return np.exp(np.clip(log_field, *np.log(_FIELD_LIMITS))).astype(np.float32)

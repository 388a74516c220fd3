"""Small pictures of results: a participant among a thousand."""

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from atlasgs_bids.imaging.volume import voxel_sizes_mm
from atlasgs_bids.report.contents import TargetContents
from atlasgs_bids.report.pictures import Bytes, beside, grey_window, in_grey, jpeg, plane
from atlasgs_bids.report.views import RESTORED, TargetViews
from atlasgs_bids.report.volumes import box_around, centre_of, ras

_HEIGHT = 88


def thumbnail(target: TargetContents, views: TargetViews | None) -> bytes | None:
    """JPEG of three planes of the result, of a series of its first volume; None where there is neither."""
    if views is not None:
        view = views.result
        image, point, sizes_mm = view.layer(RESTORED).volume, view.point, view.sizes_mm
        pictures = [plane(image, axis, point[axis], sizes_mm, _HEIGHT) for axis in (2, 1, 0)]
    elif target.is_series and target.result.exists():
        pictures = _planes_of_first(target.result)
    else:
        return None
    return jpeg(Image.fromarray(beside(pictures)))


def _planes_of_first(path: Path) -> list[Bytes]:
    """Three planes of the first volume: what comes after it in the file is not read."""
    series = nib.Nifti1Image.from_filename(path)
    first, affine = ras(np.asarray(series.dataobj[..., 0], dtype=np.float32), np.asarray(series.affine))
    sizes_mm = voxel_sizes_mm(affine)
    seen = first[box_around(first != 0, sizes_mm)]
    grey, point = in_grey(seen, grey_window(seen[seen != 0])), centre_of(seen != 0)
    return [plane(grey, axis, point[axis], sizes_mm, _HEIGHT) for axis in (2, 1, 0)]

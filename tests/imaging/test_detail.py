"""An image that was interpolated from thick slices is told from one that was acquired isotropic."""

import numpy as np
import pytest
from scipy import ndimage

from atlasgs_bids.imaging.detail import detail_by_axis
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import anchor_of
from tests.imaging.phantom import T1W, head

SIZE_MM = 2


def interpolated(volume: Volume, axis: int, factor: int, order: int) -> Volume:
    """Means over ``factor`` voxels, on the grid of the image again."""
    data = np.moveaxis(volume.data, axis, -1)
    data = data[..., : data.shape[-1] // factor * factor]
    thick = data.reshape(*data.shape[:2], -1, factor).mean(-1)
    again = ndimage.zoom(thick, (1, 1, factor), order=order, mode="nearest", grid_mode=True)
    return Volume(np.ascontiguousarray(np.moveaxis(again, -1, axis)), volume.world_from_voxel)


@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_a_sharp_anchor_is_silent(noise: float) -> None:
    volume = head(T1W, SIZE_MM, noise=noise)
    detail = detail_by_axis(volume)
    assert detail is not None
    assert detail.min() > 0.6
    assert anchor_of(volume).volume.warnings == volume.warnings


@pytest.mark.parametrize(
    ("axis", "name", "factor", "order"), [(0, "first", 2, 3), (1, "second", 2, 1), (2, "third", 3, 1)]
)
def test_an_interpolated_one_is_named_with_its_axis(axis: int, name: str, factor: int, order: int) -> None:
    volume = interpolated(head(T1W, SIZE_MM, noise=2.0), axis, factor, order)
    (warning,) = anchor_of(volume).volume.warnings
    assert f"along its {name} axis" in warning
    assert "--anchor" in warning


def test_of_a_small_image_nothing_is_said() -> None:
    small = Volume(np.random.default_rng(0).normal(size=(60, 60, 20)).astype(np.float32), np.eye(4))
    assert detail_by_axis(small) is None


def test_an_image_of_nothing_has_none() -> None:
    assert detail_by_axis(Volume(np.zeros((50, 50, 50), np.float32), np.eye(4))) is None

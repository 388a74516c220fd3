import numpy as np
import pytest
from scipy import ndimage

from atlasgs_bids.imaging.contrast import fit_contrast, voxel_average
from atlasgs_bids.imaging.volume import Volume
from tests.imaging.phantom import T1W, acquire, head, rigid, stack_affine


def smooth_noise(shape=(26, 28, 30)):
    return ndimage.gaussian_filter(np.random.default_rng(5).normal(size=shape), 2.5).astype(np.float32) * 100


def test_blocks_keep_their_mean_and_their_place():
    affine = np.array([[0, -2.0, 0, 5], [1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    data = np.arange(4 * 6 * 5, dtype=np.float32).reshape(4, 6, 5)
    result = Volume(data, affine).averaged((2, 3, 1))
    assert result.data.shape == (2, 2, 5)
    assert result.data[1, 0, 4] == pytest.approx(data[2:4, 0:3, 4].mean())
    np.testing.assert_allclose(result.world_from_voxel @ [1, 0, 4, 1], affine @ [2.5, 1, 4, 1])


def test_blocks_larger_than_the_image_are_cut():
    assert Volume(np.ones((4, 5, 2), dtype=np.float32), np.eye(4)).averaged((2, 9, 9)).data.shape == (
        2,
        1,
        1,
    )


@pytest.mark.parametrize("turn", [[0, 0, 0], [25, 0, 0], [10, -20, 30]])
def test_average_over_an_oblique_box(turn):
    """Against many interpolated points over the box, which has the extent that the anchor voxel lacks."""
    anchor = Volume(smooth_noise(), np.diag([1.5, 1.5, 1.5, 1.0]))
    edges = rigid(turn, [0, 0, 0], [0, 0, 0])[:3, :3] @ np.diag([1.5, 2.0, 6.0])
    averaged = voxel_average(anchor, edges).data
    missing = edges * np.sqrt(1 - (1.5 / np.array([1.5, 2.0, 6.0])) ** 2) / 1.5
    steps = (np.arange(16) + 0.5) / 16 - 0.5
    expected = np.zeros_like(anchor.data, dtype=np.float64)
    coefficients = ndimage.spline_filter(anchor.data.astype(np.float64))
    for second in steps[::4] + 1.5 / 16:
        for third in steps:
            offset = missing @ [0, second, third]
            expected += ndimage.shift(coefficients, -offset, order=3, prefilter=False) / 64
    inner = np.s_[6:-6, 6:-6, 6:-6]
    np.testing.assert_allclose(averaged[inner], expected[inner], atol=0.04 * anchor.data.std())


def test_a_voxel_as_small_as_the_anchors_changes_nothing():
    anchor = Volume(smooth_noise(), np.eye(4))
    np.testing.assert_allclose(voxel_average(anchor, np.eye(3)).data, anchor.data, atol=1e-3)


def test_the_map_is_found_through_the_slice_thickness():
    """Thick voxels hold mixtures: the map must be that of the tissues, not of the mixtures."""
    anchor = head(T1W)
    knots, values = np.array([0, 25, 60, 100, 120]), np.array([0, 120, 65, 45, 45])
    truth = Volume(np.interp(anchor.data, knots, values).astype(np.float32), anchor.world_from_voxel)
    shape, world_from_voxel = stack_affine(anchor, 1, 2, 10)
    target = acquire(truth, shape, world_from_voxel, np.eye(4))
    inside = acquire(anchor, shape, world_from_voxel, np.eye(4)).data > 20
    contrast = fit_contrast(anchor, anchor.data > 20, target, inside, np.eye(4), seed=0)
    assert contrast.explained > 0.94
    tissue = np.array([60, 80, 100], dtype=np.float32)
    np.testing.assert_allclose(contrast.apply(tissue), np.interp(tissue, knots, values), atol=4)
    # Fluid is thin: no thick voxel holds it alone, and a map of averaged voxels gives it 60.
    assert contrast.apply(np.array([30], dtype=np.float32))[0] > 85


def test_an_unrelated_target_is_not_explained():
    anchor = head(T1W)
    noise = np.random.default_rng(0).normal(100, 10, anchor.data.shape).astype(np.float32)
    foreground = anchor.data > 20
    contrast = fit_contrast(
        anchor, foreground, Volume(noise, anchor.world_from_voxel), foreground, np.eye(4), seed=0
    )
    assert abs(contrast.explained) < 0.01


def test_an_anchor_of_one_value_maps_to_one_value():
    flat = Volume(np.ones((8, 8, 8), dtype=np.float32), np.eye(4))
    target = Volume(smooth_noise((8, 8, 8)), np.eye(4))
    everywhere = np.ones((8, 8, 8), dtype=bool)
    contrast = fit_contrast(flat, everywhere, target, everywhere, np.eye(4), seed=0)
    assert contrast.explained == pytest.approx(0, abs=1e-6)
    assert contrast.apply(flat.data)[0, 0, 0] == pytest.approx(target.data.mean(), abs=0.01)

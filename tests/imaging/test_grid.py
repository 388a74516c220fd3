import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from atlasgs_bids.errors import ConfigurationError, InputError
from atlasgs_bids.imaging.foreground import foreground_mask
from atlasgs_bids.imaging.grid import (
    continued_mask,
    divided,
    fov_mask,
    output_grid,
    parts_of,
    resample,
    resample_mask,
)
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm
from tests.imaging.phantom import T1W, head, rigid

ROTATION = Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix()


def grid(shape, sizes_mm, origin=(3.0, -7.0, 11.0), rotation=ROTATION):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation @ np.diag(sizes_mm), origin
    return Grid(shape, affine)


def centre_world(some_grid):
    return (some_grid.world_from_voxel @ [*((np.array(some_grid.shape) - 1) / 2), 1])[:3]


def linear_volume(some_grid, gradient=(0.3, -0.2, 0.5)):
    """Values that are a linear function of the world position: interpolation must reproduce them."""
    voxels = np.stack(np.meshgrid(*map(np.arange, some_grid.shape), indexing="ij"), -1)
    world = voxels @ some_grid.world_from_voxel[:3, :3].T + some_grid.world_from_voxel[:3, 3]
    return Volume((world @ np.array(gradient)).astype(np.float32), some_grid.world_from_voxel)


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_iso_takes_the_smallest_side_and_keeps_centre_orientation_and_field_of_view():
    anchor = grid((100, 120, 80), (0.9, -0.9, 1.2))
    result = output_grid(anchor, "iso")
    np.testing.assert_allclose(voxel_sizes_mm(result.world_from_voxel), 0.9)
    assert result.shape == (100, 120, 107)  # 96 mm / 0.9 mm = 106.7
    np.testing.assert_allclose(centre_world(result), centre_world(anchor), atol=1e-9)
    directions = [g.world_from_voxel[:3, :3] / voxel_sizes_mm(g.world_from_voxel) for g in (anchor, result)]
    np.testing.assert_allclose(*directions, atol=1e-12)


@given(
    sizes=st.tuples(*[st.floats(0.5, 3)] * 3),
    shape=st.tuples(*[st.integers(2, 60)] * 3),
    resolution=st.floats(0.4, 4),
)
def test_the_whole_field_of_view_is_covered_and_hardly_more(sizes, shape, resolution):
    anchor = grid(shape, sizes)
    result = output_grid(anchor, resolution)
    extents_mm = np.array(result.shape) * voxel_sizes_mm(result.world_from_voxel)
    surplus_mm = extents_mm - np.array(shape) * np.array(sizes)
    assert (surplus_mm >= -0.011 * resolution - 1e-3 * np.array(shape) * resolution).all()
    assert (surplus_mm <= resolution * 1.001).all()
    np.testing.assert_allclose(centre_world(result), centre_world(anchor), atol=1e-6)


def test_an_isotropic_anchor_keeps_its_grid():
    anchor = grid((50, 60, 70), (0.88, 0.8799998, 0.88))
    assert output_grid(anchor, "iso") is anchor
    assert output_grid(anchor, 0.88) is anchor
    assert output_grid(anchor, "anchor") is anchor


def test_parts_of_voxels_are_as_large_as_cells_and_average_to_the_voxels():
    coarse = grid((4, 5, 6), (2.0, 3.0, 4.0))
    assert parts_of(coarse, coarse.world_from_voxel[:3, :3]) == (1, 1, 1)
    cells = grid((1, 1, 1), (1.0, 1.0, 4.0)).world_from_voxel[:3, :3]
    parts = parts_of(coarse, cells)
    assert parts == (2, 3, 1)
    # Larger cells than voxels divide nothing; across a turned lattice it is the finer direction that counts.
    assert parts_of(coarse, 10 * cells) == (1, 1, 1)
    assert parts_of(Grid((4, 4, 4), np.eye(4)), np.diag([1.0, 0.5, 1.0])[:, [1, 0, 2]]) == (1, 2, 1)
    fine = divided(coarse, parts)
    assert fine.shape == (8, 15, 6)
    mean = linear_volume(fine).averaged(parts)
    np.testing.assert_allclose(mean.world_from_voxel, coarse.world_from_voxel, atol=1e-9)
    np.testing.assert_allclose(mean.data, linear_volume(coarse).data, rtol=1e-4, atol=1e-4)


def test_number_may_come_as_text():
    assert output_grid(grid((10, 10, 10), (1, 1, 1)), "2").shape == (5, 5, 5)


@pytest.mark.parametrize("resolution", ["isotropic", 0, -1.0, float("nan"), float("inf")])
def test_impossible_resolution(resolution):
    with pytest.raises(ConfigurationError, match="expected 'iso', 'anchor' or a voxel size"):
        output_grid(grid((10, 10, 10), (1, 1, 1)), resolution)


def test_resolution_that_no_memory_holds():
    with pytest.raises(ConfigurationError, match="choose a larger voxel size"):
        output_grid(grid((256, 256, 256), (1, 1, 1)), 0.05)


@settings(max_examples=25, deadline=None)
@given(order=st.sampled_from([1, 3]), shift=st.tuples(*[st.floats(-2, 2)] * 3), angle=st.floats(-10, 10))
def test_linear_functions_survive_resampling(order, shift, angle):
    source = grid((20, 22, 9), (1.0, 1.0, -2.5))
    volume = linear_volume(source)
    volume_from_world = rigid([0, angle, 0], shift, centre_world(source))
    output = grid((8, 8, 8), (1.1, 1.2, 1.3), origin=centre_world(source) - ROTATION @ [4, 4, 4])
    voxels = np.stack(np.meshgrid(*map(np.arange, output.shape), indexing="ij"), -1)
    world = voxels @ output.world_from_voxel[:3, :3].T + output.world_from_voxel[:3, 3]
    moved = world @ volume_from_world[:3, :3].T + volume_from_world[:3, 3]
    result = resample(volume, output, volume_from_world, order=order)
    source_voxels = (moved - source.world_from_voxel[:3, 3]) @ np.linalg.inv(
        source.world_from_voxel[:3, :3]
    ).T
    # Away from the border, where a spline also sees the extension of the image.
    inner = ((source_voxels > 3) & (source_voxels < np.array(source.shape) - 4)).all(axis=-1)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[inner], (moved @ [0.3, -0.2, 0.5])[inner], atol=2e-2)


def test_thick_slices_are_placed_at_their_true_centres():
    fine = np.arange(20, dtype=np.float32).reshape(1, 1, 20) * np.ones((4, 4, 1), dtype=np.float32)
    thick = fine.reshape(4, 4, 4, 5).mean(axis=3)
    world_from_thick = np.diag([1.0, 1.0, 5.0, 1.0])
    world_from_thick[2, 3] = (0 + 0.5) * 5 - 0.5
    result = resample(Volume(thick, world_from_thick), Grid((4, 4, 20), np.eye(4)), order=1)
    np.testing.assert_allclose(result[..., 2:18], fine[..., 2:18], atol=1e-5)


def test_border_reaches_half_a_voxel_and_then_ends():
    volume = Volume(np.full((2, 2, 2), 7, dtype=np.float32), np.diag([4.0, 4, 4, 1]))
    fine = Grid((9, 1, 1), np.array([[1.0, 0, 0, -2.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    inside = [
        False,
        True,
        True,
        True,
        True,
        True,
        True,
        True,
        True,
    ]  # -2.5 | -1.5 ... 5.5 mm, border at -2 and 6
    for order in (0, 1, 3):
        np.testing.assert_allclose(
            resample(volume, fine, order=order)[:, 0, 0], 7 * np.array(inside), rtol=1e-5
        )
    np.testing.assert_array_equal(fov_mask(volume.grid, fine)[:, 0, 0], inside)


def test_own_grid_is_all_inside_and_comes_back_unchanged():
    source = grid((7, 6, 5), (0.7, 0.9, 3.0))
    data = np.random.default_rng(1).normal(size=source.shape).astype(np.float32)
    assert fov_mask(source, source).all()
    np.testing.assert_allclose(resample(Volume(data, source.world_from_voxel), source), data, atol=1e-5)


def test_field_of_view_moves_with_the_map():
    source = Grid((4, 4, 4), np.eye(4))
    shifted = fov_mask(source, source, rigid([0, 0, 0], [2, 0, 0], [0, 0, 0]))
    np.testing.assert_array_equal(shifted[:, 0, 0], [True, True, False, False])


def test_unobserved_voxels_give_zero_and_leave_their_neighbours_alone():
    data = np.full((9, 9, 9), 5, dtype=np.float32)
    observed = np.ones(data.shape, dtype=bool)
    observed[4, 4, 4] = False
    data[4, 4, 4] = 0
    result = resample(Volume(data, np.eye(4), observed), Grid(data.shape, np.eye(4)))
    np.testing.assert_allclose(result, 5.0 * observed, rtol=1e-5)


def test_masks_are_cut_at_one_half():
    mask = Volume(np.array([0, 0, 3, 3], dtype=np.float32).reshape(4, 1, 1), np.eye(4))
    fine = Grid((16, 1, 1), np.array([[0.25, 0, 0, -0.375], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    np.testing.assert_array_equal(resample_mask(mask, fine)[:, 0, 0], [False] * 8 + [True] * 8)


def head_outline():
    """Everything up to the outer side of the scalp."""
    return ndimage.binary_fill_holes(head(T1W).data > 0.5 * T1W.scalp)


@pytest.mark.parametrize("noise", [0.0, 3.0, 12.0])
def test_a_head_in_air_is_found_whatever_the_noise(noise):
    assert dice(foreground_mask(head(T1W, noise=noise)), head_outline()) > 0.95


def test_a_head_is_found_under_a_coil_that_fades_and_with_slices_off_its_grid():
    image = head(T1W, noise=3)
    fading = np.linspace(1.5, 0.5, image.data.shape[1], dtype=np.float32)[None, :, None]
    mask = foreground_mask(Volume(image.data * fading, image.world_from_voxel))
    assert dice(mask, head_outline()) > 0.95


def test_a_head_that_the_image_cuts_off_is_filled_to_the_border():
    image = head(T1W, noise=3)
    lower = np.s_[:, :, 40:]
    mask = foreground_mask(Volume(image.data[lower], image.world_from_voxel))
    assert dice(mask, head_outline()[lower]) > 0.95


def test_of_an_extracted_brain_all_that_is_left_counts():
    brain = head(T1W, with_scalp=False)
    mask = foreground_mask(brain)
    solid = ndimage.binary_fill_holes(brain.data > 1)
    assert (mask & solid).sum() > 0.995 * solid.sum()
    # The closing bridges sulci and the gap below the temporal lobes, no more.
    assert mask.sum() < 1.12 * solid.sum()


def test_smooth_edges_of_an_extracted_brain_do_not_leak_out():
    brain = head(T1W, with_scalp=False)
    smooth = ndimage.gaussian_filter(brain.data, 1.0)
    # Smoothing with a float kernel leaves values of 1e-20 far from the head, as in the MNI template.
    smooth = np.where(smooth > 0, smooth, np.float32(1e-20))
    mask = foreground_mask(Volume(smooth, brain.world_from_voxel))
    assert dice(mask, ndimage.binary_fill_holes(brain.data > 1)) > 0.9


def test_specks_and_unobserved_voxels_do_not_belong_to_the_head():
    image = head(T1W, noise=3)
    data, observed = image.data.copy(), np.ones(image.data.shape, dtype=bool)
    data[:3, :3, :3] = 1000
    data[-4:, -4:, -4:], observed[-4:, -4:, -4:] = 1e6, False
    mask = foreground_mask(Volume(data, image.world_from_voxel, observed))
    assert not mask[:3, :3, :3].any()
    assert not mask[-4:, -4:, -4:].any()
    assert dice(mask, head_outline()) > 0.95


def test_the_mask_does_not_depend_on_the_unit_of_intensity():
    image = head(T1W, noise=3)
    scaled = Volume(image.data * np.float32(1e-4), image.world_from_voxel)
    assert dice(foreground_mask(image), foreground_mask(scaled)) > 0.9999


def test_an_image_without_anything_in_it():
    with pytest.raises(InputError, match="no foreground found"):
        foreground_mask(Volume(np.zeros((20, 20, 20), dtype=np.float32), np.eye(4)))


def test_air_between_the_vertex_and_the_border_of_the_image_stays_out():
    """A closing that repeats the image's border fills the gap; a ball 3 mm below it shows that."""
    axes = np.meshgrid(*[np.arange(40)] * 3, indexing="ij")
    ball = sum((axis - centre) ** 2 for axis, centre in zip(axes, (20, 20, 24), strict=True)) <= 12.5**2
    mask = foreground_mask(Volume(np.where(ball, 100, 0).astype(np.float32), np.eye(4)))
    assert not mask[..., 38:].any()
    assert (mask ^ ball).mean() < 0.01


def test_continued_mask_goes_on_beyond_the_border_that_it_touches():
    mask = Volume(np.zeros((4, 4, 4), np.float32), np.eye(4))
    mask.data[:, :, 3] = 1
    world_from_grid = np.eye(4)
    world_from_grid[2, 3] = -2.0
    continued = continued_mask(mask, Grid((4, 4, 10), world_from_grid))
    np.testing.assert_array_equal(continued[0, 0], [False] * 5 + [True] * 5)

"""The acquisition: weights by hand, adjointness, and slices of a known function."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atlasgs_bids.core.acquisition import (
    AcquisitionOperator,
    point_sampling,
    profile_sampling,
    slice_sampling,
)
from tests.helpers import assert_adjoint

BOX = np.array([0.0, 1.0])


def _box(thickness_mm: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array([-0.5, 0.5]) * thickness_mm, BOX


def test_box_without_gap_is_a_mean_over_the_fine_voxels_of_a_slice() -> None:
    sampling = profile_sampling(2, 3.0, *_box(3.0), 1.0)
    np.testing.assert_allclose(sampling.weights, np.repeat(np.eye(2) / 3, 3, axis=1), atol=1e-12)
    # Thick slice k of factor f has its centre at (k + ½) f − ½ fine voxels; here from the other side.
    assert sampling.first == pytest.approx(-1 / 3)
    assert sampling.step == pytest.approx(1 / 3)


def test_gap_leaves_cells_without_weight() -> None:
    sampling = profile_sampling(2, 4.0, *_box(2.0), 1.0)
    np.testing.assert_allclose(sampling.weights, [[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0, 0, 0.5, 0.5]])
    assert sampling.first == pytest.approx(-0.125)


def test_overlapping_slices_share_cells() -> None:
    sampling = profile_sampling(2, 2.0, *_box(4.0), 1.0)
    np.testing.assert_allclose(sampling.weights, [[0.25] * 4 + [0, 0], [0, 0] + [0.25] * 4])
    assert sampling.first == pytest.approx(-0.75)


@given(spacing=st.floats(1, 8), thickness=st.floats(0.5, 12), cell=st.floats(0.4, 2), n=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_weights_sum_to_one_and_are_centred_on_the_slice(
    spacing: float, thickness: float, cell: float, n: int
) -> None:
    sampling = profile_sampling(n, spacing, *_box(thickness), cell)
    np.testing.assert_allclose(sampling.weights.sum(1), 1, atol=1e-9)
    centres = sampling.first + sampling.step * np.arange(sampling.weights.shape[1])
    np.testing.assert_allclose(sampling.weights @ centres, np.arange(n), atol=1e-4)
    assert sampling.step * spacing <= cell * 1.01


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_adjoint_and_orientation(slice_axis: int) -> None:
    shape, sizes = [5, 6, 7], [1.0, 1.0, 1.0]
    sizes[slice_axis] = 4.0
    samplings = slice_sampling(tuple(shape), tuple(sizes), slice_axis, _box(3.0), 1.0)
    op = AcquisitionOperator(samplings, "cpu")
    assert op.shape_out == tuple(shape)
    assert op.shape_in[slice_axis] > shape[slice_axis]
    assert_adjoint(op)
    # A linear ramp along the slices is seen at its value in the slice's centre.
    lattice = torch.arange(op.shape_in[slice_axis], dtype=torch.float64)
    native = op.native_from_lattice[slice_axis, slice_axis] * lattice + op.native_from_lattice[slice_axis, 3]
    view = [1, 1, 1]
    view[slice_axis] = -1
    seen = op.forward(native.view(view).expand(op.shape_in).contiguous())
    expected = torch.arange(shape[slice_axis], dtype=torch.float64).view(view).expand(shape)
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)


def test_coarse_in_plane_voxels_are_boxes_and_fine_ones_points() -> None:
    samplings = slice_sampling((4, 4, 3), (2.0, 1.2, 6.0), 2, _box(6.0), 1.0)
    assert samplings[0].weights.shape == (4, 8)
    np.testing.assert_array_equal(samplings[1].weights, point_sampling(4).weights)
    assert samplings[2].weights.shape == (3, 18)


def test_pixels_from_1_3_voxels_on_are_the_means_of_their_cells() -> None:
    """A pixel is averaged over whatever its size, unless the anchor's voxel is as large: 1.5 was a point."""
    samplings = slice_sampling((6, 5, 3), (1.4, 0.5, 6.0), 2, _box(6.0), 1.0)
    np.testing.assert_allclose(samplings[0].weights, np.repeat(np.eye(6) / 2, 2, axis=1))
    assert (samplings[0].first, samplings[0].step) == (pytest.approx(-0.25), pytest.approx(0.5))
    np.testing.assert_array_equal(samplings[1].weights, np.eye(5))
    op = AcquisitionOperator(samplings, "cpu")
    assert_adjoint(op)
    # Half a period across a pixel: its mean is 2/π of the middle, which two cells know to a tenth.
    x = np.arange(12) * 0.7
    wave = torch.from_numpy(np.cos(np.pi / 1.4 * (x - 0.35 - 1.4 * 2))[:, None, None] * np.ones(op.shape_in))
    assert float(op.forward(wave)[2, 0, 0]) == pytest.approx(2 / np.pi, rel=0.12)


def test_cell_noise_undoes_the_averaging_of_cells() -> None:
    box = np.array([-2.0, 2.0]), np.array([0.0, 1.0])
    op = AcquisitionOperator(slice_sampling((5, 6, 7), (1.0, 2.0, 4.0), 2, box, 1.0), "cpu")
    assert op.cell_noise == pytest.approx(8**0.5)  # two cells in plane, four through it
    cells = torch.randn(op.shape_in, generator=torch.Generator().manual_seed(0))
    assert float(op.forward(cells).std()) * op.cell_noise == pytest.approx(1.0, rel=0.2)

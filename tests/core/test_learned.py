"""The learned prior on phantoms: what it must learn, and what must not move it."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.priors.degradation import interpolation, sampling_of
from atlasgs_bids.core.priors.learned import (
    Prediction,
    Stack,
    TooLittleDataError,
    predict,
    train_prior,
)
from atlasgs_bids.core.settings import LEARNED_CPU

QUICK = dataclasses.replace(
    LEARNED_CPU, width=8, n_blocks=1, n_first_steps=2, n_cycles=2, n_cycle_steps=2, batch_voxels=2000
)


def _acquisition(
    shape: tuple[int, int, int], sizes_mm: tuple[float, float, float], slice_axis: int
) -> AcquisitionOperator:
    size_mm = sizes_mm[slice_axis]
    profile = np.array([-0.5, 0.5]) * size_mm, np.array([0.0, 1.0])
    return AcquisitionOperator(slice_sampling(shape, sizes_mm, slice_axis, profile, 1.0), "cpu")


def _stack(
    shape: tuple[int, int, int] = (24, 22, 4),
    sizes_mm: tuple[float, float, float] = (1.0, 1.0, 4.0),
    slice_axis: int = 2,
) -> Stack:
    generator = torch.Generator().manual_seed(1)
    acquisition = _acquisition(shape, sizes_mm, slice_axis)
    n_x, n_y, n_z = acquisition.shape_in
    return Stack(
        slices=100 + 20 * torch.randn(shape, generator=generator),
        weights=torch.ones(shape),
        slice_axis=slice_axis,
        acquisition=acquisition,
        anchor=50 + 10 * torch.randn(n_x, n_y, n_z, generator=generator),
    )


def _run(stack: Stack, seed: int = 0) -> Prediction:
    return predict(train_prior([stack], QUICK, seed), stack)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("in_plane_mm", [1.0, 2.0])
def test_any_slice_axis_and_coarse_planes(slice_axis: int, in_plane_mm: float) -> None:
    shape, sizes_mm = [20, 20, 20], [in_plane_mm] * 3
    shape[slice_axis], sizes_mm[slice_axis] = 3, 4.0
    stack = _stack(tuple(shape), tuple(sizes_mm), slice_axis)
    prediction = _run(stack)
    assert prediction.image.shape == prediction.sd.shape == stack.acquisition.shape_in
    assert prediction.image.isfinite().all()
    assert (prediction.sd > 0).all()
    # The acquired slices are honoured whatever the network says.
    seen = stack.acquisition.forward(prediction.image)
    assert float((seen - stack.slices).abs().max()) < 1.0


def test_same_seed_same_output() -> None:
    first, second, other = _run(_stack()), _run(_stack()), _run(_stack(), seed=1)
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.sd, second.sd)
    assert not torch.equal(first.image, other.image)


def test_unobserved_voxels_have_no_influence() -> None:
    stack = _stack()
    weights = stack.weights.clone()
    weights[3:9, 5:12] = 0
    changed = torch.where(weights > 0, stack.slices, 1e6)
    first = _run(dataclasses.replace(stack, weights=weights))
    second = _run(dataclasses.replace(stack, weights=weights, slices=changed))
    assert torch.equal(first.image, second.image)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda stack: dataclasses.replace(stack, slices=torch.zeros_like(stack.slices)),
        lambda stack: dataclasses.replace(stack, anchor=torch.zeros_like(stack.anchor)),
        lambda stack: dataclasses.replace(
            stack, slices=stack.slices * (torch.rand(stack.slices.shape) > 0.999)
        ),
    ],
    ids=["constant slices", "no anchor", "almost nothing but air"],
)
def test_degenerate_input_stays_finite(spoil: Callable[[Stack], Stack]) -> None:
    prediction = _run(spoil(_stack(shape=(20, 20, 2))))
    assert prediction.image.isfinite().all()
    assert prediction.sd.isfinite().all()


def test_too_little_data_says_so() -> None:
    stack = _stack()
    with pytest.raises(TooLittleDataError, match="0 observed voxels"):
        train_prior([dataclasses.replace(stack, weights=torch.zeros_like(stack.weights))], QUICK, 0)
    with pytest.raises(TooLittleDataError, match="6 × 6"):
        train_prior([_stack(shape=(6, 6, 30))], QUICK, 0)


def test_interpolation_honours_the_samples() -> None:
    matrix = _acquisition((3, 3, 8), (1.0, 1.0, 5.0), 2).axis_matrix(2).double()
    back = interpolation(matrix, torch.ones(8))
    samples = torch.randn(8, dtype=torch.float64)
    assert float((matrix @ back @ samples - samples).norm() / samples.norm()) < 5e-3
    # A straight line is its own smoothest interpolation.
    ramp = torch.arange(40, dtype=torch.float64)
    assert float((back @ (matrix @ ramp) - ramp)[3:-3].abs().max()) < 0.05


def test_sampling_of_a_matrix_lays_the_same_weights_anywhere() -> None:
    matrix = _acquisition((3, 3, 6), (1.0, 1.0, 3.0), 2).axis_matrix(2)
    sampling = sampling_of(matrix, 3)
    torch.testing.assert_close(sampling.matrix(18, 0).float(), matrix)
    shifted = sampling.matrix(18, 1)
    torch.testing.assert_close(shifted[0], torch.tensor([0, 1, 1, 1] + [0] * 14, dtype=torch.float64) / 3)
    torch.testing.assert_close(shifted.sum(1), torch.ones(len(shifted), dtype=torch.float64))


def test_shapes_are_checked() -> None:
    with pytest.raises(TypeCheckError):
        dataclasses.replace(_stack(), anchor=torch.zeros(3, 3))

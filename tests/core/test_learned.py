"""The learned prior on phantoms: what it must learn, and what must not move it."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy import ndimage

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.priors.expectation import Prediction
from atlasgs_bids.core.priors.learned.degradation import interpolation, sampling_of
from atlasgs_bids.core.priors.learned.prior import (
    Stack,
    TooLittleDataError,
    predict,
    train_prior,
    train_priors,
)
from atlasgs_bids.core.settings import LEARNED_CPU
from tests.helpers import of_cells

QUICK = dataclasses.replace(
    LEARNED_CPU, width=8, n_blocks=1, n_first_steps=2, n_cycles=2, n_cycle_steps=2, batch_voxels=2000
)


def _acquisition(
    shape: tuple[int, int, int],
    sizes_mm: tuple[float, float, float],
    slice_axis: int,
    device: str = "cpu",
) -> AcquisitionOperator:
    size_mm = sizes_mm[slice_axis]
    profile = np.array([-0.5, 0.5]) * size_mm, np.array([0.0, 1.0])
    return AcquisitionOperator(slice_sampling(shape, sizes_mm, slice_axis, profile, 1.0), device)


def _stack(
    shape: tuple[int, int, int] = (24, 22, 4),
    sizes_mm: tuple[float, float, float] = (1.0, 1.0, 4.0),
    slice_axis: int = 2,
    device: str = "cpu",
    cell_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Stack:
    generator = torch.Generator().manual_seed(1)
    acquisition = _acquisition(shape, sizes_mm, slice_axis, device)
    n_x, n_y, n_z = acquisition.shape_in
    slices = (100 + 20 * torch.randn(shape, generator=generator)).to(device)
    anchor = (50 + 10 * torch.randn(n_x, n_y, n_z, generator=generator)).to(device)
    return Stack(of_cells(slices, slice_axis, acquisition, cell_mm), anchor)


def _changed(stack: Stack, **changes: torch.Tensor) -> Stack:
    """With other slices or weights."""
    return dataclasses.replace(stack, observation=dataclasses.replace(stack.observation, **changes))


def _run(stack: Stack, seed: int = 0) -> Prediction:
    return predict(train_prior([stack], QUICK, seed), stack)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("in_plane_mm", [1.0, 2.0])
def test_any_slice_axis_and_coarse_planes(slice_axis: int, in_plane_mm: float) -> None:
    shape, sizes_mm = [20, 20, 20], [in_plane_mm] * 3
    shape[slice_axis], sizes_mm[slice_axis] = 3, 4.0
    stack = _stack(tuple(shape), tuple(sizes_mm), slice_axis)
    prediction = _run(stack)
    assert prediction.image.shape == prediction.sd.shape == stack.observation.acquisition.shape_in
    assert prediction.image.isfinite().all()
    assert (prediction.sd > 0).all()
    # The acquired slices are honoured whatever the network says.
    seen = stack.observation.acquisition.forward(prediction.image)
    assert float((seen - stack.observation.slices).abs().max()) < 1.0


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_same_seed_same_output(device: str) -> None:
    stack = _stack(device=device)
    first, second, other = _run(stack), _run(stack), _run(stack, seed=1)
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.sd, second.sd)
    assert not torch.equal(first.image, other.image)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_network_does_not_know_what_is_trained_beside_it(device: str) -> None:
    """Of another size, with other rounds, and one that has too little to learn from."""
    stacks = [_stack(device=device), _stack((20, 26, 5), device=device)]
    nothing = _changed(stacks[0], weights=torch.zeros_like(stacks[0].observation.weights))
    first, failed, second = train_priors([[stacks[0]], [nothing], [stacks[1]]], QUICK, 0)
    assert isinstance(failed, TooLittleDataError)
    for trained, stack in zip((first, second), stacks, strict=True):
        assert not isinstance(trained, TooLittleDataError)
        beside, alone = predict(trained, stack), _run(stack)
        assert torch.equal(beside.image, alone.image)
        assert torch.equal(beside.sd, alone.sd)


@pytest.mark.gpu
def test_a_gpu_that_is_not_the_current_one_trains_the_same(two_gpus: tuple[str, str]) -> None:
    """By turns, so that neither is helped by what an earlier recording has left behind."""
    first, second = two_gpus
    predictions = [_run(_stack(device=device)) for device in (second, first, second, first)]
    assert [str(prediction.image.device) for prediction in predictions] == [second, first, second, first]
    for prediction in predictions[1:]:
        assert torch.equal(prediction.image.cpu(), predictions[0].image.cpu())
        assert torch.equal(prediction.sd.cpu(), predictions[0].sd.cpu())
    assert torch.cuda.current_device() == 0


def test_fine_planes_are_trained_at_the_scale_of_the_slices() -> None:
    stack = _stack(shape=(48, 44, 4), cell_mm=(0.5, 0.5, 1.0))
    prediction = _run(stack)
    assert prediction.image.isfinite().all()
    assert not torch.equal(prediction.image, _run(_stack(shape=(48, 44, 4))).image)


@pytest.mark.parametrize("part", [slice(None), slice(4, None)])
def test_what_reaches_beyond_the_anchor_is_data_all_the_same(part: slice) -> None:
    """The last slice, or most of it: the result agrees with it, which is no weight's merit."""
    stack = _stack((24, 22, 6))
    cut = torch.zeros_like(stack.observation.weights)
    cut[part, :, -1] = 1
    unexplained = _changed(stack, weights=stack.observation.weights - cut)
    acquired = stack.observation
    error, blind = (
        (acquired.acquisition.forward(_run(own).image) - acquired.slices)[part, :, -1]
        for own in (_changed(unexplained, cut=cut), unexplained)
    )
    assert float(error.abs().max()) < 1
    assert float(blind.square().mean().sqrt()) > 10


def test_unobserved_voxels_have_no_influence() -> None:
    stack = _stack()
    weights = stack.observation.weights.clone()
    weights[3:9, 5:12] = 0
    changed = torch.where(weights > 0, stack.observation.slices, 1e6)
    first = _run(_changed(stack, weights=weights))
    second = _run(_changed(stack, weights=weights, slices=changed))
    assert torch.equal(first.image, second.image)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda stack: _changed(stack, slices=torch.zeros_like(stack.observation.slices)),
        lambda stack: dataclasses.replace(stack, anchor=torch.zeros_like(stack.anchor)),
        lambda stack: _changed(
            stack, slices=stack.observation.slices * (torch.rand(stack.observation.slices.shape) > 0.999)
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
        train_prior([_changed(stack, weights=torch.zeros_like(stack.observation.weights))], QUICK, 0)
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


SIZE, FACTOR = 30, 5
ANCHOR, CONTRAST = np.array([50.0, 150.0, 100.0]), np.array([300.0, 120.0, 200.0])
"""Intensity of each tissue in the two images."""
SMALL = dataclasses.replace(
    LEARNED_CPU, width=16, n_blocks=1, n_first_steps=60, n_cycles=2, n_cycle_steps=60, batch_voxels=4000
)


def _ball(radius: float) -> np.ndarray:
    """Deliberately not centred on a slice."""
    return sum((axis - 15.5) ** 2 for axis in np.indices((SIZE,) * 3)) <= radius**2


@pytest.fixture(scope="module")
def anatomy() -> np.ndarray:
    """Three tissues in blobs of a few voxels."""
    field = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((SIZE,) * 3), 2.0)
    return (field > -0.5 * field.std()).astype(int) + (field > 0.5 * field.std())


def _simulated(truth: np.ndarray, anchor: np.ndarray) -> tuple[Stack, np.ndarray]:
    """Slices of the truth without noise, and their cubic interpolation."""
    n_slices = SIZE // FACTOR
    acquisition = _acquisition((SIZE, SIZE, n_slices), (1.0, 1.0, float(FACTOR)), 2)
    slices = acquisition.forward(torch.from_numpy(truth).float())
    stack = Stack(of_cells(slices, 2, acquisition), torch.from_numpy(anchor).float())
    centres = (np.arange(SIZE) + 0.5) / FACTOR - 0.5
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), centres, indexing="ij"))
    return stack, ndimage.map_coordinates(slices.numpy(), grid, order=3, mode="nearest")


def _gain_db(truth: np.ndarray, image: np.ndarray, cubic: np.ndarray) -> float:
    everywhere = np.ones_like(truth, dtype=bool)
    return psnr_db(truth, image, everywhere) - psnr_db(truth, cubic, everywhere)


def _predicted(stack: Stack) -> Prediction:
    return predict(train_prior([stack], SMALL, 0), stack)


def test_learns_what_the_anchor_tells_and_how_wrong_it_is(anatomy: np.ndarray) -> None:
    truth = CONTRAST[anatomy]
    stack, cubic = _simulated(truth, ANCHOR[anatomy])
    prediction = _predicted(stack)
    image, sd = prediction.image.numpy(), prediction.sd.numpy()
    assert _gain_db(truth, image, cubic) > 8.0
    assert 0.7 < (np.abs(image - truth) < 1.645 * sd).mean() < 0.98


def test_noise_for_an_anchor_does_no_harm(anatomy: np.ndarray) -> None:
    noise = 50 + 100 * np.random.default_rng(1).random(anatomy.shape)
    stack, cubic = _simulated(CONTRAST[anatomy], noise)
    assert _gain_db(CONTRAST[anatomy], _predicted(stack).image.numpy(), cubic) > -0.3


def test_lesion_that_only_the_target_shows_gains_contrast_over_cubic(anatomy: np.ndarray) -> None:
    truth = CONTRAST[anatomy]
    lesion, around = _ball(4.5), _ball(7.0) & ~_ball(5.5)
    truth[lesion] = 500.0
    stack, cubic = _simulated(truth, ANCHOR[anatomy])
    image = _predicted(stack).image.numpy()
    contrast, of_cubic = (float(x[lesion].mean() - x[around].mean()) for x in (image, cubic))
    assert contrast > of_cubic


def test_shapes_are_checked() -> None:
    with pytest.raises(TypeCheckError):
        dataclasses.replace(_stack(), anchor=torch.zeros(3, 3))

"""One Observation: what gain, noise and weights mean, alone, beside others and joined."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.observation import LatticeObservation, Observation, join
from atlasgs_bids.core.operators import Scaled
from tests.helpers import assert_adjoint, of_cells

SIZE, FACTOR = 8, 4


def _stack(axis: int, gain: float, noise_sd: float) -> LatticeObservation:
    """Slices of a cube of cells, some of them not observed."""
    generator = torch.Generator().manual_seed(axis)
    shape, sizes_mm = [SIZE] * 3, [1.0] * 3
    shape[axis], sizes_mm[axis] = SIZE // FACTOR, float(FACTOR)
    box = np.array([-0.5, 0.5]) * FACTOR, np.array([0.0, 1.0])
    sampling = slice_sampling((shape[0], shape[1], shape[2]), tuple(sizes_mm), axis, box, 1.0)
    slices = 10 * torch.rand(shape, generator=generator)
    weights = (torch.rand(shape, generator=generator) > 0.3).float()
    observation = of_cells(slices, axis, AcquisitionOperator(sampling, "cpu"))
    return replace(observation, weights=weights, gain=gain, noise_sd=noise_sd)


def _misfit(observation: Observation, image: torch.Tensor) -> float:
    error = observation.slices_from_amplitudes.forward(image) - observation.slices
    return float((observation.weights * error**2).sum())


@pytest.fixture
def image() -> torch.Tensor:
    return 10 * torch.rand(SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(9))


def test_the_gain_is_part_of_the_operator(image: torch.Tensor) -> None:
    own = _stack(2, 1.5, 2.0)
    expected = 1.5 * own.acquisition.forward(image)
    torch.testing.assert_close(own.slices_from_amplitudes.forward(image), expected, rtol=0, atol=0)
    assert_adjoint(Scaled(own.acquisition, 1.5))
    # The operator follows what it is made of.
    unscaled = replace(own, gain=1.0).slices_from_amplitudes.forward(image)
    assert torch.equal(unscaled, own.acquisition.forward(image))


def test_a_stack_without_gain_has_the_same_misfit_in_units_of_its_noise(image: torch.Tensor) -> None:
    own = _stack(2, 1.5, 3.0)
    alike = own.without_gain()
    assert alike.noise_sd == pytest.approx(2.0)
    assert _misfit(alike, image) / alike.noise_sd**2 == pytest.approx(_misfit(own, image) / 3.0**2, rel=1e-5)


def test_joined_or_beside_each_other_stacks_count_by_their_noise(image: torch.Tensor) -> None:
    stacks = [_stack(2, 1.0, 2.0), _stack(0, 1.7, 5.0)]
    joint = join(stacks)
    expected = sum((2.0 / own.noise_sd) ** 2 * _misfit(own, image) for own in stacks)
    assert (joint.slice_axis, joint.noise_sd, joint.slices.shape[0]) == (0, 2.0, 2 * SIZE // FACTOR)
    assert _misfit(joint, image) == pytest.approx(expected, rel=1e-5)
    beside = [own.beside(2.0) for own in stacks]
    assert {own.noise_sd for own in beside} == {2.0}
    assert sum(_misfit(own, image) for own in beside) == pytest.approx(expected, rel=1e-5)


def test_cells_acquired_as_they_are_are_the_image(image: torch.Tensor) -> None:
    cells = AcquisitionOperator.of_cells((SIZE, SIZE, SIZE))
    assert torch.equal(cells.forward(image), image)
    assert torch.equal(cells.adjoint(image), image)
    assert cells.cell_noise == 1


def test_an_operator_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot compose"):
        replace(_stack(2, 1.0, 1.0), acquisition=AcquisitionOperator.of_cells((SIZE, SIZE, SIZE + 1)))

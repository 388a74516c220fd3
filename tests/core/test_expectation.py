"""What the fit is told of a learned prior: trained at the scale of the slices, whatever the voxels."""

import dataclasses

import numpy as np
import pytest
import torch

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.expectation import ExpectedStack
from atlasgs_bids.core.priors.learned.prior import Stack, expect_each, predict, train_prior
from atlasgs_bids.core.settings import LEARNED_CPU
from atlasgs_bids.core.splat.operator import SplatOperator
from tests.helpers import random_gaussians

QUICK = dataclasses.replace(
    LEARNED_CPU, width=8, n_blocks=1, n_first_steps=2, n_cycles=2, n_cycle_steps=2, batch_voxels=2000
)
IN_PLANE_MM, CELL_MM, FACTOR = 0.5, 1.0, 4


def _observed() -> tuple[LatticeObservation, ExpectedStack, torch.Tensor]:
    """Slices of 0.5 × 0.5 × 4 mm beside an anchor of 1 mm, what is expected of them, and the anchor."""
    torch.manual_seed(0)
    shape = (48, 44, 4)
    box = np.array([-0.5, 0.5]) * FACTOR * CELL_MM, np.array([0.0, 1.0])
    sizes_mm = (IN_PLANE_MM, IN_PLANE_MM, FACTOR * CELL_MM)
    acquisition = AcquisitionOperator(slice_sampling(shape, sizes_mm, 2, box, CELL_MM), "cpu")
    lattice = torch.diag(torch.tensor([IN_PLANE_MM, IN_PLANE_MM, CELL_MM, 1.0], dtype=torch.float64))
    gaussians = random_gaussians(400, 20.0, dtype=torch.float32)
    n_x, n_y, n_z = acquisition.shape_in
    splat = SplatOperator(gaussians, (n_x, n_y, n_z), lattice)
    slices = 100 + 20 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    support = torch.ones(n_x, n_y, n_z, dtype=torch.bool)
    observation = LatticeObservation(
        slices, torch.ones(shape), 2, acquisition=acquisition, splat=splat, world_from_lattice=lattice
    )
    (expected,) = expect_each([observation], [support], gaussians, QUICK, 0)
    return observation, expected, splat.forward(gaussians.amplitudes)


def test_a_network_is_trained_at_the_ratio_of_the_cells_sides() -> None:
    observation, expected, anchor = _observed()
    assert observation.cell_mm == pytest.approx((IN_PLANE_MM, IN_PLANE_MM, CELL_MM))
    image = {}
    for cell_mm in ((IN_PLANE_MM, IN_PLANE_MM, CELL_MM), (1.0, 1.0, 1.0)):
        world = torch.diag(torch.tensor([*cell_mm, 1.0], dtype=torch.float64))
        data = Stack(dataclasses.replace(observation, world_from_lattice=world), anchor)
        image[cell_mm[0]] = predict(train_prior([data], QUICK, 0), data).image
    assert torch.equal(expected.expectation.image, image[IN_PLANE_MM])
    assert not torch.equal(expected.expectation.image, image[1.0])

"""The profile by held-out slices on a small problem with a known one."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from atlasgs_bids.core.acquisition import profile_sampling
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.priors.graph import GraphLaplacian
from atlasgs_bids.core.settings import GraphSettings
from atlasgs_bids.core.slice_profile import Cells, ProfileProblem, find_profile_sd
from atlasgs_bids.imaging.profile import profile_with_sd
from tests.helpers import assert_adjoint

SPACING = 3.0
N_SLICES = 12
SIDE = 12
WIDEST = 3.0


def sampled(sd_mm, thickness_mm=SPACING):
    """On the lattice of the widest profile, cells of 1 mm."""
    widest, own = (
        profile_sampling(N_SLICES, SPACING, profile.offsets_mm, profile.cumulative, 1.0)
        for profile in (profile_with_sd(WIDEST, thickness_mm), profile_with_sd(sd_mm, thickness_mm))
    )
    before = round((own.first - widest.first) / widest.step)
    weights = np.zeros_like(widest.weights)
    weights[:, before : before + own.weights.shape[1]] = own.weights
    return type(own)(weights, widest.first, widest.step)


def problem(true_sd_mm, noise=0.0, regularization=1.0):
    """A random pattern of two tissues, whose anchor shows where they are, in another contrast."""
    n_cells = sampled(WIDEST).weights.shape[1]
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE, n_cells)), 2.0)
    anchor = np.digitize(smooth, np.quantile(smooth, [0.3, 0.6])).astype(np.float32)
    image = torch.tensor([2.0, 0.0, 3.0])[torch.from_numpy(anchor).long()]
    weights = torch.from_numpy(sampled(true_sd_mm).weights).float()
    slices = torch.tensordot(image, weights.T, dims=1)
    slices = slices / slices.std()
    slices += noise * torch.randn(slices.shape, generator=torch.Generator().manual_seed(1))
    means = torch.cartesian_prod(*[torch.arange(n, dtype=torch.float32) for n in anchor.shape])
    n = len(means)
    cells = Gaussians(means, torch.ones(n, 3), torch.eye(4)[:1].repeat(n, 1), torch.zeros(n))
    features = torch.from_numpy(anchor.reshape(-1, 1))
    return ProfileProblem(
        slices=slices,
        weights=torch.ones_like(slices),
        cells=torch.arange(n),
        n_cells=n_cells,
        prior=GraphLaplacian(cells, features, GraphSettings(similarity_scale=0.3)),
        regularization=regularization,
    )


@pytest.mark.parametrize("true_sd_mm", [0.87, 1.4, 1.9])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_profile_that_blurred_the_slices_is_found(true_sd_mm, noise):
    found = find_profile_sd(problem(true_sd_mm, noise), sampled, start_mm=1.04)
    assert found is not None
    assert abs(np.log(found.sd_mm / true_sd_mm)) < 2 * found.log_error
    assert found.log_error < 0.2
    assert min(found.tried, key=found.tried.get) == pytest.approx(true_sd_mm, rel=0.25)


def test_too_few_slices_say_nothing():
    own = problem(1.4)
    few = ProfileProblem(own.slices[:, :, :4], own.weights[:, :, :4], own.cells, own.n_cells, own.prior, 1.0)
    assert find_profile_sd(few, sampled, 1.0) is None


def test_an_image_without_detail_says_nothing():
    own = problem(1.4)
    flat = ProfileProblem(torch.ones_like(own.slices), own.weights, own.cells, own.n_cells, own.prior, 1.0)
    assert find_profile_sd(flat, sampled, 1.0) is None


def test_cells_are_adjoint():
    chosen = torch.tensor([0, 3, 7, 20])
    assert_adjoint(Cells(chosen, (3, 3, 3)))

"""λ and noise against dense algebra, and on slices whose noise is known."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.appearance import fit_appearance
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.metrics import noise_sd, psnr_db
from atlasgs_bids.core.objective import Objective
from atlasgs_bids.core.observation import Observation
from atlasgs_bids.core.operators import LinearOperator
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.regularization import _Path, balance
from atlasgs_bids.core.settings import AppearanceSettings, GraphSettings
from atlasgs_bids.core.splat.operator import SplatOperator
from tests.helpers import random_gaussians

SETTINGS = AppearanceSettings()
EXACT = replace(SETTINGS, tolerance=1e-6, search_tolerance=1e-6, max_iterations=500)
SIZE, FACTOR = 36, 3
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class _Dense(LinearOperator):
    def __init__(self, matrix: torch.Tensor, shape: tuple[int, int, int]) -> None:
        self.matrix, self.shape_in, self.shape_out = matrix, (matrix.shape[1],), shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.matrix @ x).reshape(*self.shape_out, *x.shape[1:])

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self.matrix.T @ y.reshape(self.matrix.shape[0], *y.shape[3:])


def test_effective_parameters_and_misfit_are_those_of_dense_algebra() -> None:
    n, shape = 60, (10, 12, 20)
    generator = torch.Generator().manual_seed(2)
    matrix = torch.rand(math.prod(shape), n, generator=generator)
    matrix = matrix * (torch.rand(matrix.shape, generator=generator) < 5 / n)
    weights = 0.5 + torch.rand(shape, generator=generator)
    weights[:, 3] = 0
    torch.manual_seed(2)
    prior = GraphLaplacian(random_gaussians(n, 6.0, dtype=torch.float32), torch.zeros(n, 1), GraphSettings(6))
    slices = torch.rand(shape, generator=generator)
    path = _Path(Objective((Observation(slices, weights, _Dense(matrix, shape), 2),), prior, 0.0))
    laplacian = torch.stack([prior.forward(row) for row in torch.eye(n)], dim=1).double()
    t, w, y = matrix.double(), weights.flatten().double(), slices.flatten().double()
    gram = t.T @ (w[:, None] * t)
    for regularization in (300.0, 30.0, 3.0):
        inverse = torch.linalg.inv(gram + regularization * laplacian)
        dense = inverse @ t.T @ (w * y)
        misfit = float((w * (t @ dense - y) ** 2).sum())
        gamma = float((inverse @ gram).trace())
        assert path.misfit(path.amplitudes(regularization, EXACT)) == pytest.approx(misfit, rel=2e-3)
        # One probe: √(2 tr H²) is its standard deviation.
        assert path.n_effective(regularization, EXACT) == pytest.approx(gamma, abs=3 * math.sqrt(2 * gamma))


@cache
def _anatomy() -> tuple[torch.Tensor, torch.Tensor]:
    """Anchor and target of one folded anatomy; texture and a lesion are the target's alone."""
    rng = np.random.default_rng(4)
    folds = ndimage.gaussian_filter(rng.standard_normal((SIZE,) * 3), 1.3)
    labels = np.digitize(folds, np.quantile(folds, [0.3, 0.65]))
    x, y, z = np.ogrid[:SIZE, :SIZE, :SIZE]
    lesion = (x - 20) ** 2 + (y - 14) ** 2 + (z - 18) ** 2 < 20
    texture = ndimage.gaussian_filter(rng.standard_normal((SIZE,) * 3), 0.7)
    anchor = np.array([40.0, 100.0, 160.0])[labels]
    target = np.array([180.0, 110.0, 60.0])[labels] + 6 * texture / texture.std()
    target[lesion] += 50
    soft = [torch.from_numpy(ndimage.gaussian_filter(image, 0.5)).float() for image in (anchor, target)]
    return soft[0], soft[1]


@cache
def _observed(device: str = "cpu") -> tuple[Observation, GraphLaplacian, SplatOperator]:
    anchor, target = _anatomy()
    means = torch.stack(torch.meshgrid(*[torch.arange(float(SIZE))] * 3, indexing="ij"), -1).reshape(-1, 3)
    turned = torch.tensor([1.0, 0, 0, 0]).repeat(len(means), 1)
    gaussians = Gaussians(means, torch.full_like(means, 0.6), turned, anchor.flatten()).to(device)
    box = np.array([-0.5, 0.5]) * FACTOR, np.array([0.0, 1.0])
    shape, sizes_mm = (SIZE, SIZE, SIZE // FACTOR), (1.0, 1.0, float(FACTOR))
    acquisition = AcquisitionOperator(slice_sampling(shape, sizes_mm, 2, box, 1.0), device)
    native = torch.eye(4, dtype=torch.float64)
    native[2, 2], native[2, 3] = FACTOR, (FACTOR - 1) / 2
    lattice = native @ acquisition.native_from_lattice
    op = acquisition @ SplatOperator(gaussians, acquisition.shape_in, lattice)
    slices = acquisition.forward(target.to(device))
    smooth = torch.from_numpy(ndimage.gaussian_filter(anchor.numpy(), 1.0))
    features = anchor_features(anchor.flatten(), smooth.flatten(), 160.0, GraphSettings()).to(device)
    prior = GraphLaplacian(gaussians, features, GraphSettings())
    render = SplatOperator(gaussians, (SIZE,) * 3, torch.eye(4, dtype=torch.float64))
    return Observation(slices, torch.ones_like(slices), op, 2), prior, render


def _noisy(sd: float, device: str = "cpu", seed: int = 0) -> Observation:
    clean = _observed(device)[0]
    noise = sd * torch.randn(clean.slices.shape, generator=torch.Generator().manual_seed(seed))
    return replace(clean, slices=clean.slices + noise.to(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("percent", [1, 3, 5])
def test_noise_is_measured_beside_anatomy(percent: float, device: str) -> None:
    sd = percent / 100 * float(_anatomy()[1].quantile(0.99))
    found = fit_appearance(_noisy(sd, device), _observed(device)[1], SETTINGS)
    assert found.noise_sd == pytest.approx(sd, rel=0.2)


def test_differences_of_neighbours_take_anatomy_for_noise() -> None:
    """What the noise was measured by before, on the same slices."""
    sd = 0.01 * float(_anatomy()[1].quantile(0.99))
    everywhere = np.ones(_noisy(0).slices.shape, bool)
    assert noise_sd(_noisy(sd).slices.numpy(), 2, everywhere) > 1.5 * sd
    # Without noise: what is found would be seen beside noise of 1 %, where it does not show.
    assert math.hypot(noise_sd(_noisy(0).slices.numpy(), 2, everywhere), sd) > 1.2 * sd
    assert math.hypot(fit_appearance(_noisy(0), _observed()[1], SETTINGS).noise_sd, sd) < 1.2 * sd


@pytest.mark.parametrize("percent", [0, 1, 3])
def test_the_weight_is_near_the_best(percent: float) -> None:
    _, target = _anatomy()
    observation, (_, prior, render) = _noisy(percent / 100 * float(target.quantile(0.99))), _observed()
    inside = np.zeros(target.shape, bool)
    inside[3:-3, 3:-3, 3:-3] = True

    def score(settings: AppearanceSettings) -> float:
        image = render.forward(fit_appearance(observation, prior, settings).amplitudes)
        return psnr_db(target.numpy(), image.numpy(), inside)

    grid = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
    best = max(score(replace(SETTINGS, regularization=own)) for own in grid)
    assert score(SETTINGS) > best - 0.1


def test_volumes_share_one_weight_and_the_noise_of_all() -> None:
    first, second = _noisy(3.0, seed=1), _noisy(5.0, seed=2)
    together = replace(first, slices=torch.stack([first.slices, second.slices], dim=3))
    found = fit_appearance(together, _observed()[1], SETTINGS)
    assert found.amplitudes.shape == (SIZE**3, 2)
    assert found.noise_sd == pytest.approx(math.sqrt((3**2 + 5**2) / 2), rel=0.2)


def test_few_slices_and_slices_without_contents_have_a_weight() -> None:
    observation, prior = _noisy(3.0), _observed()[1]
    few = observation.weights.clone()
    few[..., 4:] = 0
    found = fit_appearance(replace(observation, weights=few), prior, SETTINGS)
    assert found.noise_sd == pytest.approx(3.0, rel=0.35)
    empty = replace(observation, slices=torch.zeros_like(observation.slices))
    assert math.isfinite(fit_appearance(empty, prior, SETTINGS).regularization)


def test_slices_that_any_weight_explains_divide_by_no_zero() -> None:
    observation, prior, _ = _observed()
    constant = replace(
        observation, slices=observation.slices_from_amplitudes.forward(torch.full((SIZE**3,), 9.0))
    )
    found = balance(Objective((constant,), prior, 0.0), SETTINGS)
    assert found.regularization <= 1.01 * SETTINGS.regularization_limits[1]
    assert 0 < found.noise_sd < 0.01 * 9


def test_a_search_gives_the_same_twice() -> None:
    observation, prior = _noisy(2.0), _observed()[1]
    once, again = (fit_appearance(observation, prior, SETTINGS) for _ in range(2))
    assert (once.regularization, once.noise_sd) == (again.regularization, again.noise_sd)
    assert torch.equal(once.amplitudes, again.amplitudes)

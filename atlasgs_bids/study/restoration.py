"""The core alone, from an isotropic anchor and truth to a restored target: no files, no registration."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy import integrate, ndimage

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.appearance import Appearance, fit_expected_appearance, fit_guarded_appearance
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.metrics import noise_sd
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.expectation import ExpectedStack
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.priors.learned.prior import expect
from atlasgs_bids.core.scaffold import fit_scaffold
from atlasgs_bids.core.settings import CoreSettings, LearnedSettings
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.core.uncertainty import estimate_uncertainty
from atlasgs_bids.study.simulation.degrade import simulate_thick_slices, true_slice_profile

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
SLICE_AXIS = 2
LEAST_NOISE = 0.01
"""Of the mean, as the app takes it where slices have no noise."""


@dataclass(frozen=True)
class StudyScaffold:
    """Gaussians and graph of an anchor."""

    anchor: Image
    mask: Mask
    world_from_voxel: npt.NDArray[np.float64]
    gaussians: Gaussians
    prior: GraphLaplacian
    n_steps: int
    anchor_psnr_db: float

    def render(self, amplitudes: torch.Tensor, chunk_elements: int) -> Image:
        """The image of the amplitudes on the anchor's grid."""
        n_x, n_y, n_z = self.anchor.shape
        world = torch.from_numpy(self.world_from_voxel)
        rendered = render(self.gaussians, amplitudes, (n_x, n_y, n_z), world, chunk_elements)
        return np.asarray(rendered.cpu().numpy(), dtype=np.float32)


@dataclass(frozen=True)
class Restored:
    """What became of simulated slices."""

    image: Image
    slices: Image
    factor: int
    appearance: Appearance
    expected: ExpectedStack | None
    noise_sd: float

    @cached_property
    def cubic(self) -> Image:
        """B-spline interpolation of the slices at their true centres."""
        n = self.image.shape[SLICE_AXIS]
        centres = (np.arange(n) + 0.5) / self.factor - 0.5
        lines = [np.arange(self.slices.shape[0]), np.arange(self.slices.shape[1]), centres]
        grid = np.stack(np.meshgrid(*lines, indexing="ij"))
        cubic = ndimage.map_coordinates(self.slices, grid, order=3, mode="nearest")
        return np.asarray(cubic, dtype=np.float32)


def study_scaffold(
    anchor: Image, mask: Mask, world_from_voxel: npt.NDArray[np.float64], settings: CoreSettings, device: str
) -> StudyScaffold:
    """Stage 1 and the graph."""
    support = torch.from_numpy(ndimage.binary_dilation(mask, iterations=2)).to(device)
    image = torch.from_numpy(anchor).to(device)
    fitted = fit_scaffold(image, support, torch.from_numpy(world_from_voxel), settings)
    voxel_from_world = np.linalg.inv(world_from_voxel)
    means_mm = fitted.gaussians.means_mm.cpu().numpy()
    means_vox = means_mm @ voxel_from_world[:3, :3].T + voxel_from_world[:3, 3]
    sampled = [
        torch.from_numpy(ndimage.map_coordinates(values, means_vox.T, order=1, mode="nearest"))
        for values in (anchor, ndimage.gaussian_filter(anchor, 1.0))
    ]
    scale = float(np.percentile(anchor[mask], 99))
    features = anchor_features(sampled[0], sampled[1], scale, settings.graph)
    prior = GraphLaplacian(fitted.gaussians, features.to(device), settings.graph)
    return StudyScaffold(
        anchor, mask, world_from_voxel, fitted.gaussians, prior, fitted.n_steps, fitted.anchor_psnr_db
    )


def restore_simulated(
    scaffold: StudyScaffold,
    truth: Image,
    factor: int,
    network: LearnedSettings | None,
    settings: CoreSettings,
    noise: Image | float = 0.0,
) -> Restored:
    """Slices of ``factor`` voxels simulated from the truth, restored by the graph or the learned prior."""
    device = scaffold.gaussians.means_mm.device
    offsets_mm, density = true_slice_profile(float(factor), 1.0)
    cumulative = integrate.cumulative_trapezoid(density, offsets_mm, initial=0)
    profile = (offsets_mm, cumulative / cumulative[-1])
    data, native = simulate_thick_slices(truth, scaffold.world_from_voxel, SLICE_AXIS, factor)
    data = np.asarray(data + noise, dtype=np.float32)
    native_shape = (data.shape[0], data.shape[1], data.shape[2])
    samplings = slice_sampling(native_shape, (1.0, 1.0, float(factor)), SLICE_AXIS, profile, 1.0)
    acquisition = AcquisitionOperator(samplings, device)
    lattice = torch.from_numpy(native) @ acquisition.native_from_lattice
    n_x, n_y, n_z = acquisition.shape_in
    splat = SplatOperator(scaffold.gaussians, (n_x, n_y, n_z), lattice)
    slices = torch.from_numpy(data).to(device)
    ones = torch.ones(len(scaffold.gaussians), device=device)
    weights = (acquisition.forward(splat.forward(ones)) > 0.05).float()
    observed = weights.cpu().numpy() > 0
    sd = max(noise_sd(data, SLICE_AXIS, observed), LEAST_NOISE * float(np.abs(data[observed]).mean()))
    observation = LatticeObservation(
        slices, weights, SLICE_AXIS, sd, acquisition=acquisition, splat=splat, world_from_lattice=lattice
    )
    expected = None
    if network is None:
        appearance = fit_guarded_appearance(
            observation,
            scaffold.prior,
            lambda: GraphLaplacian(scaffold.gaussians, ones[:, None], settings.graph),
            settings.appearance,
        )
    else:
        inside = splat.forward(ones) > 0.5
        expected = expect(observation, inside, scaffold.gaussians, network, settings.seed)
        appearance = fit_expected_appearance(
            observation, scaffold.prior, [expected.expectation], settings.appearance
        )
    image = np.maximum(scaffold.render(appearance.amplitudes, settings.chunk_elements), np.float32(0))
    return Restored(image, data, factor, appearance, expected, sd)


def restored_sd(restored: Restored, scaffold: StudyScaffold, settings: CoreSettings) -> Image:
    """Standard deviation of the error."""
    expectations = [] if restored.expected is None else [restored.expected.expectation]
    found = estimate_uncertainty(
        restored.appearance.objective,
        expectations,
        settings.appearance,
        settings.seed,
    )
    draws = [scaffold.render(draw, settings.chunk_elements) for draw in found.deviations.unbind(1)]
    variance = np.mean(np.stack(draws) ** 2, axis=0)
    if found.expected_sd is not None:
        variance = variance + scaffold.render(found.expected_sd, settings.chunk_elements) ** 2
    return np.asarray(np.sqrt(variance), dtype=np.float32)

"""What a learned prior expects of one stack, in the form that the fit of the amplitudes takes."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlasgs_bids.core.acquisition import AcquisitionOperator
from atlasgs_bids.core.gaussians import Gaussians, world_points
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.operators import LinearOperator


@dataclass(frozen=True)
class Evidence:
    """What the slices say of a network, on their own grid."""

    share: Float[Tensor, "x y z"]
    """Of what the network adds to the interpolation, the part that the slices bear out: 0 to 1."""
    contradicted: Float[Tensor, "x y z"]
    """1 where they contradict it beyond what it errs by anyway."""
    anchor_gain: float
    """1 − squared error over that with an anchor turned upside down: 0 where the anchor says nothing."""


@dataclass(frozen=True)
class Prediction:
    """What the network expects on the lattice, in the target's intensity units."""

    image: Float[Tensor, "X Y Z"]
    sd: Float[Tensor, "X Y Z"]
    """Standard deviation of its error, scaled so that 90 % intervals hold 90 % of held-out voxels."""
    evidence: Evidence | None
    """What the slices say of the network; None where nothing is restored along the slice axis."""


_WEIGHT_RANGE = (0.01, 1.0)
"""Of the expectation beside the slices: never the stronger of the two, and never without a say."""
_OUTSIDE = 1e-6
"""Relative weight of a stack's expectation beyond its own lattice, where another stack may know better."""


@dataclass(frozen=True)
class Expectation:
    """An image on the lattice of one stack, and how far it is to be trusted in each voxel."""

    observation: LatticeObservation
    """The image as if its cells had been acquired. The weights are relative to those of the slices: variance
    of their noise over that of the expectation."""
    sd: Float[Tensor, "X Y Z"]
    """Standard deviation of its error, intensity units."""
    amplitudes: Float[Tensor, " n"]
    """The image at the Gaussians' means."""
    amplitude_sd: Float[Tensor, " n"]
    """Standard deviation there of what an isotropic scan, as noisy as these slices, would show."""
    amplitude_weights: Float[Tensor, " n"]
    """The weights there; tiny, not 0, outside the lattice."""
    evidence: Evidence | None = None
    """What the slices say of the network."""

    @property
    def image(self) -> Float[Tensor, "X Y Z"]:
        return self.observation.slices

    def trusted(self, trust: float) -> LatticeObservation:
        """The term of an objective, its weights times ``trust``."""
        return replace(self.observation, weights=trust * self.observation.weights)


@dataclass(frozen=True)
class ExpectedStack:
    """A stack, in intensities of the amplitudes, and what is expected of it."""

    observation: LatticeObservation
    support: Bool[Tensor, "X Y Z"]
    """Cells of the lattice in which Gaussians were placed; beyond them nothing is expected of them."""
    expectation: Expectation

    def on(self, splat: LinearOperator, gaussians: Gaussians) -> "ExpectedStack":
        """The same expectation of other Gaussians, ``splat`` being theirs."""
        return expected_stack(
            replace(self.observation, splat=splat), self.support, self.prediction, gaussians
        )

    @property
    def prediction(self) -> Prediction:
        """What is expected, without the operators of the stack."""
        own = self.expectation
        return Prediction(own.image, own.sd, own.evidence)


def expected_stack(
    observation: LatticeObservation,
    support: Bool[Tensor, "X Y Z"],
    prediction: Prediction,
    gaussians: Gaussians,
) -> ExpectedStack:
    """What a prediction says to the fit of these Gaussians."""
    low, high = _WEIGHT_RANGE
    image, sd = prediction.image, prediction.sd
    trust = (observation.noise_sd / sd.clamp_min(1e-12)).square().clamp(low, high) * support
    lattice_from_world = torch.linalg.inv(observation.world_from_lattice.double()).to(gaussians.means_mm)
    means_vox = world_points(gaussians.means_mm, lattice_from_world)
    # An isotropic scan has more noise than its slices: 90 % of such a scan is inside only with that added.
    against_scan = (sd.square() + (observation.noise_sd * observation.acquisition.cell_noise) ** 2).sqrt()
    inside = _inside(observation.lattice_shape, means_vox)
    cells = AcquisitionOperator.of_cells(observation.lattice_shape)
    expectation = Expectation(
        observation=replace(observation, slices=image, weights=trust, acquisition=cells, cut=None),
        sd=sd,
        amplitudes=sample_lattice(image, means_vox),
        amplitude_sd=sample_lattice(against_scan, means_vox).clamp_min(1e-12),
        amplitude_weights=inside * sample_lattice(trust, means_vox).clamp_min(_OUTSIDE),
        evidence=prediction.evidence,
    )
    return ExpectedStack(observation, support, expectation)


def _inside(shape: tuple[int, ...], points_vox: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    upper = torch.tensor(shape, device=points_vox.device, dtype=points_vox.dtype) - 0.5
    inside = ((points_vox >= -0.5) & (points_vox <= upper)).all(1)
    return torch.where(inside, 1.0, _OUTSIDE)


def sample_lattice(image: Float[Tensor, "X Y Z"], points_vox: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """The image at points in index coordinates, trilinear, its border continued outwards."""
    sizes = torch.tensor(image.shape, device=image.device, dtype=image.dtype)
    # grid_sample takes the last axis first, and −1 to 1 from the first voxel's centre to the last one's.
    unit = 2 * points_vox / (sizes - 1).clamp_min(1) - 1
    sampled = torch.nn.functional.grid_sample(
        image[None, None], unit.flip(1)[None, None, None], padding_mode="border", align_corners=True
    )
    return sampled.view(-1)

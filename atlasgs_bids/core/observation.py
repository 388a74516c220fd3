"""What is known of a target's amplitudes, y = T a + noise: from one stack, from several, or expected."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.acquisition import AcquisitionOperator
from atlasgs_bids.core.operators import LinearOperator, Scaled, SliceRows, StackedOperator


@dataclass(frozen=True)
class Observation:
    """y and the operator that predicts it; ‖T a − y‖²_W is its misfit."""

    slices: Float[Tensor, "x y z *k"]
    """y; k volumes of one acquisition have one T."""
    weights: Float[Tensor, "x y z *one"]
    """W; 0: not observed."""
    slices_from_amplitudes: LinearOperator
    """T."""
    slice_axis: int
    noise_sd: float = 1.0
    """Of a voxel of weight 1, in units of ``slices``."""


@dataclass(frozen=True, kw_only=True)
class LatticeObservation(Observation):
    """One of an image on a fine lattice that is aligned with its slices: T = g A S."""

    slices_from_amplitudes: LinearOperator = field(init=False)
    acquisition: AcquisitionOperator
    """A: lattice -> slices."""
    splat: LinearOperator
    """S: amplitudes -> lattice; the identity where the cells themselves are asked for."""
    world_from_lattice: Float[Tensor, "4 4"]
    gain: float = 1.0
    """g: intensity of these slices over that which the amplitudes stand for."""
    cut: Float[Tensor, "x y z"] | None = None
    """1: data that reach beyond the anchor's field of view: no amplitudes explain them, their weight is 0."""

    def __post_init__(self) -> None:
        op = self.acquisition @ self.splat
        object.__setattr__(self, "slices_from_amplitudes", op if self.gain == 1 else Scaled(op, self.gain))

    @property
    def lattice_shape(self) -> tuple[int, int, int]:
        n_x, n_y, n_z = self.acquisition.shape_in
        return n_x, n_y, n_z

    @property
    def cell_mm(self) -> tuple[float, float, float]:
        """Size of the lattice's cells: in plane that of the slices' voxels, which may be finer."""
        x, y, z = self.world_from_lattice[:3, :3].square().sum(0).sqrt().tolist()
        return x, y, z

    def without_gain(self) -> "LatticeObservation":
        """The slices in the intensities that the amplitudes stand for."""
        return replace(self, slices=self.slices / self.gain, noise_sd=self.noise_sd / self.gain, gain=1.0)

    def beside(self, noise_sd: float) -> "LatticeObservation":
        """The same without gain, weighted so that its misfit adds to those of slices with ``noise_sd``."""
        weights = self.weights * (self.gain * noise_sd / self.noise_sd) ** 2
        return replace(self, slices=self.slices / self.gain, weights=weights, noise_sd=noise_sd, gain=1.0)


def join(observations: Sequence[Observation]) -> Observation:
    """All in one, Σ_s (σ_0/σ_s)² ‖T_s a − y_s‖²_W: a row for each slice, the slice axis is 0.

    The noise of the first one, σ_0, is the unit.
    """
    n_pixels = max(own.slices.numel() // own.slices.shape[own.slice_axis] for own in observations)
    rows = [SliceRows(tuple(own.slices.shape), own.slice_axis, n_pixels) for own in observations]
    pairs = list(zip(rows, observations, strict=True))
    noise_sd = observations[0].noise_sd
    return Observation(
        slices=torch.cat([row.forward(own.slices) for row, own in pairs]),
        weights=torch.cat([(noise_sd / own.noise_sd) ** 2 * row.forward(own.weights) for row, own in pairs]),
        slices_from_amplitudes=StackedOperator([row @ own.slices_from_amplitudes for row, own in pairs]),
        slice_axis=0,
        noise_sd=noise_sd,
    )

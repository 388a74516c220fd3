"""What one stack says about the amplitudes: y = A S a + noise, with a weight for each voxel of y."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.acquisition import AcquisitionOperator, profile_sampling, slice_sampling
from atlasgs_bids.core.appearance import fit_appearance
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.observation import JointObservation
from atlasgs_bids.core.operators import LinearOperator, SliceRows, StackedOperator
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.settings import AppearanceSettings
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.grid import fov_mask
from atlasgs_bids.imaging.profile import slice_profile, truncation_profile
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, StackInput

_GAIN_LIMITS = (0.2, 5.0)

_COVERED, _UNCOVERED = 0.95, 0.05


@dataclass(frozen=True)
class Observation:
    """A stack and the operators that predict it."""

    slices: Float[Tensor, "x y z"]
    """y, native intensities."""
    weights: Float[Tensor, "x y z"]
    """W; 0 where nothing was acquired, or where the scaffold cannot explain what was."""
    acquisition: AcquisitionOperator
    """A: lattice -> native slices."""
    splat: SplatOperator
    """S: amplitudes -> lattice."""
    lattice: Grid
    """The fine grid in the target's own frame, in the anchor's world."""
    native: Grid
    """The grid of the slices, in the anchor's world."""

    @property
    def slices_from_amplitudes(self) -> LinearOperator:
        """A S."""
        return self.acquisition @ self.splat


def observe(
    stack: StackInput,
    acquired: Volume,
    target_from_anchor: npt.NDArray[np.float64],
    anchor: Anchor,
    gaussians: Gaussians,
    config: RestorationSettings,
) -> Observation:
    """The operators and weights of a registered stack; InputError where it does not meet the anchor."""
    native = acquired.grid
    acquisition = _acquisition(stack, native, anchor, config)
    anchor_world_from_native = np.linalg.inv(target_from_anchor) @ native.world_from_voxel
    anchor_world_from_lattice = anchor_world_from_native @ acquisition.native_from_lattice.numpy()
    shape = (acquisition.shape_in[0], acquisition.shape_in[1], acquisition.shape_in[2])
    lattice = Grid(shape, anchor_world_from_lattice)
    observed = np.ones(native.shape, bool) if acquired.observed is None else acquired.observed
    weights = torch.from_numpy(observed.astype(np.float32)).to(config.device)
    unseen = torch.from_numpy(anchor.unseen_on(lattice).astype(np.float32)).to(config.device)
    weights *= acquisition.forward(unseen) < _UNCOVERED
    if not weights.any():
        raise InputError(
            f"{stack.name}: no slice lies inside the anchor's field of view; check the "
            "orientation in both headers, or register the scans beforehand"
        )
    splat = SplatOperator(
        gaussians,
        shape,
        torch.from_numpy(anchor_world_from_lattice),
        acquisition.adjoint(weights) > 0,
        config.core.chunk_elements,
    )
    coverage = (acquisition @ splat).forward(torch.ones(len(gaussians), device=config.device))
    # Where the anchor's outside is empty (air, or an extracted brain), a slice that the foreground fills in
    # part says as much as any other; where it is tissue that was masked away, it says nothing of the inside.
    weights *= coverage > (_UNCOVERED if anchor.exterior_is_empty else _COVERED)
    if not weights.any():
        raise InputError(
            f"{stack.name}: no slice crosses the anchor's foreground; check the orientation "
            "in both headers, or register the scans beforehand"
        )
    slices = torch.from_numpy(acquired.data).to(config.device)
    native_in_anchor_world = Grid(native.shape, anchor_world_from_native)
    return Observation(slices, weights, acquisition, splat, lattice, native_in_anchor_world)


def _acquisition(
    stack: StackInput, native: Grid, anchor: Anchor, config: RestorationSettings
) -> AcquisitionOperator:
    geometry = stack.geometry
    profile = slice_profile(config.slice_profile, geometry.thickness_mm)
    sizes_mm = voxel_sizes_mm(native.world_from_voxel)
    anchor_voxel_mm = float(voxel_sizes_mm(anchor.volume.world_from_voxel).min())
    samplings = list(
        slice_sampling(
            native.shape,
            (float(sizes_mm[0]), float(sizes_mm[1]), float(sizes_mm[2])),
            geometry.axis,
            (profile.offsets_mm, profile.cumulative),
            anchor_voxel_mm,
        )
    )
    in_plane = (axis for axis in range(3) if axis != geometry.axis)
    for axis, acquired_mm in zip(in_plane, geometry.acquired_in_plane_mm, strict=True):
        if acquired_mm > sizes_mm[axis]:
            spread = truncation_profile(acquired_mm)
            samplings[axis] = profile_sampling(
                native.shape[axis],
                float(sizes_mm[axis]),
                spread.offsets_mm,
                spread.cumulative,
                anchor_voxel_mm,
            )
    return AcquisitionOperator((samplings[0], samplings[1], samplings[2]), config.device)


def join(
    observations: Sequence[Observation],
    slice_axes: Sequence[int],
    gains: Sequence[float],
    noise_sds: Sequence[float],
) -> JointObservation:
    """The joint problem Σ_s (σ_0/σ_s)² ‖g_s A_s S a − y_s‖²: the first stack's noise is the unit."""
    stacks = list(zip(observations, slice_axes, strict=True))
    n_pixels = max(own.slices.numel() // own.slices.shape[axis] for own, axis in stacks)
    rows = [SliceRows(tuple(own.slices.shape), axis, n_pixels) for own, axis in stacks]
    pairs = list(zip(rows, observations, strict=True))
    scales = [(noise_sds[0] / noise_sd) ** 2 for noise_sd in noise_sds]
    weights = [row.forward(own.weights) for row, own in pairs]
    return JointObservation(
        slices=torch.cat([row.forward(own.slices) for row, own in pairs]),
        weights=torch.cat([scale * own for scale, own in zip(scales, weights, strict=True)]),
        slices_from_amplitudes=StackedOperator(
            [row @ own.slices_from_amplitudes for row, own in pairs], gains
        ),
    )


def estimate_gains(
    observations: Sequence[Observation],
    slice_axes: Sequence[int],
    prior: QuadraticPrior,
    settings: AppearanceSettings,
) -> list[float]:
    """Intensity of each stack over that of the first, where both saw the same.

    The first stack's own solution predicts the others; a ratio of sums, since noise in the prediction would
    pull a regression coefficient towards 0.
    """
    first = observations[0]
    middle = settings.regularization or sorted(settings.candidates)[len(settings.candidates) // 2]
    quick = replace(settings, regularization=middle, tolerance=settings.search_tolerance)
    amplitudes = fit_appearance(
        first.slices_from_amplitudes, first.slices, first.weights, prior, slice_axes[0], quick
    ).amplitudes
    gains = [1.0]
    for observation in observations[1:]:
        shared = torch.from_numpy(fov_mask(first.native, observation.native)).to(observation.weights)
        shared *= observation.weights
        predicted = float((shared * observation.slices_from_amplitudes.forward(amplitudes)).sum())
        seen = float((shared * observation.slices).sum())
        gain = seen / predicted if predicted > 0 else 1.0
        gains.append(float(np.clip(gain, *_GAIN_LIMITS)) if seen > 0 else 1.0)
    return gains


def observe_placed(
    placed: PlacedStack, scaffold: SessionScaffold, config: RestorationSettings
) -> Observation:
    """The operators and weights of a stack in its position."""
    target_from_anchor = placed.registration.target_from_anchor
    return observe(
        placed.source, placed.acquired, target_from_anchor, scaffold.anchor, scaffold.gaussians, config
    )

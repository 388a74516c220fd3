"""What one stack says about the amplitudes: y = A S a + noise, with a weight for each voxel of y."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlasgs_bids.core.acquisition import AcquisitionOperator, profile_sampling, slice_sampling
from atlasgs_bids.core.appearance import fit_appearance
from atlasgs_bids.core.deformation import LEAST_STRETCH
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.operators import Diagonal, LinearOperator
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.settings import AppearanceSettings
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.displacement import Displacement
from atlasgs_bids.imaging.grid import fov_mask
from atlasgs_bids.imaging.profile import SliceProfile, truncation_profile
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, StackInput

_GAIN_LIMITS = (0.2, 5.0)

_UNCOVERED = 0.05


def observe(
    stack: StackInput,
    acquired: Volume,
    target_from_anchor: npt.NDArray[np.float64],
    anchor: Anchor,
    gaussians: Gaussians,
    profile: SliceProfile,
    config: RestorationSettings,
    displacement: Displacement | None = None,
) -> LatticeObservation:
    """The operators and weights of a registered stack; InputError where it does not meet the anchor.

    ``displacement``: of the head in the anchor's world before ``target_from_anchor``; its signal is kept.
    """
    native = acquired.grid
    acquisition = _acquisition(stack, native, anchor, profile, config)
    anchor_world_from_native = np.linalg.inv(target_from_anchor) @ native.world_from_voxel
    anchor_world_from_lattice = anchor_world_from_native @ acquisition.native_from_lattice.numpy()
    shape = (acquisition.shape_in[0], acquisition.shape_in[1], acquisition.shape_in[2])
    lattice = Grid(shape, anchor_world_from_lattice)
    observed = np.ones(native.shape, bool) if acquired.observed is None else acquired.observed
    weights = torch.from_numpy(observed.astype(np.float32)).to(config.device)
    unseen = torch.from_numpy(anchor.unseen_on(lattice).astype(np.float32)).to(config.device)
    beyond = acquisition.forward(unseen) >= _UNCOVERED
    cut = weights * beyond
    weights *= ~beyond
    if not weights.any():
        raise InputError(
            f"{stack.name}: no slice lies inside the anchor's field of view; check the "
            "orientation in both headers, or register the scans beforehand"
        )
    shown = gaussians if displacement is None else displaced(gaussians, displacement)
    splat: LinearOperator = SplatOperator(
        shown,
        shape,
        torch.from_numpy(anchor_world_from_lattice),
        acquisition.adjoint(weights) > 0,
        config.core.chunk_elements,
    )
    coverage = (acquisition @ splat).forward(torch.ones(len(gaussians), device=config.device))
    weights *= coverage > anchor.least_coverage
    if not weights.any():
        raise InputError(
            f"{stack.name}: no slice crosses the anchor's foreground; check the orientation "
            "in both headers, or register the scans beforehand"
        )
    if displacement is not None:
        splat = splat @ Diagonal(shares_of_signal(gaussians, displacement))
    return LatticeObservation(
        slices=torch.from_numpy(acquired.data).to(config.device),
        weights=weights,
        slice_axis=stack.geometry.axis,
        acquisition=acquisition,
        splat=splat,
        world_from_lattice=torch.from_numpy(anchor_world_from_lattice),
        cut=cut,
    )


def displaced(gaussians: Gaussians, displacement: Displacement) -> Gaussians:
    """The Gaussians where an image of the displaced head shows them."""
    shift_mm = displacement.at(gaussians.means_mm.double().cpu().numpy())
    return replace(gaussians, means_mm=gaussians.means_mm + torch.from_numpy(shift_mm).to(gaussians.means_mm))


def shares_of_signal(gaussians: Gaussians, displacement: Displacement) -> Float[Tensor, " n"]:
    """By how much signal that is kept is denser there: one over the stretch."""
    stretch = displacement.stretch_at(gaussians.means_mm.double().cpu().numpy())
    return torch.from_numpy(1 / np.maximum(stretch, LEAST_STRETCH)).to(gaussians.means_mm)


def _acquisition(
    stack: StackInput, native: Grid, anchor: Anchor, profile: SliceProfile, config: RestorationSettings
) -> AcquisitionOperator:
    geometry = stack.geometry
    sizes_mm = voxel_sizes_mm(native.world_from_voxel)
    anchor_voxel_mm = anchor.voxel_mm
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


def measured(
    placed: Sequence[PlacedStack],
    observations: Sequence[LatticeObservation],
    prior: QuadraticPrior,
    settings: AppearanceSettings,
) -> list[LatticeObservation]:
    """The stacks with the noise of each (core/regularization.py) and their gains."""
    quick = replace(settings, tolerance=settings.search_tolerance)
    alone = [fit_appearance(own, prior, quick) for own in observations]
    observations = [replace(own, noise_sd=fit.noise_sd) for own, fit in zip(observations, alone, strict=True)]
    return with_gains(placed, observations, alone[0].amplitudes)


def with_gains(
    placed: Sequence[PlacedStack], observations: Sequence[LatticeObservation], amplitudes: Tensor
) -> list[LatticeObservation]:
    """The stacks with the intensity of each over that of the first, where both saw the same.

    ``amplitudes``, the first one's own solution, predicts the others. A gain is a ratio of sums, since noise
    in the prediction would pull a regression coefficient towards 0.
    """
    scaled = [observations[0]]
    for stack, own in zip(placed[1:], observations[1:], strict=True):
        shared = torch.from_numpy(fov_mask(_native_grid(placed[0]), _native_grid(stack))).to(own.weights)
        shared *= own.weights
        predicted = float((shared * own.slices_from_amplitudes.forward(amplitudes)).sum())
        seen = float((shared * own.slices).sum())
        gain = seen / predicted if predicted > 0 else 1.0
        scaled.append(replace(own, gain=float(np.clip(gain, *_GAIN_LIMITS)) if seen > 0 else 1.0))
    return scaled


def observe_placed(
    placed: PlacedStack, anchor: Anchor, gaussians: Gaussians, config: RestorationSettings
) -> LatticeObservation:
    """The operators and weights of a stack in its position; its noise is not known yet."""
    target_from_anchor = placed.registration.target_from_anchor
    profile = placed.profile(config)
    return observe(
        placed.source, placed.acquired, target_from_anchor, anchor, gaussians, profile, config,
        placed.displacement,
    )  # fmt: skip


def support_of(observation: LatticeObservation, anchor: Anchor) -> Bool[Tensor, "X Y Z"]:
    """Cells of the lattice in which Gaussians were placed."""
    lattice = Grid(observation.lattice_shape, observation.world_from_lattice.numpy())
    return torch.from_numpy(anchor.support_on(lattice)).to(observation.slices.device)


def _native_grid(placed: PlacedStack) -> Grid:
    """Of the slices, in the anchor's world."""
    native = placed.acquired.grid
    anchor_from_target = np.linalg.inv(placed.registration.target_from_anchor)
    return Grid(native.shape, anchor_from_target @ native.world_from_voxel)

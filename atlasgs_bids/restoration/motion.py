"""Movement between slices: where the head was during each shot, then the amplitudes that all slices show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from atlasgs_bids.core.appearance import Appearance, fit_appearance
from atlasgs_bids.core.observation import LatticeObservation, join
from atlasgs_bids.core.settings import AppearanceSettings
from atlasgs_bids.core.uncertainty import graph_uncertainty
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.slice_motion import AT_REST
from atlasgs_bids.restoration.fit import log_fit
from atlasgs_bids.restoration.observation import measured, observe_placed
from atlasgs_bids.restoration.result import StackResult, TargetFit
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.slice_positions import Positions, matcher_of, slice_positions
from atlasgs_bids.restoration.stack import PlacedStack
from atlasgs_bids.runtime.progress import Progress


def fit_moving_stacks(
    placed: Sequence[PlacedStack],
    observations: Sequence[LatticeObservation],
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
) -> TargetFit:
    """What fit_stacks gives, with every slice where the head was at its time; the prior is the graph.

    Every shot is compared with the T1w in the target's contrast, which knows nothing of the slices. Comparing
    it again with what the other slices say made positions worse (docs/decisions/0011-slice-motion.md).
    """
    settings = config.core.appearance
    moving = []
    if len(placed) > 1:  # the noise of one needs no comparing
        observations = measured(placed, observations, scaffold.prior, settings)
    with progress.stage("movement", len(placed)) as advance:
        for stack, whole in zip(placed, observations, strict=True):
            positions = slice_positions(stack, scaffold.guides, config, progress)
            parts = _observed(stack, whole, positions, scaffold, config)
            moving.append(_MovingStack(stack, whole, positions, parts))
            advance(1)
    with progress.stage("appearance") as advance:
        appearance = _fit(moving, scaffold, settings)
        advance(1)
    uncertainty = None
    if config.estimate_uncertainty:
        with progress.stage("uncertainty") as advance:
            uncertainty = graph_uncertainty(appearance.objective, settings, config.core.seed)
            advance(1)
    log_fit(appearance, config, progress)
    over_assumed = appearance.noise_sd / moving[0].whole.noise_sd
    results = tuple(_result(own, appearance, over_assumed) for own in moving)
    return TargetFit(appearance, uncertainty, results, ())


@dataclass(frozen=True)
class _MovingStack:
    placed: PlacedStack
    whole: LatticeObservation
    """All slices as if they had lain still."""
    positions: Positions
    parts: Mapping[int, LatticeObservation]
    """Slice -> a stack of this slice alone, for those that cross the foreground."""


def _observed(
    placed: PlacedStack,
    whole: LatticeObservation,
    positions: Positions,
    scaffold: SessionScaffold,
    config: RestorationSettings,
) -> dict[int, LatticeObservation]:
    """Every slice that crosses the foreground as a stack of its own, where the head was at its time."""
    centre_world = matcher_of(placed, scaffold.anchor, config).centre_world
    parts = {}
    for k, position in sorted(positions.items()):
        target_from_anchor = position.moved(centre_world) @ placed.registration.target_from_anchor
        own = placed.only(k).at(target_from_anchor)
        try:
            part = observe_placed(own, scaffold.anchor, scaffold.gaussians, config)
        except InputError:  # beyond the head: nothing to explain
            continue
        parts[k] = replace(part, gain=whole.gain * position.gain, noise_sd=whole.noise_sd)
    if not parts:
        raise InputError(
            f"{placed.source.name}: no slice crosses the anchor's foreground; check the "
            "orientation in both headers, or register the scans beforehand"
        )
    return parts


def _fit(
    moving: Sequence[_MovingStack], scaffold: SessionScaffold, settings: AppearanceSettings
) -> Appearance:
    """All slices of all stacks together."""
    joint = join([part for stack in moving for part in stack.parts.values()])
    return fit_appearance(joint, scaffold.prior, settings)


def _result(stack: _MovingStack, appearance: Appearance, over_assumed: float) -> StackResult:
    """What the amplitudes say of one stack, whose noise is ``over_assumed`` times what it was taken for."""
    placed, axis = stack.placed, stack.placed.source.geometry.axis
    simulated, weights = (np.zeros_like(placed.acquired.data) for _ in range(2))
    for k, own in stack.parts.items():
        image = own.slices_from_amplitudes.forward(appearance.amplitudes)
        _put(simulated, image.cpu().numpy(), k, axis)
        _put(weights, own.weights.cpu().numpy(), k, axis)
    return StackResult(
        source=placed.source,
        acquired=placed.acquired,
        registration=placed.registration,
        simulated=simulated,
        weights=weights,
        gain=stack.whole.gain,
        noise_sd=over_assumed * stack.whole.noise_sd,
        calibration=placed.calibration,
        displacement=placed.displacement,
        motion=tuple(stack.positions.get(k, AT_REST) for k in range(placed.acquired.data.shape[axis])),
    )


def _put(volume: npt.NDArray[np.float32], slice_image: npt.NDArray[np.float32], k: int, axis: int) -> None:
    np.moveaxis(volume, axis, 0)[k] = np.moveaxis(slice_image, axis, 0)[0]

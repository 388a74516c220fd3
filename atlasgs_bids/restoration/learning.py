"""The learned prior of a target's stacks, and of the volumes of a series."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from atlasgs_bids.core.priors.expectation import ExpectedStack, ObservedStack
from atlasgs_bids.core.priors.learned.prior import TooLittleDataError, expect, expect_together
from atlasgs_bids.restoration.observation import Observation
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)


def learn(
    observations: Sequence[Observation],
    levels: Sequence[tuple[int, float, float]],
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
) -> tuple[ExpectedStack, ...]:
    """What a network trained on each stack expects of it; none where one has too little to learn from.

    ``levels``: slice axis, gain and noise of each stack.
    """
    settings = config.core.learned
    found = []
    with progress.stage("learning", len(observations) * settings.n_steps) as advance:
        for observation, (axis, gain, noise_sd) in zip(observations, levels, strict=True):
            stack = _stack(observation, observation.slices / gain, axis, noise_sd / gain, scaffold, config)
            try:
                found.append(expect(stack, scaffold.gaussians, settings, config.core.seed, advance))
            except TooLittleDataError as error:
                _warn(progress, error)
                return ()
    return tuple(found)


def learn_together(
    observation: Observation,
    images: Sequence[tuple[Tensor, float]],
    slice_axis: int,
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
) -> tuple[ExpectedStack, ...]:
    """What one network trained on several images of one position expects of each; none as in ``learn``.

    ``images``: native slices and their noise.
    """
    settings = config.core.learned
    stacks = [_stack(observation, slices, slice_axis, sd, scaffold, config) for slices, sd in images]
    with progress.stage("learning", settings.n_steps) as advance:
        try:
            return expect_together(stacks, scaffold.gaussians, settings, config.core.seed, advance)
        except TooLittleDataError as error:
            _warn(progress, error)
            return ()


def _stack(
    observation: Observation,
    slices: Tensor,
    slice_axis: int,
    noise_sd: float,
    scaffold: SessionScaffold,
    config: RestorationSettings,
) -> ObservedStack:
    return ObservedStack(
        slices=slices,
        weights=observation.weights,
        support=torch.from_numpy(scaffold.anchor.support_on(observation.lattice)).to(config.device),
        slice_axis=slice_axis,
        noise_sd=noise_sd,
        acquisition=observation.acquisition,
        splat=observation.splat,
        world_from_lattice=torch.from_numpy(observation.lattice.world_from_voxel),
    )


def _warn(progress: Progress, error: TooLittleDataError) -> None:
    logger.warning("%s; the graph prior is used", progress.led(str(error)))

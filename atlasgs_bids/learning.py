"""The learned prior of a target's stacks."""

import logging
from collections.abc import Sequence

import torch

from atlasgs_bids.config import RunConfig
from atlasgs_bids.core.priors.expectation import ExpectedStack, ObservedStack, expect
from atlasgs_bids.core.priors.learned import TooLittleDataError
from atlasgs_bids.observation import Observation
from atlasgs_bids.progress import Progress
from atlasgs_bids.scaffolding import SessionScaffold

logger = logging.getLogger(__name__)


def learn(
    observations: Sequence[Observation],
    levels: Sequence[tuple[int, float, float]],
    scaffold: SessionScaffold,
    config: RunConfig,
    progress: Progress,
    label: str,
) -> tuple[ExpectedStack, ...]:
    """What a network trained on each stack expects of it; none where one has too little to learn from.

    ``levels``: slice axis, gain and noise of each stack.
    """
    settings = config.core.learned
    found = []
    with progress.stage(f"{label}: learning", len(observations) * settings.n_steps) as advance:
        for observation, (axis, gain, noise_sd) in zip(observations, levels, strict=True):
            stack = ObservedStack(
                slices=observation.slices / gain,
                weights=observation.weights,
                support=torch.from_numpy(scaffold.anchor.support_on(observation.lattice)).to(config.device),
                slice_axis=axis,
                noise_sd=noise_sd / gain,
                acquisition=observation.acquisition,
                splat=observation.splat,
                world_from_lattice=torch.from_numpy(observation.lattice.world_from_voxel),
            )
            try:
                found.append(expect(stack, scaffold.gaussians, settings, config.core.seed, advance))
            except TooLittleDataError as error:
                logger.warning("%s: %s; the graph prior is used", label, error)
                return ()
    return tuple(found)

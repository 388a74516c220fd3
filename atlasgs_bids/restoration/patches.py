"""Whether a stack lies where its calibration has it everywhere in the head, patch by patch."""

from collections.abc import Sequence
from dataclasses import replace

from atlasgs_bids.core.local_shifts import LocalShifts, local_shifts
from atlasgs_bids.core.position import PositionEvidence
from atlasgs_bids.errors import InputError
from atlasgs_bids.restoration.guides import Guides
from atlasgs_bids.restoration.observation import displaced, observe_placed
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack

_SIZE_MM = 3.0
"""Of Gaussians and pixels."""
_REGULARIZATION = 0.1
"""λ, as where positions are found."""


def shifts_of(
    placed: Sequence[PlacedStack], guides: Guides, config: RestorationSettings
) -> tuple[LocalShifts, ...]:
    """Of each stack by itself; one that shows nothing inside the head, or does not tell, is left out."""
    guide = guides.at(_SIZE_MM, config)
    found = []
    for stack in placed:
        try:
            observation = observe_placed(stack.averaged(_SIZE_MM), guide.anchor, guide.gaussians, config)
        except InputError:
            continue
        scale = float(observation.slices[observation.weights > 0].std())
        if not scale > 0:
            continue
        observation = replace(observation, slices=observation.slices / scale, noise_sd=1.0)
        # What a displacement does to the signal the amplitudes take up.
        gaussians = guide.gaussians
        if stack.displacement is not None:
            gaussians = displaced(gaussians, stack.displacement)
        evidence = PositionEvidence(
            [observation], gaussians, guide.prior, _REGULARIZATION, guides.frame, config.core.chunk_elements
        )
        shifts = local_shifts(evidence, gaussians)
        if shifts.tells:
            found.append(shifts)
    return tuple(found)

"""The learned prior of a target's stacks, and of the volumes of a series."""

import logging
from collections.abc import Sequence

from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.expectation import ExpectedStack
from atlasgs_bids.core.priors.learned.prior import TooLittleDataError, expect, expect_together
from atlasgs_bids.restoration.observation import support_of
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)


def learn(
    observations: Sequence[LatticeObservation],
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
) -> tuple[ExpectedStack, ...]:
    """What a network trained on each stack expects of it; none where one has too little to learn from."""
    settings = config.core.learned
    found = []
    with progress.stage("learning", len(observations) * settings.n_steps) as advance:
        for observation in observations:
            own, support = observation.without_gain(), support_of(observation, scaffold.anchor)
            try:
                found.append(expect(own, support, scaffold.gaussians, settings, config.core.seed, advance))
            except TooLittleDataError as error:
                _warn(progress, error)
                return ()
    return tuple(found)


def learn_together(
    observations: Sequence[LatticeObservation],
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
) -> tuple[ExpectedStack, ...]:
    """What one network trained on several images of one position expects of each; none as in ``learn``."""
    settings = config.core.learned
    support = support_of(observations[0], scaffold.anchor)
    with progress.stage("learning", settings.n_steps) as advance:
        try:
            return expect_together(
                observations, support, scaffold.gaussians, settings, config.core.seed, advance
            )
        except TooLittleDataError as error:
            _warn(progress, error)
            return ()


def _warn(progress: Progress, error: TooLittleDataError) -> None:
    logger.warning("%s; the graph prior is used", progress.led(str(error)))

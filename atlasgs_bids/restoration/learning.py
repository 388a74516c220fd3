"""The learned prior of a target's stacks, and of the volumes of a series."""

import logging
from collections.abc import Sequence

from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.expectation import ExpectedStack, Prediction, expected_stack
from atlasgs_bids.core.priors.learned.prior import TooLittleDataError, expect_each, expect_together
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
    (expected,) = learn_each([observations], scaffold, config, progress)
    return expected


def learn_each(
    targets: Sequence[Sequence[LatticeObservation]],
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
) -> list[tuple[ExpectedStack, ...]]:
    """``learn`` for the stacks of several targets: the same networks, trained beside each other on a GPU."""
    settings = config.core.learned
    own = [stack.without_gain() for stacks in targets for stack in stacks]
    supports = [support_of(stack, scaffold.anchor) for stacks in targets for stack in stacks]
    with progress.stage("learning", len(own) * settings.n_steps) as advance:
        found = iter(expect_each(own, supports, scaffold.gaussians, settings, config.core.seed, advance))
    expected = []
    for stacks in targets:
        of_target = [next(found) for _ in stacks]
        for each in of_target:
            if isinstance(each, TooLittleDataError):
                _warn(progress, each)
        learned = tuple(each for each in of_target if not isinstance(each, TooLittleDataError))
        expected.append(learned if len(learned) == len(of_target) else ())
    return expected


def expected_of(
    predictions: Sequence[Prediction], observations: Sequence[LatticeObservation], scaffold: SessionScaffold
) -> list[ExpectedStack]:
    """What ``learn`` has found before, of the same stacks observed anew."""
    return [
        expected_stack(own.without_gain(), support_of(own, scaffold.anchor), prediction, scaffold.gaussians)
        for own, prediction in zip(observations, predictions, strict=True)
    ]


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

"""Targets up to the fit: stacks where they lie, and what networks trained together expect of them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from atlasgs_bids.core.local_shifts import LocalShifts
from atlasgs_bids.core.priors.expectation import Prediction
from atlasgs_bids.restoration.calibration import calibrated
from atlasgs_bids.restoration.finer import wants_finer
from atlasgs_bids.restoration.learning import learn_each
from atlasgs_bids.restoration.observation import measured
from atlasgs_bids.restoration.patches import shifts_of
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack
from atlasgs_bids.restoration.target import observed_alone
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)

_AT_ONCE = 2
"""Targets whose networks are trained together: more gain little, and are lost if the process is killed."""


@dataclass(frozen=True)
class PreparedTarget:
    """The stacks of one target, calibrated, and what was found of them."""

    placed: tuple[PlacedStack, ...]
    shifts: tuple[LocalShifts, ...]
    predictions: tuple[Prediction, ...] = ()
    """What a learned prior says of them; empty: it is not asked yet."""


def prepare(
    placed: Sequence[PlacedStack],
    scaffold: SessionScaffold,
    settings: RestorationSettings,
    progress: Progress,
) -> PreparedTarget:
    """The stacks of one target where the evidence puts them, with their slice profiles."""
    found = tuple(calibrated(placed, scaffold.guides, settings, progress))
    asked = settings.estimate_uncertainty and settings.motion != "slice"
    return PreparedTarget(found, tuple(shifts_of(found, scaffold.guides, settings)) if asked else ())


def learn_side_by_side(
    targets: Sequence[PreparedTarget],
    scaffold: SessionScaffold,
    settings: RestorationSettings,
    progress: Progress,
) -> list[PreparedTarget]:
    """The targets with what a network of each expects, trained together: on a GPU two take the time of one.

    A target that has too little to learn from, has Gaussians of its own, or is to be moved slice by slice or
    bent, stays as it is: its fit asks by itself. So do all where the memory does not hold two.
    """
    found = list(targets)
    which = [number for number, own in enumerate(found) if not wants_finer(own.placed, scaffold, settings)]
    if targets_at_once(settings) == 1 or len(which) < 2:
        return found
    try:
        observations = []
        for number in which:
            alone = observed_alone(found[number].placed, scaffold, settings)
            observations.append(
                measured(found[number].placed, alone, scaffold.prior, settings.core.appearance)
            )
        learned = learn_each(observations, scaffold, settings, progress)
    except torch.OutOfMemoryError:
        logger.info("%s", progress.led("memory holds no two networks: they learn one after the other"))
        return found
    for number, expected in zip(which, learned, strict=True):
        found[number] = replace(found[number], predictions=tuple(own.prediction for own in expected))
    return found


def targets_at_once(settings: RestorationSettings) -> int:
    """How many targets are prepared before the first is fitted."""
    trained_on_gpu = settings.image_prior == "learned" and settings.device.startswith("cuda")
    frozen = settings.motion != "slice" and settings.core.geometry.mode == "frozen"
    return _AT_ONCE if trained_on_gpu and frozen else 1

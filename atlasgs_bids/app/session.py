"""One session of a participant: load, scaffold, then for each target register, fit, render, write."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.failures import SubjectResult, each_target
from atlasgs_bids.app.longitudinal import check_other_session
from atlasgs_bids.app.outputs import write_target
from atlasgs_bids.app.scaffold import session_anchor, session_scaffold
from atlasgs_bids.app.series import restore_series
from atlasgs_bids.app.stacks import stack_input
from atlasgs_bids.app.target import TargetRun
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.bids.plan.targets import TargetPlan
from atlasgs_bids.core.memory import with_smaller_chunks
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.metrics import warnings_of
from atlasgs_bids.restoration.prepared import (
    PreparedTarget,
    learn_side_by_side,
    prepare,
    targets_at_once,
)
from atlasgs_bids.restoration.restore import restore_prepared
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.stack import PlacedStack, place
from atlasgs_bids.runtime.costs import Clock
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)

Registrations = Mapping[str, Callable[[], tuple[list[PlacedStack], float]]]
"""By label of the target."""
_MOST_AHEAD = 2
"""Registrations at once; each holds a few copies of the anchor."""


def process_subject(plan: SubjectPlan, config: RunConfig, progress: Progress) -> SubjectResult:
    """Every target of one session; a target that fails stops no other. An unusable anchor raises."""
    pending, skipped = [], []
    for target in plan.targets:
        run = TargetRun(plan, target, config)
        if run.outputs.finished and not config.overwrite:
            skipped.append(target.label)
        else:
            run.outputs.metrics_tsv.unlink(missing_ok=True)
            pending.append(run)
    if not pending:
        return SubjectResult((), tuple(skipped), ())
    progress = progress.under(plan.label)
    anchor = session_anchor(plan)
    with _registrations([run.target for run in pending], anchor, config, progress) as placed:
        scaffold = session_scaffold(plan, anchor, config, progress)
        with progress.stage("other sessions") as advance:
            check_other_session(plan, scaffold, config)
            advance(1)

        return each_target(pending, skipped, _Session(pending, scaffold, placed, progress).process)


class _Session:
    """The targets of one session, each made in its turn; what learns together is prepared together."""

    def __init__(
        self,
        runs: Sequence[TargetRun],
        scaffold: SessionScaffold,
        registrations: Registrations,
        progress: Progress,
    ) -> None:
        self._waiting = iter([run for run in runs if run.target.series is None])
        self._scaffold, self._registrations, self._progress = scaffold, registrations, progress
        self._ahead: dict[str, _Ahead | Exception] = {}

    def process(self, run: TargetRun) -> None:
        """One target, from its images to its files."""
        if run.target.series is None and run.target.label not in self._ahead:
            self._prepare(run.config)
        ahead = self._ahead.pop(run.target.label, None)
        if isinstance(ahead, Exception):
            raise ahead
        restoration, n_gaussians = run.config.restoration, len(self._scaffold.gaussians)
        attempt = partial(_process_target, run, ahead, self._scaffold, self._progress)
        with_smaller_chunks(attempt, restoration.core, restoration.device, n_gaussians)

    def _prepare(self, config: RunConfig) -> None:
        """The next, as many as learn at once, registered and calibrated; a failure waits for its turn."""
        settings, ready = config.restoration, {}
        for run in self._waiting:
            label = run.target.label
            attempt = partial(_prepared, run, self._scaffold, self._registrations, self._progress)
            try:
                ready[label] = with_smaller_chunks(
                    attempt, settings.core, settings.device, len(self._scaffold.gaussians)
                )
            except Exception as error:  # noqa: BLE001 - whatever breaks one target breaks no other
                self._ahead[label] = error
            if len(ready) == targets_at_once(settings) or config.stop_on_first_crash:
                break
        self._ahead |= ready  # by themselves, if learning together fails
        progress = self._progress.under(" and ".join(ready))
        targets = [own.prepared for own in ready.values()]
        start = time.perf_counter()
        learned = learn_side_by_side(targets, self._scaffold, settings, progress)
        seconds = (time.perf_counter() - start) / max(1, len(ready))
        for (label, own), prepared in zip(ready.items(), learned, strict=True):
            self._ahead[label] = _Ahead(prepared, {**own.seconds, "appearance": seconds})


@dataclass(frozen=True)
class _Ahead:
    """A target that is ready to be fitted, and the seconds of each stage until then."""

    prepared: PreparedTarget
    seconds: Mapping[str, float]


@contextmanager
def _registrations(
    targets: Sequence[TargetPlan], anchor: Anchor, config: RunConfig, progress: Progress
) -> Iterator[Registrations]:
    """The stacks of each 3-D target in their positions, and the seconds that this took, once asked for.

    Registration runs on one thread and knows the anchor alone: where there are threads to spare it goes ahead
    beside the scaffold and the targets before.
    """
    tasks = {
        target.label: partial(_placed, target, anchor, config, progress.under(target.label))
        for target in targets
        if target.series is None
    }
    n_threads = min(config.restoration.n_threads or 1, _MOST_AHEAD)
    if n_threads == 1:
        yield tasks
        return
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="registration")
    try:
        yield {label: pool.submit(task).result for label, task in tasks.items()}
    finally:
        pool.shutdown(cancel_futures=True)


def _placed(
    target: TargetPlan, anchor: Anchor, config: RunConfig, progress: Progress
) -> tuple[list[PlacedStack], float]:
    start = time.perf_counter()
    placed = [
        place(
            stack_input(stack, config.restoration),
            load_volume(stack.source.path),
            anchor,
            config.restoration,
            progress,
        )
        for stack in target.stacks
    ]
    return placed, time.perf_counter() - start


def _prepared(
    run: TargetRun,
    scaffold: SessionScaffold,
    registrations: Registrations,
    progress: Progress,
    core: CoreSettings,
) -> _Ahead:
    progress, clock = progress.under(run.target.label), Clock({"scaffold": scaffold.seconds})
    with progress.stage("registration") as advance:
        placed, clock.seconds["registration"] = registrations[run.target.label]()
        advance(1)
    settings = replace(run.config.restoration, core=core)
    with clock.measure("calibration"):
        prepared = prepare(placed, scaffold, settings, progress)
    return _Ahead(prepared, clock.seconds)


def _process_target(
    run: TargetRun,
    ahead: _Ahead | None,
    scaffold: SessionScaffold,
    progress: Progress,
    core: CoreSettings,
) -> None:
    run, progress = replace(run, config=run.config.restoring(core=core)), progress.under(run.target.label)
    series = run.target.series
    if series is not None:
        clock = Clock({"scaffold": scaffold.seconds})
        result = restore_series(run, series, scaffold, clock, progress)
    else:
        assert ahead is not None
        clock = Clock(ahead.seconds)
        result = restore_prepared(ahead.prepared, scaffold, run.config.restoration, progress, clock)
    for text in warnings_of(result):
        logger.warning("%s", progress.led(text))
    with progress.stage("writing") as advance:
        write_target(run, result, clock)
        advance(1)

"""One participant, session by session, and the record of what failed: the same in this process or another."""

import logging
import os
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone

from atlasgs_bids import __version__
from atlasgs_bids.bids.derivatives import target_outputs
from atlasgs_bids.bids.files import save_text, short_name
from atlasgs_bids.bids.locks import session_lock
from atlasgs_bids.config import RunConfig
from atlasgs_bids.devices import use_device
from atlasgs_bids.errors import InputError, error_text
from atlasgs_bids.monitor import ResourceMonitor
from atlasgs_bids.plan import SubjectPlan
from atlasgs_bids.progress import Progress
from atlasgs_bids.provenance import differences
from atlasgs_bids.targets import TargetPlan

logger = logging.getLogger("atlasgs_bids")


@dataclass(frozen=True)
class Failed:
    """A participant, session or target that could not be completed."""

    participant: str
    label: str
    """``sub-01``, ``sub-01 ses-1``, ``sub-01 FLAIR``."""
    message: str
    traceback: str = ""


def process_participant(
    plans: Sequence[SubjectPlan], config: RunConfig, progress: Progress, on_failure: Callable[[Failed], None]
) -> None:
    """Every session of one participant; what fails is recorded, then told to ``on_failure``, at once."""
    for plan in plans:
        failures = _process_session(plan, config, progress)
        for failure in failures:
            record(failure, config)
            on_failure(failure)
        if failures and config.stop_on_first_crash:
            return


def unfinished(plan: SubjectPlan, config: RunConfig) -> bool:
    """Whether a session needs processing at all; what a killed run has left beside finished targets goes.

    Asked before torch is loaded and before a process is started: a run over finished participants is quick.
    """
    if config.overwrite or config.reports_only:
        return True
    every = [target_outputs(config.out_dir, target.entities, config.resolution) for target in plan.targets]
    if not all(outputs.finished for outputs in every):
        return True
    try:
        with session_lock(config.out_dir, plan.participant, plan.session):
            pass
    except (InputError, OSError) as error:  # held by another run, or read-only: the results are there
        logger.debug("%s: %s", plan.label, error)
    for target in plan.targets:
        _log_skipped(plan, target, config)
    return False


def _log_skipped(plan: SubjectPlan, target: TargetPlan, config: RunConfig) -> None:
    """Say that a target is kept, as a warning where this run would have made it otherwise."""
    differing = differences(plan, target, config)
    if differing:
        text = "%s %s: finished by an earlier run %s; kept; --overwrite does it again"
        logger.warning(text, plan.label, target.label, differing)
    else:
        logger.info("%s %s: finished by an earlier run; --overwrite does it again", plan.label, target.label)


def _process_session(plan: SubjectPlan, config: RunConfig, progress: Progress) -> list[Failed]:
    from atlasgs_bids.reports import redraw_subject  # noqa: PLC0415 - loads nibabel and matplotlib
    from atlasgs_bids.subject import process_subject  # noqa: PLC0415 - loads torch

    process = redraw_subject if config.reports_only else process_subject
    try:
        if not config.reports_only:
            use_device(
                config.device
            )  # the same for every session of a process; a GPU that is taken fails here
        with ExitStack() as stack:
            stack.enter_context(session_lock(config.out_dir, plan.participant, plan.session))
            if config.resource_monitor:
                stack.enter_context(_monitored(plan, config, progress))
            result = process(plan, config, progress)
    except Exception as error:  # noqa: BLE001 - whatever breaks one participant breaks no other
        return [failed(plan.participant, plan.label, error)]
    for target in plan.targets:
        if target.label in result.skipped:
            _log_skipped(plan, target, config)
    return [
        Failed(plan.participant, f"{plan.label} {failure.label}", failure.message, failure.traceback)
        for failure in result.failures
    ]


def _monitored(plan: SubjectPlan, config: RunConfig, progress: Progress) -> ExitStack:
    """Measures every stage while it is open, and the session as a whole; writes the table at the end."""
    monitor = ResourceMonitor()
    stack = ExitStack()
    stack.callback(monitor.save, config.out_dir / "logs" / f"{plan.label.replace(' ', '_')}_resources.tsv")
    previous, progress.watch = progress.watch, monitor.measure
    stack.callback(setattr, progress, "watch", previous)
    stack.enter_context(monitor.measure(f"{plan.label}: all"))
    return stack


def failed(participant: str, label: str, error: Exception) -> Failed:
    """The record of an exception that is being handled."""
    return Failed(participant, label, error_text(error), traceback.format_exc())


def record(failure: Failed, config: RunConfig) -> None:
    """Log a failure and write its crash file, at once: a later failure must not lose it."""
    now = datetime.now(timezone.utc)
    name = f"crash-{now:%Y%m%dT%H%M%SZ}-{short_name(failure.label)}-{os.getpid()}.txt"
    path = config.out_dir / "logs" / name
    text = (
        f"{failure.label}\n{failure.message}\n\n"
        f"time: {now:%Y-%m-%d %H:%M:%S} UTC\nAtlasGS {__version__}, Python {platform.python_version()}, "
        f"{platform.platform()}\ncommand: {' '.join(sys.argv)}\nsettings: {config}\n\n{failure.traceback}"
    )
    message = " ".join(failure.message.split())
    logger.error("%s: %s (details: %s)", failure.label, message, path.relative_to(config.out_dir))
    try:
        save_text(text, path)
    except OSError as error:  # a full disk may be the very failure that is recorded
        logger.error("%s cannot be written: %s", path, error)  # noqa: TRY400

"""What could not be completed, and its record: a line of the log and a crash file."""

import logging
import os
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.target import TargetRun
from atlasgs_bids.errors import error_text
from atlasgs_bids.runtime.files import save_text, short_name
from atlasgs_bids.version import __version__

logger = logging.getLogger("atlasgs_bids")


@dataclass(frozen=True)
class Failed:
    """A participant, session or target that could not be completed."""

    participant: str
    label: str
    """``sub-01``, ``sub-01 ses-1``, ``sub-01 FLAIR``."""
    message: str
    traceback: str = ""
    session: str | None = None
    """Of what could not be planned, so that nothing else knows it."""


@dataclass(frozen=True)
class SubjectResult:
    """What became of the targets of a session: labels, and records of what failed."""

    finished: tuple[str, ...]
    skipped: tuple[str, ...]
    failures: tuple[Failed, ...]


def failed(participant: str, label: str, error: Exception, session: str | None = None) -> Failed:
    """The record of an exception that is being handled."""
    return Failed(participant, label, error_text(error), traceback.format_exc(), session)


def each_target(
    runs: Sequence[TargetRun], skipped: Sequence[str], work: Callable[[TargetRun], None]
) -> SubjectResult:
    """Work on every target; one that fails stops no other, unless that was asked for."""
    finished, failures = [], []
    for run in runs:
        try:
            work(run)
            finished.append(run.target.label)
        except Exception as error:  # noqa: BLE001 - whatever breaks one target breaks no other
            failures.append(failed(run.plan.participant, run.label, error))
            if run.config.stop_on_first_crash:
                break
    return SubjectResult(tuple(finished), tuple(skipped), tuple(failures))


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

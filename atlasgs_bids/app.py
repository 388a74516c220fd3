"""One invocation: validate, discover, plan, process, report; one failure stops nobody else."""

import logging
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler

from atlasgs_bids import __version__
from atlasgs_bids.bids.dataset import check_out_dir, write_dataset_files
from atlasgs_bids.bids.discover import discover_participant, list_participants, list_sessions
from atlasgs_bids.bids.entities import session_label
from atlasgs_bids.bids.files import remove_stale_temporaries, save_text
from atlasgs_bids.bids.validate import check_dataset, validation_errors
from atlasgs_bids.config import RunConfig, check_paths
from atlasgs_bids.core.settings import LEARNED_CPU, LEARNED_FAST
from atlasgs_bids.errors import ConfigurationError, error_text
from atlasgs_bids.group import gather
from atlasgs_bids.imaging.slices import slice_profile
from atlasgs_bids.plan import SubjectPlan, plan_subject, plan_table
from atlasgs_bids.progress import Progress

logger = logging.getLogger("atlasgs_bids")

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
_N_FAILURES_NAMED = 5


@dataclass(frozen=True)
class Failed:
    """A participant, session or target that could not be completed."""

    participant: str
    label: str
    """``sub-01``, ``sub-01 ses-1``, ``sub-01 FLAIR``."""
    message: str
    traceback: str = ""


def run(config: RunConfig) -> int:
    """Exit code of one invocation: 0 all done, 1 something failed, 2 usage, 130 interrupted."""
    with _logging_to_terminal(config.verbosity) as progress:
        try:
            check_paths(config)
            participants = _selected_participants(config)
            if config.analysis_level == "group":
                return EXIT_DONE if gather(config, participants) else EXIT_FAILED
            config = _checked_settings(config)
            _validate(config, participants)
            plans, failures = _plan(config, participants)
            _check_scaffold(config, plans)
            if config.dry_run:
                _print_plan(plans, failures)
                return EXIT_FAILED if failures else EXIT_DONE
            write_dataset_files(config.out_dir, config.bids_dir, __version__, config.derivatives)
            for failure in failures:
                _record(failure, config)
            failures += _process(plans, config, progress)
        except ConfigurationError as error:
            logger.error("%s", error)  # noqa: TRY400 - the message is for the user, who needs no traceback
            return EXIT_USAGE
        except KeyboardInterrupt:
            logger.error("interrupted; what was finished stays, the next run goes on from there")  # noqa: TRY400
            return EXIT_INTERRUPTED
    print(_summary(participants, plans, failures))
    return EXIT_FAILED if failures else EXIT_DONE


def _plan(config: RunConfig, participants: Sequence[str]) -> tuple[list[SubjectPlan], list[Failed]]:
    plans: list[SubjectPlan] = []
    failures: list[Failed] = []
    for participant in participants:
        found = discover_participant(
            config.bids_dir, participant, config.session_ids, config.bids_filters, config.derivatives
        )
        if not found:
            logger.warning("sub-%s: no images in session %s", participant, ", ".join(config.session_ids))
        for inputs in found:
            try:
                plan = plan_subject(inputs, config)
            except Exception as error:  # noqa: BLE001 - whatever breaks one participant breaks no other
                failures.append(_failed(participant, session_label(participant, inputs.session), error))
                continue
            plans.append(plan)
            failures += [
                Failed(participant, f"{plan.label} {label}", message) for label, message in plan.failures
            ]
    return plans, failures


def _process(plans: Sequence[SubjectPlan], config: RunConfig, progress: Progress) -> list[Failed]:
    failures: list[Failed] = []
    for plan in plans:
        _log_plan(plan)
        if not plan.targets:
            continue
        try:
            remove_stale_temporaries(config.out_dir / f"sub-{plan.participant}")
            from atlasgs_bids.subject import process_subject  # noqa: PLC0415 - loads torch

            result = process_subject(plan, config, progress)
        except Exception as error:  # noqa: BLE001 - whatever breaks one participant breaks no other
            failed = [_failed(plan.participant, plan.label, error)]
        else:
            failed = [
                Failed(plan.participant, f"{plan.label} {failure.label}", failure.message, failure.traceback)
                for failure in result.failures
            ]
            for label in result.skipped:
                logger.info("%s %s: finished by an earlier run; --overwrite does it again", plan.label, label)
        for failure in failed:
            _record(failure, config)
        failures += failed
    return failures


def _failed(participant: str, label: str, error: Exception) -> Failed:
    return Failed(participant, label, error_text(error), traceback.format_exc())


def _selected_participants(config: RunConfig) -> list[str]:
    """Labels to process; ConfigurationError names the unknown ones."""
    if not config.bids_dir.is_dir():
        raise ConfigurationError(f"bids_dir {config.bids_dir} is no folder; expected a BIDS dataset")
    known = list_participants(config.bids_dir)
    if not known:
        raise ConfigurationError(f"bids_dir {config.bids_dir} holds no sub-* folder; expected a BIDS dataset")
    _refuse_unknown("participant", config.participant_labels, known)
    selected = list(config.participant_labels) or known
    sessions = {session for label in selected for session in list_sessions(config.bids_dir, label)}
    _refuse_unknown("session", config.session_ids, sorted(sessions))
    if config.anchor_session is not None:
        _refuse_unknown("session", [config.anchor_session], sorted(sessions))
    return selected


def _check_scaffold(config: RunConfig, plans: Sequence[SubjectPlan]) -> None:
    """Raise ConfigurationError where one scaffold would serve several brains."""
    anchors = sorted({plan.anchor.path.name for plan in plans if plan.targets})
    if config.scaffold is not None and len(anchors) > 1:
        raise ConfigurationError(
            f"--scaffold {config.scaffold.name} belongs to one T1w, but the run has {len(anchors)} "
            f"({', '.join(anchors[:_N_FAILURES_NAMED])}); name one with --participant-label and --session-id"
        )


def _refuse_unknown(kind: str, asked: Sequence[str], known: Sequence[str]) -> None:
    unknown = [label for label in asked if label not in known]
    if unknown:
        listed = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        raise ConfigurationError(
            f"unknown {kind} label{'s' if len(unknown) > 1 else ''}: {', '.join(unknown)}; "
            f"the dataset has {listed or 'none'}"
        )


def _checked_settings(config: RunConfig) -> RunConfig:
    """The settings, the device resolved; ConfigurationError where one cannot be honoured."""
    check_out_dir(config.out_dir)
    slice_profile(config.slice_profile, 1.0)  # reads and checks a profile file
    if config.dry_run:
        return config
    if config.work_dir is not None:
        try:
            config.work_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"work dir {config.work_dir} cannot be made ({error.strerror}); choose another one"
            ) from error
    _place_caches(config.work_dir)
    return _with_prior(replace(config, device=_resolved_device(config.device)))


def _with_prior(config: RunConfig) -> RunConfig:
    """The settings with the prior resolved, and the network that suits the device."""
    on_cpu = config.device == "cpu"
    network = LEARNED_CPU if on_cpu else LEARNED_FAST if config.fast else config.core.learned
    prior = config.prior if config.prior != "auto" else "graph" if on_cpu else "learned"
    return replace(config, prior=prior, core=replace(config.core, learned=network))


def _place_caches(work_dir: Path | None) -> None:
    """Compiled kernels and font lists go to the work dir, or below /tmp where the package cannot be written.

    A variable that the user has set wins. Must run before numba and matplotlib are imported.
    """
    package = Path(__file__).parent
    if work_dir is None:
        if os.access(package, os.W_OK):
            return
        work_dir = Path(tempfile.gettempdir()) / f"atlasgs-{os.getuid()}"
    os.environ.setdefault("NUMBA_CACHE_DIR", str(work_dir / "numba"))
    os.environ.setdefault("MPLCONFIGDIR", str(work_dir / "matplotlib"))


def _resolved_device(device: str) -> str:
    """``cpu`` or ``cuda:n``; ConfigurationError where there is no such GPU."""
    if device == "cpu":
        return device
    import torch  # noqa: PLC0415 - takes seconds, and --device cpu needs none of it

    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda:0" if n_devices else "cpu"
    index = int(device.partition(":")[2] or 0)
    if index >= n_devices:
        raise ConfigurationError(
            f"--device {device}: torch {torch.__version__} sees {n_devices} CUDA devices; use "
            "--device cpu, or check the driver, CUDA_VISIBLE_DEVICES and the container's --gpus or --nv"
        )
    return f"cuda:{index}"


def _validate(config: RunConfig, participants: Sequence[str]) -> None:
    if config.skip_bids_validation:
        return
    check_dataset(config.bids_dir)
    for line in validation_errors(config.bids_dir, participants):
        logger.warning("BIDS validation: %s", line)


def _log_plan(plan: SubjectPlan) -> None:
    logger.info("%s: anchor %s (%s)", plan.label, plan.anchor.path.name, plan.anchor_reason)
    for path, reason in plan.skipped:
        logger.info("%s: skipping %s: %s", plan.label, path.name, reason)
    for text in plan.warnings:
        logger.warning("%s: %s", plan.label, text)
    if not plan.targets and not plan.failures:
        logger.warning("%s: nothing to restore: no thick slices", plan.label)


def _print_plan(plans: Sequence[SubjectPlan], failures: Sequence[Failed]) -> None:
    planned = {f"{plan.label} {label}" for plan in plans for label, _ in plan.failures}
    unplanned = [(failure.label, failure.message) for failure in failures if failure.label not in planned]
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file or a pipe has no width; file names must not be cut
    console.print(plan_table(plans, unplanned))


def _record(failure: Failed, config: RunConfig) -> None:
    """Log a failure and write its crash file, at once: a later failure must not lose it."""
    now = datetime.now(timezone.utc)
    name = f"crash-{now:%Y%m%dT%H%M%SZ}-{failure.label.replace(' ', '_')}-{os.getpid()}.txt"
    path = config.out_dir / "logs" / name
    text = (
        f"{failure.label}\n{failure.message}\n\n"
        f"time: {now:%Y-%m-%d %H:%M:%S} UTC\nAtlasGS {__version__}, Python {platform.python_version()}, "
        f"{platform.platform()}\ncommand: {' '.join(sys.argv)}\nsettings: {config}\n\n{failure.traceback}"
    )
    logger.error("%s: %s (details: %s)", failure.label, failure.message, path)
    try:
        save_text(text, path)
    except OSError as error:  # a full disk may be the very failure that is recorded
        logger.error("%s cannot be written: %s", path, error)  # noqa: TRY400


def _summary(participants: Sequence[str], plans: Sequence[SubjectPlan], failures: Sequence[Failed]) -> str:
    """The last line of a run."""
    failed = {failure.participant for failure in failures}
    n_done = len(participants) - len(failed)
    line = f"{n_done} of {len(participants)} participants done"
    busy = {plan.participant for plan in plans if plan.targets} | failed
    idle = [f"sub-{participant}" for participant in participants if participant not in busy]
    if idle:
        line += f" (nothing to restore for {', '.join(idle)})"
    named = [f"{failure.label}: {' '.join(failure.message.split())}" for failure in failures]
    if named:
        more = f"; and {len(named) - _N_FAILURES_NAMED} more" if len(named) > _N_FAILURES_NAMED else ""
        line += "; failed: " + "; ".join(named[:_N_FAILURES_NAMED]) + more
    return line


@contextmanager
def _logging_to_terminal(verbosity: int) -> Iterator[Progress]:
    """Send the log to stderr while the run lasts: above rich's bars on a terminal, else as lines."""
    with Progress() as progress:
        handler: logging.Handler
        if progress.console.is_terminal:
            handler = RichHandler(
                console=progress.console,
                show_path=False,
                highlighter=NullHighlighter(),
                log_time_format="%H:%M:%S",
            )
        else:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
        previous = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if verbosity else logging.INFO)
        logger.propagate = False
        try:
            yield progress
        finally:
            logger.removeHandler(handler)
            logger.setLevel(previous[0])
            logger.propagate = previous[1]

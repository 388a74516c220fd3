"""One participant, session by session, and the record of what failed: the same in this process or another."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.export import is_exported, write_export
from atlasgs_bids.app.failures import Failed, failed, record
from atlasgs_bids.app.provenance import differences
from atlasgs_bids.app.target import TargetRun
from atlasgs_bids.bids.outputs.dataset import write_dataset_files
from atlasgs_bids.bids.outputs.locks import session_lock
from atlasgs_bids.bids.outputs.names import session_page
from atlasgs_bids.bids.outputs.raw import raw_dir
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.bids.plan.targets import TargetPlan
from atlasgs_bids.errors import InputError, SessionHeldError
from atlasgs_bids.runtime.costs import ResourceMonitor
from atlasgs_bids.runtime.devices import use_device
from atlasgs_bids.runtime.files import remove_stale_temporaries
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.version import __version__

logger = logging.getLogger("atlasgs_bids")


def prepare_out_dir(config: RunConfig) -> None:
    """The files of the dataset as a whole, and nothing half-written beside them; what an export means."""
    write_dataset_files(config.out_dir, config.bids_dir, __version__, config.derivatives)
    for folder in (config.out_dir, config.out_dir / "logs", raw_dir(config.out_dir)):
        remove_stale_temporaries(folder)
    if config.export == "raw":
        logger.warning(
            "--export raw: between its slices a restored image follows the T1w; surfaces that are refined "
            "with it are in part refined with the T1w once more (docs/export.md)"
        )


def process_participant(
    plans: Sequence[SubjectPlan], config: RunConfig, progress: Progress, on_failure: Callable[[Failed], None]
) -> None:
    """Every session of one participant; what fails is recorded, then told to ``on_failure``, at once."""
    for plan in plans:
        failures = _process_session(plan, config, progress)
        for failure in failures:
            record(failure, config)
            on_failure(failure)
        problem = write_session_export(plan, config, progress)
        failures += _told(problem, failures, config, on_failure)
        problem = write_session_page(plan, config, failures, progress)
        failures += _told(problem, failures, config, on_failure)
        if failures and config.stop_on_first_crash:
            return


def _told(
    problem: Failed | None,
    failures: Sequence[Failed],
    config: RunConfig,
    on_failure: Callable[[Failed], None],
) -> list[Failed]:
    """The problem, recorded; what kept a session from its results may keep it from its page: one failure."""
    if problem is None:
        return []
    if failures:
        logger.debug("%s: nor this: %s", problem.label, problem.message)
        return []
    record(problem, config)
    on_failure(problem)
    return [problem]


def write_session_export(
    plan: SubjectPlan, config: RunConfig, progress: Progress, *, held: bool = False
) -> Failed | None:
    """Write what ``--export`` asks for of a session; why it could not be written, if so.

    ``held``: this process has the session's lock.
    """
    if config.export == "none":
        return None
    try:
        with progress.under(plan.label).stage("export") as advance:
            with nullcontext() if held else session_lock(config.out_dir, plan.participant, plan.session):
                write_export(plan, config)
            advance(1)
    except Exception as error:  # noqa: BLE001 - the results are there, whatever became of their export
        return failed(plan.participant, f"{plan.label} export", error)
    return None


def write_session_page(
    plan: SubjectPlan, config: RunConfig, failures: Sequence[Failed], progress: Progress
) -> Failed | None:
    """Write the page of a session; why there is none, if so. Another run that holds it writes its own."""
    try:
        with session_lock(config.out_dir, plan.participant, plan.session):
            return write_page_held(plan, config, failures, progress)
    except SessionHeldError as error:
        logger.debug("%s: no page: %s", plan.label, error)
    except Exception as error:  # noqa: BLE001 - as below
        return failed(plan.participant, f"{plan.label} page", error)
    return None


def write_page_held(
    plan: SubjectPlan, config: RunConfig, failures: Sequence[Failed], progress: Progress
) -> Failed | None:
    """The same, of a session whose lock this process holds."""
    from atlasgs_bids.app.pages import write_page  # noqa: PLC0415 - as below

    try:
        write_page(plan, config, failures, progress)
    except InputError as error:
        logger.debug("%s: no page: %s", plan.label, error)
    except Exception as error:  # noqa: BLE001 - the results are there, whatever their page lacks
        return failed(plan.participant, f"{plan.label} page", error)
    return None


def write_page_without_plan(failure: Failed, config: RunConfig) -> None:
    """Write the page of a session that could not be planned."""
    from atlasgs_bids.app.pages import write_unplanned_page  # noqa: PLC0415 - loads torch and matplotlib

    try:
        write_unplanned_page(failure, config)
    except OSError as error:  # a full disk may be the very failure
        logger.warning("%s: no page: %s", failure.label, error)


def has_page(plan: SubjectPlan, config: RunConfig) -> bool:
    """Whether the page of a session is there, and as young as its results: a killed run may lack its page."""
    metrics = [TargetRun(plan, target, config).outputs.metrics_tsv for target in plan.targets]
    try:
        page = session_page(config.out_dir, plan.participant, plan.session).stat()
        return all(path.stat().st_mtime <= page.st_mtime for path in metrics if path.exists())
    except OSError:
        return False


def all_finished(plan: SubjectPlan, config: RunConfig) -> bool:
    """Whether nothing of a session is to be computed, or there never was anything."""
    if config.overwrite or config.reports_only:
        return not plan.targets
    return all(TargetRun(plan, target, config).outputs.finished for target in plan.targets)


def unfinished(plan: SubjectPlan, config: RunConfig) -> bool:
    """Whether a session needs processing at all; what a killed run has left beside finished targets goes.

    Asked before torch is loaded and before a process is started: a run over finished participants is quick.
    """
    if not all_finished(plan, config) or not is_exported(plan, config):
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
    try:
        if not config.reports_only:
            use_device(
                config.restoration.device
            )  # the same for every session of a process; a GPU that is taken fails here
        with session_lock(config.out_dir, plan.participant, plan.session):
            return process_held(plan, config, progress)
    except Exception as error:  # noqa: BLE001 - whatever breaks one participant breaks no other
        return [failed(plan.participant, plan.label, error)]


def process_held(plan: SubjectPlan, config: RunConfig, progress: Progress) -> list[Failed]:
    """The targets of a session whose lock this process holds; what failed."""
    # Both load torch and matplotlib, which a run over finished participants does without.
    from atlasgs_bids.app.redraw import redraw_subject  # noqa: PLC0415
    from atlasgs_bids.app.session import process_subject  # noqa: PLC0415

    process = redraw_subject if config.reports_only else process_subject
    try:
        with _monitored(plan, config, progress) if config.resource_monitor else nullcontext():
            result = process(plan, config, progress)
    except Exception as error:  # noqa: BLE001 - whatever breaks one participant breaks no other
        return [failed(plan.participant, plan.label, error)]
    for target in plan.targets:
        if target.label in result.skipped:
            _log_skipped(plan, target, config)
    return list(result.failures)


def _monitored(plan: SubjectPlan, config: RunConfig, progress: Progress) -> ExitStack:
    """Measures every stage while it is open, and the session as a whole; writes the table at the end."""
    monitor = ResourceMonitor()
    stack = ExitStack()
    stack.callback(monitor.save, config.out_dir / "logs" / f"{plan.label.replace(' ', '_')}_resources.tsv")
    previous, progress.watch = progress.watch, monitor.measure
    stack.callback(setattr, progress, "watch", previous)
    stack.enter_context(monitor.measure(f"{plan.label}: all"))
    return stack

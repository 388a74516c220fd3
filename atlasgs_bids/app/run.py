"""One invocation: validate, discover, plan, process, report; one failure stops nobody else."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

from rich.console import Console

from atlasgs_bids.app.budget import within_budget
from atlasgs_bids.app.citation import write_citation
from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.failures import Failed, record
from atlasgs_bids.app.group import gather
from atlasgs_bids.app.participants import (
    all_finished,
    has_page,
    prepare_out_dir,
    process_participant,
    unfinished,
    write_page_without_plan,
    write_session_page,
)
from atlasgs_bids.app.planned import record_plans
from atlasgs_bids.app.planning import log_plan, plan_participant, without_plan
from atlasgs_bids.app.worker import check_worker, work
from atlasgs_bids.app.workers import process_in_parallel
from atlasgs_bids.bids.inputs.preprocessed import check_targets_from
from atlasgs_bids.bids.inputs.selection import selected_participants
from atlasgs_bids.bids.inputs.validate import check_dataset, validation_errors
from atlasgs_bids.bids.outputs.dataset import check_out_dir, check_paths
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.bids.plan.table import plan_table
from atlasgs_bids.errors import ConfigurationError, listed, shortened
from atlasgs_bids.imaging.profile import read_slice_profile
from atlasgs_bids.runtime.devices import devices, resolved_device
from atlasgs_bids.runtime.environment import limit_threads, place_caches, share_of_threads
from atlasgs_bids.runtime.processes import EXIT_DONE, EXIT_FAILED, Ended, exit_code_of
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger("atlasgs_bids")


def run(config: RunConfig) -> int:
    """Exit code of one invocation: 0 all done, 1 something failed, 2 usage, 130 interrupted."""
    return exit_code_of(partial(_run, config), config.verbosity, "what was finished stays")


def _run(config: RunConfig, progress: Progress) -> Ended:
    check_paths(
        config.bids_dir,
        config.out_dir,
        {"work dir": config.work_dir, "BIDS database dir": config.bids_database_dir},
    )
    check_worker(config)
    anchor_session = config.plan.anchor_session
    sessions = [*config.session_ids, *([anchor_session] if anchor_session is not None else [])]
    participants = selected_participants(config.bids_dir, config.participant_labels, sessions)
    if config.analysis_level == "group":
        return Ended(EXIT_DONE if gather(config, participants) else EXIT_FAILED)
    # Fewer participants than processes leave more threads for each.
    config = _checked_settings(replace(config, n_procs=min(config.n_procs, len(participants))))
    if config.worker is not None and not config.dry_run:
        return work(participants, config, progress)
    _validate(config, participants)
    planned = {participant: plan_participant(participant, config) for participant in participants}
    plans = [plan for of_one, _ in planned.values() for plan in of_one]
    failures = [failure for _, of_one in planned.values() for failure in of_one]
    _check_scaffold(config, plans)
    if config.dry_run:
        _print_plan(plans, failures)
        return Ended(EXIT_FAILED if failures else EXIT_DONE)
    prepare_out_dir(config)
    if not config.reports_only:
        for participant, (of_one, problems) in planned.items():
            record_plans(participant, of_one, problems, config)
    for failure in failures:
        record(failure, config)
    _write_other_pages(plans, failures, config)
    if failures and config.stop_on_first_crash:
        undone = [plan.participant for plan in plans if plan.targets]
    else:
        more, undone = _process(plans, config, progress)
        failures += more
    write_citation(plans, config)
    last_line = _summary(participants, plans, failures, undone)
    return Ended(EXIT_FAILED if failures else EXIT_DONE, last_line)


def _process(
    plans: Sequence[SubjectPlan], config: RunConfig, progress: Progress
) -> tuple[list[Failed], list[str]]:
    """Failures, and the participants that ``--stop-on-first-crash`` left undone."""
    for plan in plans:
        log_plan(plan)
    busy = [plan for plan in plans if plan.targets and unfinished(plan, config)]
    participants = [list(of_one) for _, of_one in groupby(busy, lambda plan: plan.participant)]
    if config.n_procs > 1 and len(participants) > 1:
        return process_in_parallel(participants, config, devices(config.restoration.device))
    config = config.restoring(device=devices(config.restoration.device)[0])
    failures: list[Failed] = []
    for position, of_one in enumerate(participants):
        process_participant(of_one, config, progress, failures.append)
        if failures and config.stop_on_first_crash:
            return failures, [left[0].participant for left in participants[position + 1 :]]
    return failures, []


def _write_other_pages(plans: Sequence[SubjectPlan], failures: Sequence[Failed], config: RunConfig) -> None:
    """Pages of sessions that nothing will be computed for: without a plan, without a target, or finished."""
    unplanned = without_plan(plans, failures)
    idle = [
        plan
        for plan in plans
        if all_finished(plan, config) and ((plan.failures and not plan.targets) or not has_page(plan, config))
    ]
    for failure in unplanned:
        write_page_without_plan(failure, config)
    for plan in idle:
        problem = write_session_page(plan, config, (), Progress.quiet())
        if problem is not None:
            logger.warning("%s: no page: %s", plan.label, problem.message)


def _check_scaffold(config: RunConfig, plans: Sequence[SubjectPlan]) -> None:
    """Raise ConfigurationError where one scaffold would serve several brains."""
    anchors = sorted({plan.anchor.path.name for plan in plans if plan.targets})
    if config.scaffold is not None and len(anchors) > 1:
        raise ConfigurationError(
            f"--scaffold {config.scaffold.name} belongs to one anchor, but the run has {len(anchors)} "
            f"({listed(anchors)}); name one with --participant-label and --session-id"
        )


def _checked_settings(config: RunConfig) -> RunConfig:
    """The settings, the device resolved; ConfigurationError where one cannot be honoured."""
    check_out_dir(config.out_dir)
    if config.targets_from is not None:
        check_targets_from(config.targets_from, config.derivatives)
    if config.slice_profile_file is not None:
        config = config.restoring(slice_profile=read_slice_profile(config.slice_profile_file))
    settings = config.restoration
    if settings.motion == "slice" and settings.core.geometry.mode != "frozen":
        raise ConfigurationError(
            f"--motion slice together with --geometry {settings.core.geometry.mode}: both "
            "explain the same misfit; leave one of them out"
        )
    if config.dry_run:
        return config
    if config.work_dir is not None:
        try:
            config.work_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"work dir {config.work_dir} cannot be made ({error.strerror}); choose another one"
            ) from error
    place_caches(config.work_dir)
    n_threads = config.restoration.n_threads or share_of_threads(config.n_procs)
    limit_threads(n_threads)
    settings = replace(
        config.restoration, device=resolved_device(config.restoration.device), n_threads=n_threads
    )
    return within_budget(replace(config, restoration=settings.with_network_of_device()))


def _validate(config: RunConfig, participants: Sequence[str]) -> None:
    if config.skip_bids_validation:
        return
    check_dataset(config.bids_dir)
    for line in validation_errors(config.bids_dir, participants):
        logger.warning("BIDS validation: %s", line)


def _print_plan(plans: Sequence[SubjectPlan], failures: Sequence[Failed]) -> None:
    unplanned = [(failure.label, failure.message) for failure in without_plan(plans, failures)]
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file or a pipe has no width; file names must not be cut
    console.print(plan_table(plans, unplanned))


def _summary(
    participants: Sequence[str],
    plans: Sequence[SubjectPlan],
    failures: Sequence[Failed],
    undone: Sequence[str],
) -> str:
    """The last line of a run."""
    failed = {failure.participant for failure in failures}
    n_done = len(participants) - len(failed | set(undone))
    line = f"{n_done} of {len(participants)} participants done"
    busy = {plan.participant for plan in plans if plan.targets} | failed
    idle = [f"sub-{participant}" for participant in participants if participant not in busy]
    if idle:
        line += f" (nothing to restore for {listed(idle)})"
    if failures:
        # A label may be as long as names can be: it must not take the place of the message.
        named = [f"{shortened(failure.label, 40)}: {failure.message}" for failure in failures]
        line += f"; failed: {listed(named, '; ')}"
    stopped = [f"sub-{label}" for label in participants if label in set(undone) - failed]
    if stopped:
        line += f"; stopped before {listed(stopped)} was done"
    return line

"""``--worker``: one of several processes, here or on other nodes, that share what is left to do.

Nobody hands out work. A worker goes through the participants, each worker from another one on, and takes
every session that is neither finished nor locked; the lock of a dead one is free. What others hold is looked
at again at the end, until it is finished, given up, or free. docs/decisions/0033-clusters.md says why.
"""

import os
import socket
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.export import is_exported
from atlasgs_bids.app.failures import Failed, failed, record
from atlasgs_bids.app.participants import (
    all_finished,
    has_page,
    prepare_out_dir,
    process_held,
    write_page_held,
    write_page_without_plan,
    write_session_export,
)
from atlasgs_bids.app.planned import record_plans
from atlasgs_bids.app.planning import log_plan, plan_participant, without_plan
from atlasgs_bids.bids.inputs.validate import check_dataset
from atlasgs_bids.bids.outputs.locks import lock_holder, session_lock
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.errors import ConfigurationError, InputError, SessionHeldError, listed
from atlasgs_bids.runtime.devices import devices, use_device
from atlasgs_bids.runtime.files import short_name
from atlasgs_bids.runtime.processes import EXIT_DONE, EXIT_FAILED, Ended
from atlasgs_bids.runtime.progress import Progress

MOST_DEATHS = 2
"""Processes that may die of a session before the batch gives it up: it may be what kills them."""
_LOOK_AGAIN_S = 2.0


def check_worker(config: RunConfig) -> None:
    """Raise ConfigurationError for what a worker cannot honour."""
    if config.worker is None:
        return
    asked = {
        "--nprocs": config.n_procs > 1,
        "--overwrite": config.overwrite,
        "--reports-only": config.reports_only,
        "--scaffold": config.scaffold is not None,
        "the group level": config.analysis_level == "group",
    }
    wrong = [name for name, given in asked.items() if given]
    if wrong:
        raise ConfigurationError(
            f"--worker together with {' and '.join(wrong)}, expected neither: workers share what is not "
            "finished, one session at a time each; start more of them, or leave --worker out"
        )


def work(participants: Sequence[str], config: RunConfig, progress: Progress) -> Ended:
    """What is left of these participants, shared with the other workers of the batch."""
    if not config.skip_bids_validation:
        check_dataset(config.bids_dir)
    prepare_out_dir(config)
    config = config.restoring(device=devices(config.restoration.device)[0])
    use_device(config.restoration.device)  # a node whose GPU is broken must not take session after session
    worker = _Worker(config, _Batch(config.out_dir, config.worker or ""), progress)
    held: list[SubjectPlan] = []
    for participant in _from_somewhere(participants):
        held += [plan for plan in worker.planned(participant) if not worker.settled(plan)]
        if worker.stops:
            held = []
            break
    while held and not worker.stops:
        still_held = [plan for plan in held if not worker.settled(plan)]
        if len(still_held) == len(held):
            time.sleep(_LOOK_AGAIN_S)
        held = still_held
    return worker.ended()


def _from_somewhere(participants: Sequence[str]) -> list[str]:
    """All of them, begun at another one by each process, so that workers seldom meet."""
    start = zlib.crc32(f"{socket.gethostname()}-{os.getpid()}".encode()) % len(participants)
    return [*participants[start:], *participants[:start]]


@dataclass
class _Worker:
    config: RunConfig
    batch: "_Batch"
    progress: Progress
    failures: list[Failed] = field(default_factory=list)
    n_done: int = 0

    @property
    def stops(self) -> bool:
        return bool(self.failures) and self.config.stop_on_first_crash

    def planned(self, participant: str) -> list[SubjectPlan]:
        """The plans of a participant; the first worker to find that something cannot be planned says so."""
        plans, problems = plan_participant(participant, self.config)
        record_plans(participant, plans, problems, self.config)
        unplanned = without_plan(plans, problems)
        for problem in problems:
            if self.batch.give_up(problem.label):
                self._failed(problem)
                if problem in unplanned:
                    write_page_without_plan(problem, self.config)
        return plans

    def settled(self, plan: SubjectPlan) -> bool:
        """Whether a session needs nobody any more, after this worker where it was free; False: it is held."""
        if self._nothing_left(plan):
            return True
        if lock_holder(self.config.out_dir, plan.participant, plan.session) is not None:
            return False
        try:
            with session_lock(self.config.out_dir, plan.participant, plan.session):
                if not self._nothing_left(plan):
                    self._process(plan)
        except SessionHeldError:
            return False
        except Exception as error:  # noqa: BLE001 - no folder for it, no lock: it breaks no other session
            self.batch.give_up(plan.label)
            self._failed(failed(plan.participant, plan.label, error))
        return True

    def ended(self) -> Ended:
        line = f"worker: {self.n_done} sessions done by this one, {len(self.failures)} failures"
        if self.failures:
            named = [f"{failure.label}: {failure.message}" for failure in self.failures]
            line += f": {listed(named, '; ')}"
        return Ended(EXIT_FAILED if self.failures else EXIT_DONE, line)

    def _nothing_left(self, plan: SubjectPlan) -> bool:
        if not plan.targets and not plan.failures:
            return True
        done = all_finished(plan, self.config) and has_page(plan, self.config)
        return (done and is_exported(plan, self.config)) or self.batch.gave_up(plan.label)

    def _process(self, plan: SubjectPlan) -> None:
        """A session that this process holds: what fails is recorded before others may look at it."""
        failures: list[Failed] = []
        if not all_finished(plan, self.config):
            log_plan(plan)
            try:
                with self.batch.attempt(plan.label):
                    failures = process_held(plan, self.config, self.progress)
            except InputError as error:
                failures = [failed(plan.participant, plan.label, error)]
            self.n_done += not failures
        problem = write_session_export(plan, self.config, self.progress, held=True)
        failures += [problem] if problem is not None and not failures else []
        if failures:
            self.batch.give_up(plan.label)
        for failure in failures:
            self._failed(failure)
        no_page = write_page_held(plan, self.config, failures, self.progress)
        if no_page is not None:
            self.batch.give_up(plan.label)
            self._failed(no_page)

    def _failed(self, failure: Failed) -> None:
        record(failure, self.config)
        self.failures.append(failure)


@dataclass(frozen=True)
class _Batch:
    """What workers of one name tell each other, through files that they make: ``logs/batch/NAME``."""

    out_dir: Path
    name: str

    def gave_up(self, label: str) -> bool:
        return self._path(label, "failed").exists()

    def give_up(self, label: str) -> bool:
        """Have nobody of the batch try this again; whether this worker is the first to say so."""
        path = self._path(label, "failed")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    @contextmanager
    def attempt(self, label: str) -> Iterator[None]:
        """Held by whoever processes a session. InputError where too many processes have died of it.

        A process that ends in order, by a signal too, leaves no trace; one that is killed leaves a line.
        """
        path = self._path(label, "begun")
        path.parent.mkdir(parents=True, exist_ok=True)
        deaths = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if len(deaths) >= MOST_DEATHS:
            raise InputError(
                f"{len(deaths)} processes of this batch were killed while they worked on it "
                f"({'; '.join(deaths)}), most often because memory ran out; ask for more memory, and submit "
                "again under another name"
            )
        now = datetime.now(timezone.utc)
        line = f"process {os.getpid()} on {socket.gethostname()}, {now:%Y-%m-%d %H:%M:%S} UTC"
        path.write_text("\n".join([*deaths, line]) + "\n", encoding="utf-8")
        try:
            yield
        finally:
            path.write_text("\n".join([*deaths, ""]), encoding="utf-8")
            if not deaths:
                path.unlink(missing_ok=True)

    def _path(self, label: str, ending: str) -> Path:
        return self.out_dir / "logs" / "batch" / self.name / f"{short_name(label)}.{ending}"

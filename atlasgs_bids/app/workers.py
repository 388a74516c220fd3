"""Participants in parallel: a process for each, so that one that is killed takes nothing along.

A pool of the standard library breaks as a whole when the system kills one of its processes; here a process
lives as long as its participant does (docs/decisions/0005-processes.md).
"""

import logging
import signal
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from rich.console import Console

from atlasgs_bids.app.budget import participant_memory_mib
from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.failures import Failed, record
from atlasgs_bids.app.participants import process_participant, write_session_page
from atlasgs_bids.bids.outputs.locks import session_lock
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.errors import InputError
from atlasgs_bids.runtime.environment import limit_threads
from atlasgs_bids.runtime.processes import (
    EXIT_INTERRUPTED,
    end_with_parent,
    signals_as_interrupt,
    started,
    stop,
)
from atlasgs_bids.runtime.progress import Progress, logging_to_terminal

logger = logging.getLogger("atlasgs_bids")

_LOADED = ("atlasgs_bids.app.redraw", "atlasgs_bids.app.session", "atlasgs_bids.app.pages")
"""What each participant needs, torch and matplotlib among it: 7 s once rather than for each of them."""


@dataclass
class _Worker:
    process: BaseProcess
    told: Connection
    plans: Sequence[SubjectPlan]
    memory_mib: float
    failures: list[Failed] = field(default_factory=list)
    listening: bool = True

    @property
    def participant(self) -> str:
        return self.plans[0].participant

    def listen(self) -> None:
        """Take over the failures that the process has told so far."""
        try:
            while self.listening and self.told.poll():
                self.failures.append(self.told.recv())
        except EOFError:
            self.listening = False


def process_in_parallel(
    participants: Sequence[Sequence[SubjectPlan]], config: RunConfig, devices: Sequence[str]
) -> tuple[list[Failed], list[str]]:
    """Failures, and the participants that ``--stop-on-first-crash`` left undone.

    A process computes on one of ``devices``, in turn. ``config.memory_mib`` bounds the sum of the estimates
    of those that run; a participant that exceeds it by itself runs by itself.
    """
    waiting = deque(participants)
    running: dict[int, _Worker] = {}
    failures: list[Failed] = []
    try:
        while waiting or running:
            while waiting and _fits(waiting[0], running.values(), config):
                slot = min(set(range(config.n_procs)) - set(running))
                running[slot] = _start(
                    waiting.popleft(), config.restoring(device=devices[slot % len(devices)])
                )
            wait([worker.process.sentinel for worker in running.values()]
                 + [worker.told for worker in running.values() if worker.listening])  # fmt: skip
            for slot, worker in list(running.items()):
                if worker.process.is_alive():
                    worker.listen()
                else:
                    failures += _ended(running.pop(slot), config)
            if config.stop_on_first_crash and (failures or any(w.failures for w in running.values())):
                break
    finally:
        _stop(list(running.values()), config)
    failures += [failure for worker in running.values() for failure in worker.failures]
    return failures, [worker.participant for worker in running.values()] + [p[0].participant for p in waiting]


def _fits(plans: Sequence[SubjectPlan], running: Collection[_Worker], config: RunConfig) -> bool:
    if len(running) >= config.n_procs:
        return False
    if not running or config.memory_mib is None:
        return True
    taken_mib = sum(worker.memory_mib for worker in running)
    return taken_mib + participant_memory_mib(plans, config) <= config.memory_mib


def _start(plans: Sequence[SubjectPlan], config: RunConfig) -> _Worker:
    process, told = started(_work, plans, config, duplex=False, name=plans[0].label, loaded=_LOADED)
    return _Worker(process, told, plans, participant_memory_mib(plans, config))


def _work(plans: Sequence[SubjectPlan], config: RunConfig, telling: Connection) -> None:
    """The worker's main function."""
    end_with_parent()
    try:
        with (
            signals_as_interrupt(),
            logging_to_terminal(config.verbosity, Console(stderr=True, force_terminal=False)) as progress,
        ):
            if config.restoration.n_threads is not None:
                limit_threads(config.restoration.n_threads)
            process_participant(plans, config, progress, telling.send)
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


def _ended(worker: _Worker, config: RunConfig) -> list[Failed]:
    """Failures of a process that has ended, its own death among them."""
    worker.listen()
    code = worker.process.exitcode
    if code:
        label = worker.process.name if len(worker.plans) == 1 else f"sub-{worker.participant}"
        killed = Failed(worker.participant, label, _cause_of_death(code, worker, config))
        _clear(worker, config)
        record(killed, config)
        for plan in worker.plans:
            write_session_page(plan, config, [killed], Progress.quiet())
        worker.failures.append(killed)
    return worker.failures


def _cause_of_death(code: int, worker: _Worker, config: RunConfig) -> str:
    if code != -signal.SIGKILL:
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"its process ended with {name} before it was done; run again with --nprocs 1 to see why"
    expected_gib = worker.memory_mib / 1024
    return (
        "its process was killed (SIGKILL), most often because memory ran out: about "
        f"{expected_gib:.1f} GiB were expected for it, beside {config.n_procs - 1} others at most; "
        "run fewer at once (--nprocs, --mem) or ask for more memory, and run again"
    )


def _stop(workers: Sequence[_Worker], config: RunConfig) -> None:
    """End processes that still run, and take over what they have told."""
    killed = stop([worker.process for worker in workers])
    for worker in workers:
        if worker.process in killed:
            _clear(worker, config)
        worker.listen()


def _clear(worker: _Worker, config: RunConfig) -> None:
    """Remove what a killed process has left half-written."""
    for plan in worker.plans:
        try:
            with session_lock(config.out_dir, plan.participant, plan.session):
                pass
        except (InputError, OSError) as error:
            logger.debug("%s: %s", plan.label, error)

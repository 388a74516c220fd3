"""Cells in several processes: one that is killed takes no cell along but its own.

Each process keeps what the cells of a session share, and is handed one cell after the other.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from atlasgs_bids.runtime.environment import limit_threads
from atlasgs_bids.runtime.processes import end_with_parent, signals_as_interrupt, started, stop

Job = TypeVar("Job")


@dataclass
class _Worker(Generic[Job]):
    process: BaseProcess
    link: Connection
    job: Job


def in_processes(
    jobs: Sequence[Job], compute: Callable[[Job], str], n_procs: int, n_threads: int
) -> Iterator[tuple[Job, str | None]]:
    """Each job and what ``compute`` returned for it; None where its process ended before it did."""
    waiting: deque[Job] = deque(jobs)
    workers: list[_Worker[Job]] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < n_procs:
                workers.append(_start(compute, n_threads, waiting.popleft()))
            ready = wait([worker.link for worker in workers])
            for worker in [w for w in workers if w.link in ready]:
                job, told = worker.job, _told(worker.link)
                if told is not None and waiting:
                    worker.job = waiting.popleft()
                    with contextlib.suppress(
                        OSError
                    ):  # ended in between: the next turn finds the link closed
                        worker.link.send(worker.job)
                else:
                    workers.remove(worker)
                    worker.link.close()
                    worker.process.join()
                yield job, told
    finally:
        stop([worker.process for worker in workers])


def _told(link: Connection) -> str | None:
    try:
        told: str = link.recv()
    except (EOFError, OSError):
        return None
    return told


def _start(compute: Callable[[Job], str], n_threads: int, job: Job) -> _Worker[Job]:
    """A process at its first job."""
    process, link = started(_work, compute, n_threads, duplex=True)
    link.send(job)
    return _Worker(process, link, job)


def _work(compute: Callable[[Job], str], n_threads: int, link: Connection) -> None:
    """The process's main function: jobs until there are no more."""
    end_with_parent()
    with signals_as_interrupt():
        try:
            limit_threads(n_threads)
            while True:
                link.send(compute(link.recv()))
        except (EOFError, KeyboardInterrupt):
            return

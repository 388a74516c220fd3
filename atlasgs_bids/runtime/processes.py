"""Exit codes, signals, starts and ends of processes that belong together: the app's and the study's."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from atlasgs_bids.errors import ConfigurationError
from atlasgs_bids.runtime.progress import Progress, logging_to_terminal

logger = logging.getLogger("atlasgs_bids")

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
_GRACE_S = 15.0
"""After the signal to end, before the one that cannot be refused; a kernel may run for some seconds."""


@dataclass(frozen=True)
class Ended:
    """How an invocation ended."""

    exit_code: int
    last_line: str = ""
    """Printed below the log; empty: everything is said."""


def exit_code_of(work: Callable[[Progress], Ended], verbosity: int, what_stays: str) -> int:
    """Exit code of one invocation: what ``work`` ends with, 2 for its ConfigurationError, 130 if interrupted.

    The log goes to the terminal while it lasts. ``what_stays``: of an interrupted one.
    """
    with signals_as_interrupt(), logging_to_terminal(verbosity) as progress:
        try:
            ended = work(progress)
        except ConfigurationError as error:
            logger.error("%s", error)  # noqa: TRY400 - the message is for the user, who needs no traceback
            return EXIT_USAGE
        except KeyboardInterrupt:
            logger.error("interrupted; %s, the next run goes on from there", what_stays)  # noqa: TRY400
            return EXIT_INTERRUPTED
    if ended.last_line:
        print(ended.last_line)
    return ended.exit_code


def started(
    target: Callable[..., None],
    *args: Any,
    duplex: bool,
    name: str | None = None,
    loaded: Sequence[str] = (),
) -> tuple[BaseProcess, Connection]:
    """A process that runs ``target(*args, link)``, and the other end of the link, which closes as it dies.

    It is forked from a server that has loaded the modules ``loaded`` (of the first process that is started)
    and has done nothing else: neither CUDA nor threads survive a fork. Without ``duplex`` it only tells.
    """
    context = _start_method(["atlasgs_bids.runtime.fork_server", *loaded])
    ours, its = context.Pipe(duplex=duplex)
    process = context.Process(target=target, args=(*args, its), name=name)
    process.start()
    its.close()  # the process's alone: its end is what its death closes
    return process, ours


def _start_method(preload: list[str]) -> ForkServerContext | SpawnContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)
    try:
        forkserver.ensure_running()
    except OSError as error:  # its socket lies in TMPDIR, whose name may be too long or its disk take none
        logger.debug("no fork server: %s", error)
        return multiprocessing.get_context("spawn")
    return context


def end_with_parent() -> None:
    """End this process when its parent is gone, however that died: nobody would hear of the results."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "of a process that another one has started"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(EXIT_INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """SIGTERM, which schedulers and ``docker stop`` send, acts as Ctrl-C; a second signal changes nothing.

    Python's default would end the process without its clean-up, or, as a container's first one, not at all.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # as a library, in a thread: signals belong to the program
        return
    signals = (signal.SIGINT, signal.SIGTERM)

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = {each: signal.signal(each, interrupt) for each in signals}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def stop(processes: Sequence[BaseProcess]) -> list[BaseProcess]:
    """End processes: asked first, so that they leave no half-written file. Those that had to be killed."""
    killed = []
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()
            killed.append(process)
    return killed

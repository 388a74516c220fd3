"""Progress of a run: rich bars on a terminal, log lines elsewhere."""

import copy
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

logger = logging.getLogger("atlasgs_bids")

_LOG_EVERY_S = 30.0


class Progress:
    """Reports the stages of a run; a context manager that owns the bars while it is open."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.watch: Callable[[str], AbstractContextManager[object]] = lambda _label: nullcontext()
        """Entered around every stage, with its label: a place to measure (costs.py)."""
        self.label = ""
        """Of whom the stages are: a participant, a target."""
        self._quiet = False
        self._stack = ExitStack()
        self._bars: Bars | None = None

    def under(self, label: str) -> "Progress":
        """The same report, every stage and warning led by a further label: ``sub-01`` and then ``FLAIR``."""
        child = copy.copy(self)
        child.label = f"{self.label} {label}" if self.label else label
        return child

    def led(self, text: str) -> str:
        """The text led by the label."""
        return f"{self.label}: {text}" if self.label else text

    @classmethod
    def quiet(cls) -> "Progress":
        """One that says nothing, for use as a library."""
        progress = cls()
        progress._quiet = True
        return progress

    def __enter__(self) -> "Progress":  # noqa: PYI034 - Self needs Python 3.11
        if self.console.is_terminal and not self._quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bars = self._stack.enter_context(
                Bars(SpinnerColumn(), *columns, console=self.console, transient=True)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars = None
        self._stack.close()

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """A named stage of ``total`` steps; yields the function that advances it by so many steps."""
        label = self.led(name)
        if self._quiet:
            with self.watch(label):
                yield lambda _n_steps: None
            return
        started_s = time.monotonic()
        outcome = "failed"
        try:
            with self._shown(label, total) as advance, self.watch(label):
                yield advance
            outcome = "done"
        finally:
            logger.info("%s: %s in %.1f s", label, outcome, time.monotonic() - started_s)

    @contextmanager
    def _shown(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        if self._bars is None:
            yield _LoggedSteps(label, total)
            return
        bars, task = self._bars, self._bars.add_task(label, total=total)
        try:
            yield lambda n_steps: bars.advance(task, n_steps)
        finally:
            bars.remove_task(task)


class _LoggedSteps:
    """A stage where there is no terminal: a line at its start, then one every 30 s."""

    def __init__(self, label: str, total: int | None) -> None:
        logger.info("%s ...", label)
        self._label, self._total = label, total
        self._n_done = 0
        self._logged_s = time.monotonic()

    def __call__(self, n_steps: int) -> None:
        self._n_done += n_steps
        if time.monotonic() - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = time.monotonic()
            of_total = f" of {self._total}" if self._total else ""
            logger.info("%s: step %d%s", self._label, self._n_done, of_total)


@contextmanager
def logging_to_terminal(verbosity: int, console: Console | None = None) -> Iterator[Progress]:
    """Send the log to stderr while the run lasts: above rich's bars on a terminal, else as lines."""
    with Progress(console) as progress:
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

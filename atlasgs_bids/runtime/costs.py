"""Time and memory: of a target's stages, of a block, and of every stage of a participant as a table.

One place knows how the peaks are read, so that every table means the same by them.
"""

import contextlib
import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from atlasgs_bids.runtime.files import data_dictionary, save_json, save_tsv
from atlasgs_bids.version import __version__

_SAMPLE_EVERY_S = 0.05
_RESET_PEAK = "5"
"""What /proc/self/clear_refs takes to make the peak resident memory start anew (Linux)."""
_COLUMNS: dict[str, tuple[str, str | None]] = {
    "stage": ("What was done", None),
    "started": ("When, UTC", None),
    "seconds": ("Time that passed", "s"),
    "cpu_seconds": ("Time on all CPUs together, user and system", "s"),
    "peak_memory": ("Most resident memory of the process during the stage", "MiB"),
    "peak_gpu_memory": ("Most memory of tensors on the GPU up to the end of the stage", "MiB"),
    "outcome": ("done or failed", None),
}


class Clock:
    """Seconds per stage."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Adds what is spent inside to the stage's seconds."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass
class Costs:
    """What a block took; known when it ends."""

    seconds: float = 0.0
    peak_memory: float | None = None
    """MiB of the process, what it held before among them."""
    peak_gpu_memory: float | None = None
    """MiB of tensors; None on a CPU."""


@contextmanager
def measured(device: str) -> Iterator[Costs]:
    """The costs of a block on a device alone: peaks start anew, so blocks cannot lie in one another."""
    costs, on_gpu = Costs(), device != "cpu"
    if on_gpu:
        import torch  # noqa: PLC0415 - loaded by whoever computes

        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    _forget_peak_memory()
    started = time.perf_counter()
    try:
        yield costs
    finally:
        if on_gpu:
            torch.cuda.synchronize(device)
            costs.peak_gpu_memory = peak_gpu_memory_mib()
        costs.seconds = time.perf_counter() - started
        costs.peak_memory = peak_memory_mib()


class ResourceMonitor:
    """``--resource-monitor``: measures stages; ``measure`` is what Progress.watch takes."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._peak_mib = 0.0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        row: dict[str, Any] = {"stage": stage, "started": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"}
        self._rows.append(row)
        start_s, start_cpu_s, start_peak = time.perf_counter(), time.process_time(), self._peak()
        row["outcome"] = "failed"
        with _sampled_memory() as samples_mib:
            try:
                yield
                row["outcome"] = "done"
            finally:
                peak = self._peak()
                row |= {
                    "seconds": time.perf_counter() - start_s,
                    "cpu_seconds": time.process_time() - start_cpu_s,
                    # The kernel keeps the peak of the whole process: exact where the stage has raised it.
                    "peak_memory": peak if peak > start_peak else min(peak, max(samples_mib)),
                    "peak_gpu_memory": peak_gpu_memory_mib(),
                }

    def _peak(self) -> float:
        """So far, MiB: the kernel's own count may fall by a page or two, and no stage tops what holds it."""
        self._peak_mib = max(self._peak_mib, peak_memory_mib())
        return self._peak_mib

    def save(self, path: Path) -> None:
        """Write the table to ``path`` (.tsv) and its dictionary, with the circumstances, beside it."""
        save_tsv([{name: row.get(name) for name in _COLUMNS} for row in self._rows], path)
        circumstances = {
            "Version": __version__,
            "Python": platform.python_version(),
            "Platform": platform.platform(),
            "CPUs": len(os.sched_getaffinity(0)),
            "Threads": int(os.environ["OMP_NUM_THREADS"]) if "OMP_NUM_THREADS" in os.environ else None,
            "Command": " ".join(sys.argv),
        }
        save_json({**data_dictionary(_COLUMNS), "Circumstances": circumstances}, path.with_suffix(".json"))


@contextmanager
def _sampled_memory() -> Iterator[list[float]]:
    """Resident memory every 50 ms, MiB, as far as the Python code lets another thread run."""
    samples_mib = [_memory_mib()]
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_SAMPLE_EVERY_S):
            samples_mib.append(_memory_mib())

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield samples_mib
    finally:
        ended.set()
        sampler.join()
        samples_mib.append(_memory_mib())


def _memory_mib() -> float:
    n_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return n_pages * resource.getpagesize() / 2**20


def peak_memory_mib() -> float:
    """Most resident memory of this process, MiB, since it began, or since a ``measured`` block did."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    # A sandbox may lack the line. This one counts what the process was started from as well.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_gpu_memory_mib() -> float | None:
    """Most memory that tensors held on a GPU, MiB, since then; None where none was used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    peaks = [torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count())]
    return float(max(peaks) / 2**20)


def _forget_peak_memory() -> None:
    """Make the peak start anew, where the system can: on Linux, unless a container forbids it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")

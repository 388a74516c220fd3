"""``--resource-monitor``: time and memory of every stage of a participant, as a table under logs/."""

import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from atlasgs_bids.runtime.files import save_json, save_tsv
from atlasgs_bids.version import __version__

_SAMPLE_EVERY_S = 0.05
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


class ResourceMonitor:
    """Measures stages; ``measure`` is what Progress.watch takes."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        row: dict[str, Any] = {"stage": stage, "started": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"}
        self._rows.append(row)
        start_s, start_cpu_s, start_peak = time.perf_counter(), time.process_time(), _peak_memory_mib()
        row["outcome"] = "failed"
        with _sampled_memory() as samples_mib:
            try:
                yield
                row["outcome"] = "done"
            finally:
                peak = _peak_memory_mib()
                row |= {
                    "seconds": time.perf_counter() - start_s,
                    "cpu_seconds": time.process_time() - start_cpu_s,
                    # The kernel keeps the peak of the whole process: exact where the stage has raised it.
                    "peak_memory": peak if peak > start_peak else max(samples_mib, default=None),
                    "peak_gpu_memory": _peak_gpu_memory_mib(),
                }

    def save(self, path: Path) -> None:
        """Write the table to ``path`` (.tsv) and its dictionary, with the circumstances, beside it."""
        save_tsv([{name: row.get(name) for name in _COLUMNS} for row in self._rows], path)
        columns = {
            name: {"Description": text, **({"Units": units} if units else {})}
            for name, (text, units) in _COLUMNS.items()
        }
        circumstances = {
            "Version": __version__,
            "Python": platform.python_version(),
            "Platform": platform.platform(),
            "CPUs": len(os.sched_getaffinity(0)),
            "Threads": int(os.environ["OMP_NUM_THREADS"]) if "OMP_NUM_THREADS" in os.environ else None,
            "Command": " ".join(sys.argv),
        }
        save_json({**columns, "Circumstances": circumstances}, path.with_suffix(".json"))


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


def _peak_memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _peak_gpu_memory_mib() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    peaks = [torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count())]
    return float(max(peaks) / 2**20)

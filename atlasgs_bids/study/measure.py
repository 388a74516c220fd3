"""What a cell costs: seconds, and the most memory that was held meanwhile."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_RESET_PEAK = "5"
"""What /proc/self/clear_refs takes to make the peak resident memory start anew (Linux)."""


@dataclass
class Costs:
    seconds: float = 0.0
    peak_memory: float | None = None
    """MiB of the process, what it held before among them."""
    peak_gpu_memory: float | None = None
    """MiB of tensors; None on a CPU."""


@contextmanager
def measured(device: str) -> Iterator[Costs]:
    """The costs of the block, known when it ends."""
    costs, on_gpu = Costs(), device != "cpu"
    if on_gpu:
        import torch  # noqa: PLC0415 - loaded by whoever computes

        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    own_peak = _reset_peak()
    started = time.perf_counter()
    try:
        yield costs
    finally:
        if on_gpu:
            torch.cuda.synchronize(device)
            costs.peak_gpu_memory = torch.cuda.max_memory_allocated(device) / 2**20
        costs.seconds = time.perf_counter() - started
        costs.peak_memory = _peak_mib(own_peak)


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:  # not Linux, or a container that forbids it
        return False
    return True


def _peak_mib(own_peak: bool) -> float:
    """Peak since the last reset; since the process began where that could not be."""
    if own_peak:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

"""When a device runs out of memory: smaller chunks, then a message that says what would fit."""

import gc
import logging
import re
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.errors import AttemptError, DeviceMemoryError

logger = logging.getLogger(__name__)

BYTES_PER_PAIR = 200
"""What the reference kernel holds for each Gaussian-voxel pair of a chunk, at most; a test measures it."""
LEAST_CHUNK_ELEMENTS = 2**18
"""Below this the kernel's time goes into starting small steps, and no more than 50 MiB are left to gain."""
_STEP = 8
_CPU_MESSAGE = "DefaultCPUAllocator"
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

Result = TypeVar("Result")


def with_smaller_chunks(
    attempt: Callable[[CoreSettings], Result], settings: CoreSettings, device: str, n_gaussians: int
) -> Result:
    """``attempt(settings)``, tried again with an eighth of the chunk each time the memory runs out.

    ``n_gaussians`` is what the attempt works with, for the message. Raises DeviceMemoryError once chunks of
    LEAST_CHUNK_ELEMENTS do not fit either; other errors pass through.
    """
    while True:
        try:
            return attempt(settings)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            message = str(error)
            needed = _needed_bytes(message, device)
            # Names and lines alone: neither frames nor, read later, any source.
            where = traceback.TracebackException.from_exception(error, lookup_lines=False)
        # Outside of the handler, whose traceback would keep the attempt's tensors alive.
        _release(device)
        if settings.chunk_elements <= LEAST_CHUNK_ELEMENTS:
            explanation = _explanation(message, device, needed, n_gaussians)
            raise DeviceMemoryError(explanation) from AttemptError("".join(where.format()))
        smaller = max(LEAST_CHUNK_ELEMENTS, settings.chunk_elements // _STEP)
        logger.warning("%s: out of memory; trying again with chunks of %d pairs", device, smaller)
        settings = replace(settings, chunk_elements=smaller)


def chunk_elements_within(n_bytes: float) -> int:
    """Largest chunk, a power of two, whose pairs need at most ``n_bytes``; never below the least chunk."""
    n_pairs = max(LEAST_CHUNK_ELEMENTS, int(n_bytes / BYTES_PER_PAIR))
    return int(2 ** (n_pairs.bit_length() - 1))


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _CPU_MESSAGE in str(error)


def _release(device: str) -> None:
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _needed_bytes(message: str, device: str) -> float | None:
    """What was held when the allocation failed, and what was asked for on top of it; None: not known."""
    asked = re.search(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)", message)
    if asked is None:
        return None
    n_bytes = float(asked[1]) * _UNITS[asked[2]]
    return n_bytes + (torch.cuda.memory_allocated(device) if device.startswith("cuda") else 0)


def _explanation(message: str, device: str, needed: float | None, n_gaussians: int) -> str:
    if not device.startswith("cuda"):
        return f"out of memory with {n_gaussians} Gaussians ({message.splitlines()[0]}); {_remedy(None)}"
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    seen = f"{device} has {total / 2**30:.1f} GiB, {free / 2**30:.1f} of them free for this process"
    if needed is None:
        return f"out of memory: {seen}; {_remedy(None)}"
    fitting = int(n_gaussians * 0.9 * free / needed)
    return (
        f"out of memory: {n_gaussians} Gaussians needed at least {needed / 2**30:.1f} GiB, and {seen}; "
        f"{_remedy(fitting if fitting < n_gaussians else None)}"
    )


def _remedy(fitting: int | None) -> str:
    fewer = "fewer --n-gaussians" if fitting is None else f"--n-gaussians {fitting}, which would about fit"
    return f"use {fewer}, a smaller --nprocs, or --device cpu"

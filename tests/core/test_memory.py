"""Out of memory: real allocator failures under a limit of the system, and on a GPU where there is one."""

import gc
import json
import subprocess
import sys

import pytest
import torch

from atlasgs_bids.core.memory import (
    BYTES_PER_PAIR,
    LEAST_CHUNK_ELEMENTS,
    chunk_elements_within,
    with_smaller_chunks,
)
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.errors import DeviceMemoryError

LIMITED = """
import json, resource, sys, traceback
import torch
from atlasgs_bids.core.gaussians import project
from atlasgs_bids.core.memory import with_smaller_chunks
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.core.splat import reference

torch.set_num_threads(1)
torch.manual_seed(0)
n, side = 12_000, 64
generator = torch.Generator().manual_seed(0)
means = torch.rand(n, 3, generator=generator) * side
quaternions = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1)
projected = project(means, torch.full((n, 3), 1.6), quaternions, torch.eye(4))
residual, amplitudes = torch.rand(side, side, side), torch.rand(n)
tried = []

def attempt(settings):
    tried.append(settings.chunk_elements)
    return reference.gather(projected, amplitudes, residual, residual, settings.chunk_elements)

def bytes_now():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

attempt(CoreSettings(chunk_elements=2**12))
tried.clear()
free_bytes = float(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (bytes_now() + int(free_bytes),) * 2)
try:
    found = with_smaller_chunks(attempt, CoreSettings(chunk_elements=2**24), "cpu", n)
    print(json.dumps([tried, float(found[0].sum())]))
except Exception as error:
    print(json.dumps([tried, f"{type(error).__name__}: {error}", traceback.format_exc()]))
"""


def limited(free_bytes):
    finished = subprocess.run(
        [sys.executable, "-c", LIMITED, str(free_bytes)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_what_does_not_fit_is_tried_in_smaller_chunks():
    """The limit leaves room for chunks of 2²¹ pairs; the result is that of unlimited memory."""
    tried, found = limited(1.05 * BYTES_PER_PAIR * 2**21)
    assert tried == [2**24, 2**21]
    assert found == pytest.approx(limited(64 * 2**30)[1], rel=1e-5)


def test_what_does_not_fit_in_any_chunk_says_so():
    tried, message, crash = limited(2**20)
    assert tried == [2**24, 2**21, 2**18]
    assert message.startswith("DeviceMemoryError: out of memory with 12000 Gaussians")
    assert "fewer --n-gaussians" in message
    assert "DefaultCPUAllocator" in crash
    assert "in gather\n" in crash, "where it ran out"
    assert "During handling" not in crash, "the attempt's tensors are gone when it is raised"


def test_other_errors_pass_through():
    def broken(_settings):
        raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        with_smaller_chunks(broken, CoreSettings(), "cpu", 1)


def test_torchs_own_error_counts():
    """The one failure of a GPU's allocator that is not real here: raised as torch raises it."""
    tried = []

    def attempt(settings):
        tried.append(settings.chunk_elements)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return "done"

    assert with_smaller_chunks(attempt, CoreSettings(), "cpu", 1) == "done"
    assert tried == [2**24, 2**21]


@pytest.mark.parametrize("n_bytes", [0.0, 1e8, 3e9, 1e12])
def test_chunks_fit_into_what_they_are_given(n_bytes):
    chunk = chunk_elements_within(n_bytes)
    assert chunk == LEAST_CHUNK_ELEMENTS or chunk * BYTES_PER_PAIR <= n_bytes
    assert chunk >= LEAST_CHUNK_ELEMENTS
    assert chunk & (chunk - 1) == 0


@pytest.mark.gpu
def test_a_full_gpu_says_what_was_needed_and_what_would_fit():
    gc.collect()  # what earlier tests held
    free, _ = torch.cuda.mem_get_info("cuda:0")
    needed = 2 * free + torch.cuda.memory_allocated("cuda:0")
    tried = []

    def attempt(settings):
        tried.append(settings.chunk_elements)
        return torch.empty(2 * free, dtype=torch.uint8, device="cuda:0")

    with pytest.raises(DeviceMemoryError) as caught:
        with_smaller_chunks(attempt, CoreSettings(), "cuda:0", 1_000_000)
    assert tried == [2**24, 2**21, 2**18]
    assert f"needed at least {needed / 2**30:.1f} GiB" in str(caught.value)
    fitting = int(str(caught.value).split("--n-gaussians ")[1].split(",")[0])
    assert 400_000 < fitting < 500_000


@pytest.mark.gpu
def test_what_a_full_gpu_held_is_free_for_the_next_attempt():
    """The second attempt fits only where the first one's tensors are gone."""
    free, _ = torch.cuda.mem_get_info("cuda:0")

    def attempt(settings):
        held = torch.empty(int(0.6 * free), dtype=torch.uint8, device="cuda:0")
        if settings.chunk_elements == 2**24:
            torch.empty(int(0.6 * free), dtype=torch.uint8, device="cuda:0")
        return len(held)

    assert with_smaller_chunks(attempt, CoreSettings(), "cuda:0", 1) == int(0.6 * free)

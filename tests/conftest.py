"""Shape and type checks of the core under test, seeds, and the marker for tests that need a GPU."""

import os
import sys
import zlib
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

KERNELS = {f"atlasgs_bids.core.splat.{name}_kernels" for name in ("gram", "numba", "triton")}
KERNELS |= {"atlasgs_bids.core.priors.neighbour_kernels"}


class KernelFinder(MetaPathFinder):
    """Loads kernels as they are: neither numba nor Triton compiles a function that a checker has wrapped."""

    def find_spec(self, fullname, path=None, target=None):
        return PathFinder.find_spec(fullname, path, target) if fullname in KERNELS else None


# Before any test imports the core: modules that are already loaded stay unchecked.
install_import_hook("atlasgs_bids.core", "beartype.beartype")
sys.meta_path.insert(0, KernelFinder())


# How long an example takes says how busy the machine is, and fails no test twice.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# Where there is no GPU, Triton's interpreter runs its kernels on the CPU; read when Triton is imported.
os.environ.setdefault("TRITON_INTERPRET", "0" if Path("/dev/nvidiactl").exists() else "1")


@pytest.fixture(autouse=True)
def _drawn_by_name(request):
    """torch's random numbers follow from the test's name: a failure comes again, alone or among others.

    A test that draws without this has other numbers whenever another one is added before it.
    """
    torch = sys.modules.get("torch")  # what has not loaded it draws nothing from it
    if torch is not None:
        torch.manual_seed(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def two_gpus():
    """Two devices, the first of them the current one."""
    import torch  # noqa: PLC0415 - as below

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    with torch.cuda.device(0):
        yield "cuda:0", "cuda:1"


def pytest_collection_modifyitems(items):
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch  # noqa: PLC0415 - takes seconds, and most runs collect no GPU test

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))

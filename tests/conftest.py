"""Shape and type checks of the core under test, and the marker for tests that need a GPU."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

import pytest
from jaxtyping import install_import_hook

NUMBA_KERNELS = "atlasgs_bids.core.splat.cpu"


class KernelFinder(MetaPathFinder):
    """Loads numba's kernels as they are: numba cannot compile a function that a checker has wrapped."""

    def find_spec(self, fullname, path=None, target=None):
        return PathFinder.find_spec(fullname, path, target) if fullname == NUMBA_KERNELS else None


# Before any test imports the core: modules that are already loaded stay unchecked.
install_import_hook("atlasgs_bids.core", "beartype.beartype")
sys.meta_path.insert(0, KernelFinder())


def pytest_collection_modifyitems(items):
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch  # noqa: PLC0415 - takes seconds, and most runs collect no GPU test

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))

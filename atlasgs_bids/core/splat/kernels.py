"""The kernels for a device: numba on the CPU, Triton on a GPU in float32, the torch reference elsewhere.

Each of these modules has the functions of reference.py.
"""

import functools
import importlib.util
from types import ModuleType

import torch
from torch import Tensor

from atlasgs_bids.core.splat import reference


def kernels_for(tensor: Tensor) -> ModuleType:
    """The module whose functions take such a tensor."""
    if tensor.device.type == "cpu":
        from atlasgs_bids.core.splat import cpu  # noqa: PLC0415 - numba is loaded only where it runs

        return cpu
    if tensor.dtype == torch.float32 and _has_triton():
        from atlasgs_bids.core.splat import cuda  # noqa: PLC0415 - as Triton

        return cuda
    return reference


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None

"""Import every module of the app, and what they import late, so that Python writes their compiled files."""

import importlib
import pkgutil

import gsplat.exporter
import torch

import atlasgs_bids

for module in pkgutil.walk_packages(atlasgs_bids.__path__, "atlasgs_bids."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        # torch's CPU wheel comes without Triton, an image without the extra nipype: nothing asks for them.
        if error.name not in ("triton", "nipype"):
            raise

# The first optimiser loads torch's compiler package; the first figure, matplotlib's PNG writer.
torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()
importlib.import_module("matplotlib.backends.backend_agg")
print("compiled with", gsplat.exporter.__name__, torch.__version__)

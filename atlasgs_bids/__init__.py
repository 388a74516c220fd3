"""AtlasGS: thick-slice MRI restored at isotropic resolution from one subject's own scans.

>>> from pathlib import Path
>>> import atlasgs_bids
>>> config = atlasgs_bids.RunConfig(Path("bids"), Path("out"), "participant")
>>> config.restoration.resolution
'iso'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from atlasgs_bids.version import __version__

if TYPE_CHECKING:
    from atlasgs_bids.app.config import RunConfig
    from atlasgs_bids.app.run import run
    from atlasgs_bids.app.view_files import load_target
    from atlasgs_bids.restoration.images import Result
    from atlasgs_bids.restoration.restore import fit_scaffold, restore
    from atlasgs_bids.restoration.settings import RestorationSettings as Settings
    from atlasgs_bids.restoration.views import Slices, View

__all__ = [
    "Result",
    "RunConfig",
    "Settings",
    "Slices",
    "View",
    "__version__",
    "fit_scaffold",
    "load_target",
    "restore",
    "run",
]

_PLACES = {
    "Result": ("restoration.images", "Result"),
    "RunConfig": ("app.config", "RunConfig"),
    "Settings": ("restoration.settings", "RestorationSettings"),
    "Slices": ("restoration.views", "Slices"),
    "View": ("restoration.views", "View"),
    "fit_scaffold": ("restoration.restore", "fit_scaffold"),
    "load_target": ("app.view_files", "load_target"),
    "restore": ("restoration.restore", "restore"),
    "run": ("app.run", "run"),
}
"""Module and name in it of each public name."""


def __getattr__(name: str) -> Any:
    # Imported on first use: the command line must answer --help without loading pybids, nibabel and torch.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own_name = _PLACES[name]
    return getattr(import_module(f"{__name__}.{module}"), own_name)

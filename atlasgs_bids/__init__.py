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

__all__ = ["RunConfig", "__version__", "run"]

_PLACES = {
    "RunConfig": "app.config",
    "run": "app.run",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: the command line must answer --help without loading pybids, nibabel and torch.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)

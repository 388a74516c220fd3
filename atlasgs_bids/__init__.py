"""AtlasGS: thick-slice MRI restored at isotropic resolution from one subject's own scans.

>>> from pathlib import Path
>>> import atlasgs_bids
>>> config = atlasgs_bids.RunConfig(Path("bids"), Path("out"), "participant")
>>> config.resolution
'iso'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlasgs_bids.app.config import RunConfig
    from atlasgs_bids.app.run import run

__version__ = "0.1.0"
__all__ = ["RunConfig", "__version__", "run"]


def __getattr__(name: str) -> Any:
    # Imported on first use: the command line must answer --help without loading pybids and nibabel.
    if name == "RunConfig":
        from atlasgs_bids.app.config import RunConfig  # noqa: PLC0415

        return RunConfig
    if name == "run":
        from atlasgs_bids.app.run import run  # noqa: PLC0415

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""RunConfig: everything one invocation was asked to do, frozen and without side effects."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlasgs_bids.core.settings import CoreSettings


@dataclass(frozen=True)
class RunConfig:
    bids_dir: Path
    out_dir: Path
    """Root of the derivative dataset (``derivatives/`` already resolved to ``derivatives/atlasgs``)."""
    analysis_level: str
    """``participant`` or ``group``."""
    participant_labels: tuple[str, ...] = ()
    """Without ``sub-``; empty: all."""
    session_ids: tuple[str, ...] = ()
    """Without ``ses-``; empty: all."""
    bids_filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Query of each kind of input (``t1w``, ``flair``, ``dwi``, ...): pybids entity -> value or list."""
    derivatives: Mapping[str, Path] = field(default_factory=dict)
    """Other pipelines' results by name, such as ``fmriprep``."""
    anchor_session: str | None = None
    """Session whose T1w is the anchor of every session, without ``ses-``; None: each session's own."""
    bids_database_dir: Path | None = None
    """Where the index of each participant is kept between runs; None: nowhere."""
    skip_bids_validation: bool = False
    work_dir: Path | None = None
    """Caches and other throw-away files; None: a folder under the system's temporary directory."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:n``."""
    n_procs: int = 1
    """Participants at the same time, each in its own process; 1: all in this one, one after the other."""
    n_threads: int | None = None
    """Threads of each process; None: OMP_NUM_THREADS where it is set, else an equal share of the CPUs."""
    memory_mib: float | None = None
    """What all processes together may need, by estimate (budget.py); None: not looked at."""
    stop_on_first_crash: bool = False
    overwrite: bool = False
    reports_only: bool = False
    """Draw figures and write tables' dictionaries again from the results; fit nothing."""
    resource_monitor: bool = False
    dry_run: bool = False
    verbosity: int = 0
    registration: str = "rigid"
    """``rigid`` or ``header``."""
    prior: str = "auto"
    """``graph``, ``learned``, or ``auto``: learned for images on a GPU, graph for series and on the CPU."""
    fast: bool = False
    """A smaller network for the learned prior."""
    resolution: str | float = "iso"
    """``iso``, ``anchor`` or a voxel size in mm."""
    slice_profile: str | Path = "box"
    """``box``, ``gaussian`` or a two-column text file (offset in mm, weight)."""
    slice_thickness_mm: Mapping[str, float] = field(default_factory=dict)
    """Thickness by BIDS suffix, before that of the sidecars; ``""``: of every other target."""
    combine_stacks: str = "orthogonal"
    """Stacks of one contrast in one result: ``none``, ``orthogonal`` (no two parallel) or ``all``."""
    motion: str = "none"
    """``slice``: correct movement between the slices of a stack; ``none``."""
    scaffold: Path | None = None
    """A scaffold (npz or PLY) that is used as it is; None: one is fitted to the anchor."""
    estimate_uncertainty: bool = True
    """Beside each result of a target that is no series, how far it may be off (desc-srstd)."""
    core: CoreSettings = field(default_factory=CoreSettings)

    def given_thickness_mm(self, suffix: str) -> float | None:
        """The slice thickness that the user gave for images of a suffix."""
        return self.slice_thickness_mm.get(suffix, self.slice_thickness_mm.get(""))

    @property
    def image_prior(self) -> str:
        """The prior of a target that is no series, once ``device`` is resolved: ``graph`` or ``learned``."""
        if self.prior != "auto":
            return self.prior
        return "graph" if self.device == "cpu" else "learned"


def resolve_out_dir(out_dir: Path) -> Path:
    """Root of the derivative dataset: a folder called ``derivatives`` gets ``atlasgs`` appended.

    >>> resolve_out_dir(Path("/data/derivatives")).as_posix()
    '/data/derivatives/atlasgs'
    """
    out_dir = out_dir.absolute()
    return out_dir / "atlasgs" if out_dir.name == "derivatives" else out_dir

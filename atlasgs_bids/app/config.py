"""RunConfig: everything one invocation was asked to do, frozen and without side effects."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atlasgs_bids.bids.outputs.names import Naming
from atlasgs_bids.bids.plan.settings import PlanSettings
from atlasgs_bids.restoration.settings import RestorationSettings


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
    targets_from: str | None = None
    """The one of ``derivatives`` whose preprocessed series are restored in place of the raw ones."""
    bids_database_dir: Path | None = None
    """Where the index of each participant is kept between runs; None: nowhere."""
    skip_bids_validation: bool = False
    work_dir: Path | None = None
    """Caches and other throw-away files; None: a folder under the system's temporary directory."""
    n_procs: int = 1
    """Participants at the same time, each in its own process; 1: all in this one, one after the other."""
    memory_mib: float | None = None
    """What all processes together may need, by estimate (budget.py); None: not looked at."""
    worker: str | None = None
    """Name of the batch whose workers share the sessions of ``out_dir``; None: this run has them all."""
    stop_on_first_crash: bool = False
    overwrite: bool = False
    reports_only: bool = False
    """Draw figures and write tables' dictionaries again from the results; fit nothing."""
    export: str = "none"
    """``raw``: finished images also as a dataset that looks raw, below ``out_dir``."""
    viewer: bool = True
    """Whether pages carry a viewer."""
    resource_monitor: bool = False
    dry_run: bool = False
    verbosity: int = 0
    scaffold: Path | None = None
    """A scaffold (npz or PLY) that is used as it is; None: one is fitted to the anchor."""
    slice_profile_file: Path | None = None
    """Where ``restoration.slice_profile`` was read from, for the sidecars; None: it has a name."""
    plan: PlanSettings = field(default_factory=PlanSettings)
    restoration: RestorationSettings = field(default_factory=RestorationSettings)
    """Here ``device`` may be ``auto`` and ``n_threads`` None (OMP_NUM_THREADS where it is set, else an equal
    share of the CPUs) until the run begins."""

    def restoring(self, **changes: Any) -> "RunConfig":
        """The same run with other settings of the restoration."""
        return replace(self, restoration=replace(self.restoration, **changes))

    @property
    def naming(self) -> Naming:
        """What the names of a target's files depend on."""
        return Naming(self.out_dir, self.restoration.resolution, self.restoration.motion)


def resolve_out_dir(out_dir: Path) -> Path:
    """Root of the derivative dataset: a folder called ``derivatives`` gets ``atlasgs`` appended.

    >>> resolve_out_dir(Path("/data/derivatives")).as_posix()
    '/data/derivatives/atlasgs'
    """
    out_dir = out_dir.absolute()
    return out_dir / "atlasgs" if out_dir.name == "derivatives" else out_dir

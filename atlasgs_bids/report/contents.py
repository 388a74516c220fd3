"""What a page is drawn from: the app gathers it, the report knows no folder and no name beyond it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlasgs_bids.restoration.anchor import Anchor


@dataclass(frozen=True)
class StackFiles:
    """One acquired image of a target, and what became of it."""

    name: str
    acquired: Path
    simulated: Path
    residual: Path
    transform: Path
    """ITK text; its point map goes from the anchor to the target."""
    slice_axis: int
    """Voxel axis through the slices."""
    thickness_mm: float
    figures: Mapping[str, Path] = field(default_factory=dict)
    """PNG files that are there, by what they show: ``calibration``, ``distortion``, ``motion`` (of slices),
    ``confounds`` (movement of volumes)."""


@dataclass(frozen=True)
class TargetContents:
    """One target, finished or not."""

    label: str
    """``FLAIR``, ``acq-axial_T2w``."""
    finished: bool
    stacks: tuple[StackFiles, ...]
    result: Path
    sd: Path
    trusted: Path
    """Mask of where the result may be trusted; it need not be there, nor need the others but the result."""
    flags: Path
    """Labels of where slices and anchor disagree."""
    fov: Path
    figure: Path
    thumbnail: Path
    """Where the small picture for the group's page goes."""
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    """Of the result; empty where there is none."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Column of the metrics -> value, as text."""
    group: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Column -> the values of all images of its kind, where the group level has run."""
    volume_figures: Mapping[str, Path] = field(default_factory=dict)
    """Of a series: kind of volume -> the PNG of its mean."""
    is_series: bool = False

    @property
    def warnings(self) -> list[str]:
        """What the sidecar of the result warns of."""
        stated = self.sidecar.get("Warnings")
        return [str(text) for text in stated] if isinstance(stated, list) else []


@dataclass(frozen=True)
class Failure:
    """What could not be completed, and its crash file."""

    label: str
    """``sub-01``, ``sub-01 FLAIR``."""
    message: str
    crash_text: str = ""


@dataclass(frozen=True)
class PlanRow:
    """One image of a session, and what it is for."""

    role: str
    name: str
    details: str


@dataclass(frozen=True)
class PageContents:
    """One session of a participant: everything that its page says and shows."""

    label: str
    """``sub-01``, ``sub-01 ses-1``."""
    stem: str
    """``sub-01``, ``sub-01_ses-1``: what files that are downloaded from the page are called."""
    version: str
    written: str
    """When, in UTC."""
    command: str
    """The command line that wrote the page."""
    settings_toml: str
    """Settings that make the results again, as a configuration file."""
    plan: tuple[PlanRow, ...] = ()
    warnings: tuple[str, ...] = ()
    """Of the plan; those of a target are its own."""
    anchor: Anchor | None = None
    anchor_sidecar: Mapping[str, Any] = field(default_factory=dict)
    scaffold: Path | None = None
    """npz with the Gaussians that render the anchor."""
    scaffold_sidecar: Mapping[str, Any] = field(default_factory=dict)
    longitudinal: Mapping[str, str] = field(default_factory=dict)
    """How much of another session's anchor the scaffold explains."""
    targets: tuple[TargetContents, ...] = ()
    failures: tuple[Failure, ...] = ()
    metrics_dictionary: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    with_viewer: bool = True
    group_page: str | None = None
    """Link to the page of all participants, where there is one."""

"""StudyConfig: everything one study was asked to do. No import of torch: the command line reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

DegradationKind = Literal["paper", "box", "gaussian"]
DEGRADATIONS: tuple[DegradationKind, ...] = get_args(DegradationKind)
TARGET_SUFFIXES = ("FLAIR", "T2w", "PDw")
"""Kinds of image that a study degrades: 3-D ones."""
METHODS = (
    "cubic", "spline", "graph", "learned", "offset", "joint", "own", "inr", "inr-t1", "paper", "eclare",
)  # fmt: skip
"""What a study compares by default, in the order of its tables."""
MORE_METHODS = (
    "cubic-displaced", "offset-learned", "joint-learned", "own-learned", "fitted", "distance", "paper-color",
    "paper-profile", "paper-persistence",
)  # fmt: skip
"""Variants that are run where they are asked for."""
CalibrationKind = Literal["known", "defaults"]
CALIBRATIONS: tuple[CalibrationKind, ...] = get_args(CalibrationKind)
_AT_DEFAULTS = "-default"


def row_name(method: str, calibration: str) -> str:
    """What rows are called: ``graph`` where position and profile are told, else ``graph-default``."""
    return method if calibration == "known" else method + _AT_DEFAULTS


def method_of_row(name: str) -> tuple[str, CalibrationKind]:
    """Method and calibration of a row.

    >>> method_of_row("inr-t1-default")
    ('inr-t1', 'defaults')
    """
    method = name.removesuffix(_AT_DEFAULTS)
    return method, "known" if method == name else "defaults"


@dataclass(frozen=True)
class NetworkSettings:
    """The implicit neural representations (SIREN, Sitzmann 2020)."""

    width: int = 256
    n_hidden: int = 4
    first_frequency: float = 30.0
    """ω₀ of the first layer, for coordinates from −1 to 1 over the longest side."""
    hidden_frequency: float = 30.0
    n_steps: int = 4000
    batch: int = 8192
    """Acquired voxels of a step, and as many voxels of the T1w for ``inr-t1``."""
    anchor_weight: float = 1.0
    """Of the T1w's mean squared error beside that of the slices, each over its own bright tissue's."""
    learning_rate: float = 1e-4
    """At the start; it falls to 0 along a cosine."""


NETWORK_CPU = NetworkSettings(width=128, n_hidden=3, n_steps=1500, batch=2048, learning_rate=3e-4)
"""Minutes on two cores instead of hours."""


@dataclass(frozen=True)
class PaperSettings:
    """The published method (Gao 2026); what the publication leaves open is marked."""

    n_points: int = 100_000
    n_anchor_steps: int = 10_000
    n_target_steps: int = 10_000
    latent: int = 4
    """Channels of a Gaussian in a target; 1 and no decoder: a colour."""
    decoder_width: int = 32
    dissimilarity: float = 0.2
    """Weight of 1 − SSIM beside L1."""
    smoothness: float = 0.02
    """Weight of the mean squared difference between a Gaussian's latent and its neighbours'."""
    n_neighbours: int = 8
    """Open in the publication."""
    persistence: float = 0.0
    """Weight of the optional term on level sets: faint blobs and holes in the slices; its form is open."""
    persistence_below: float = 0.05
    """Pairs of less persistence are faint, in units of the slices' 99th percentile; open."""
    learning_rate: float = 1e-2
    """Of a target's latents and opacities, half of it for the decoder; it falls along a cosine; open."""
    n_anchor_slices: int = 4
    """Slices of a step on the T1w; open."""
    n_target_slices: int = 2
    """Thick slices of a step; open."""
    smallest_scale_vox: float = 0.3
    """Open. Thinner Gaussians fall between the pixels."""
    profile: bool = False
    """Weigh the planes of a slab by the known slice profile, and not all alike as published."""


@dataclass(frozen=True)
class StudyConfig:
    bids_dir: Path
    out_dir: Path
    participant_labels: tuple[str, ...] = ()
    """Without ``sub-``; empty: all."""
    session_ids: tuple[str, ...] = ()
    bids_filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    derivatives: Mapping[str, Path] = field(default_factory=dict)
    """Other pipelines' results by name, with masks of brain and lesions."""
    targets: tuple[str, ...] = TARGET_SUFFIXES
    factors: tuple[int, ...] = (3, 5, 7)
    axis: str = "slice"
    """Voxel axis of the T1w that slices are cut along; ``slice``: the target's own (simulation/truth.py)."""
    degradation: DegradationKind = "paper"
    in_plane_mm: float | None = None
    """Pixels of the slices, a whole number of the T1w's voxels; None: as the T1w's voxels."""
    noise_percent: float = 0.0
    """Rician noise of the slices, percent of the truth's 99th percentile in the mask."""
    motion_mm: float = 0.0
    motion_deg: float = 0.0
    """Movement of the head before the target was acquired; its direction is drawn from the seed."""
    registration: str = "header"
    """How the targets lie on the T1w: ``header`` or ``rigid``."""
    methods: tuple[str, ...] = METHODS
    calibrations: tuple[CalibrationKind, ...] = ("known",)
    """``known``: methods are told position and slice profile; ``defaults``: both are found, as by the app."""
    device: str = "auto"
    n_procs: int = 1
    """Cells at the same time, each in a process of its own."""
    n_threads: int | None = None
    overwrite: bool = False
    output: Literal["all", "cells", "tables"] = "all"
    """``cells``: no tables, for processes that share the folder; ``tables``: nothing else."""
    keep_images: bool = False
    seed: int = 0
    verbosity: int = 0
    network: NetworkSettings = field(default_factory=NetworkSettings)
    paper: PaperSettings = field(default_factory=PaperSettings)
    n_gaussians: int | None = None
    """Of the app's scaffold; None: its default."""
    scaffold_steps: int | None = None
    learned_steps: int | None = None
    """Of the learned prior's network, in all; None: what the app does on the device."""

    @property
    def network_here(self) -> NetworkSettings:
        """The settings as they were given; a smaller network where none were and the study is on a CPU."""
        return NETWORK_CPU if self.device == "cpu" and self.network == NetworkSettings() else self.network

    @property
    def simulation(self) -> dict[str, Any]:
        """What cells of one folder have to share to be compared with each other."""
        return {
            "axis": self.axis,
            "degradation": self.degradation,
            "in_plane_mm": self.in_plane_mm,
            "noise_percent": self.noise_percent,
            "motion_mm": self.motion_mm,
            "motion_deg": self.motion_deg,
            "registration": self.registration,
            "seed": self.seed,
        }

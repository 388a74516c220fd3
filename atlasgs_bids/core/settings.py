"""Settings of the numerical core; each default of the program is written here, once.

No import of torch: the command line reads its defaults from here.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

SAME_SIZE_RATIO = 1.3
"""Pixels within this factor of the anchor's voxel are like it: rendered values are means over such a voxel.
Larger ones are means of at least two cells, finer ones have Gaussians of their own (decision 0022)."""


@dataclass(frozen=True)
class ScaffoldSettings:
    """Stage 1: the Gaussians that stand for the anchor; chosen on data in decision 0019."""

    n_gaussians: int | None = None
    """Most of them; None: one for each voxel of the support, up to ``max_gaussians``."""
    max_gaussians: int = 3_000_000
    sigma_spacings: float = 0.6
    """σ of a Gaussian, in spacings of the lattice."""
    n_steps: int = 0
    """Adam steps at most that move the Gaussians; 0: they stay the lattice."""
    target_psnr_db: float = 50.0
    """PSNR of the anchor at which such steps stop."""


@dataclass(frozen=True)
class GraphSettings:
    """The graph prior (core/priors/graph.py); chosen on data in decisions 0004 and 0019."""

    n_neighbours: int = 32
    n_candidates: int = 92
    """Nearest Gaussians, among which are those along the anchor's edges; 92 are whole shells of a lattice."""
    edge_slope: float = 0.03
    """Slope across which distances count √2 times those along it, in 99th percentiles per voxel."""
    distance_scale: float = 1.2
    """σ of the weight over distance, in mean spacings of the Gaussians."""
    similarity_scale: float = 0.05
    """σ of the weight over feature distance, in units of the anchor's 99th percentile."""
    local_mean_weight: float = 2.0
    """How much the anchor's local mean (σ = 1 voxel) counts beside its amplitude."""


@dataclass(frozen=True)
class LearnedSettings:
    """The learned prior (core/priors/learned/); chosen on data in decision 0006."""

    width: int = 64
    """Channels of the network; multiples of 64 are what a GPU's matrix units like."""
    n_blocks: int = 5
    """Residual blocks of two 3×3 convolutions."""
    n_first_steps: int = 400
    """Adam steps on the acquired slices, as thick as they are."""
    n_cycles: int = 7
    """Rounds of training on the lattice, each on what the round before predicted."""
    n_cycle_steps: int = 700
    batch_voxels: int = 40_000
    window: int = 16
    """Voxels of a training window across the blurred axis; along it, windows are whole."""
    learning_rate: float = 2e-3
    over_relaxation: float = 0.7
    """How far beyond its last change a prediction is moved before the next round learns from it."""
    held_out_fraction: float = 0.05
    """Of the acquired voxels: kept from training, to measure the error on."""
    huber_delta: float = 0.2
    """Residual, in units of the target's range (5th to 95th percentile), beyond which the loss is linear."""

    @property
    def n_steps(self) -> int:
        """Adam steps in all."""
        return self.n_first_steps + self.n_cycles * self.n_cycle_steps


LEARNED_FAST = LearnedSettings(n_first_steps=300, n_cycles=3, n_cycle_steps=600)
"""A GPU, when seconds count."""
LEARNED_CPU = LearnedSettings(
    width=32, n_blocks=3, n_first_steps=200, n_cycles=2, n_cycle_steps=300, batch_voxels=20_000
)
"""A network for two cores."""


@dataclass(frozen=True)
class AppearanceSettings:
    """Stage 2: the amplitudes that are fitted to the acquired slices."""

    regularization: float | None = None
    """Weight λ of the prior; None: by cross-validation (core/regularization.py)."""
    regularization_limits: tuple[float, float] = (0.001, 0.3)
    """Of a λ that is chosen: below, only solves get longer; above, lesions fade (decisions 0004, 0021)."""
    expected_regularization: float = 0.003
    """λ on the difference from what a learned prior expects."""
    misfit_bound: float = 1.0
    """Largest misfit of the slices that such a prior may cause, over the noise."""
    specific_loss_db: float = 0.1
    """What rendering may lose against the same objective on voxels before target-specific Gaussians come."""
    specific_fraction: float = 0.3
    """Most of them, as a part of the shared ones."""
    own_gaussians: int = 5_000_000
    """Most Gaussians of a target whose pixels are finer than the anchor's voxels; 0: it has the session's."""
    n_probes: int = 2
    """Draws that the uncertainty is estimated from; the variance is then smoothed over neighbours."""
    search_tolerance: float = 1e-3
    """Relative residual at which the first solve of a search, and solves that only judge, stop."""
    tolerance: float = 1e-4
    """Relative residual at which conjugate gradients stop."""
    max_iterations: int = 200


GeometryMode = Literal["frozen", "offset", "joint", "own"]
GEOMETRY_MODES: tuple[GeometryMode, ...] = get_args(GeometryMode)


@dataclass(frozen=True)
class RelaxationSettings:
    """How far a target's Gaussians may leave the scaffold (core/geometry.py); decision 0007."""

    rotates: bool
    """Whether rotations are free, besides means and scales."""
    max_offset_mm: float
    """Length that no displacement of a mean reaches."""
    max_scale_factor: float
    """Factor up or down that no scale reaches."""
    smoothness: float
    """Penalty on moving otherwise than the neighbours that are alike in the anchor."""
    attachment: float
    """Penalty on moving at all. Both in parts of the first fit's objective (core/geometry.py)."""


@dataclass(frozen=True)
class GeometrySettings:
    """Whether the geometry of the anchor's Gaussians is that of a target as well."""

    mode: GeometryMode = "frozen"
    """``frozen``: it is; ``offset``: nearly; ``joint``: it is where the fit starts; ``own``: not at all."""
    offset: RelaxationSettings = RelaxationSettings(
        rotates=False, max_offset_mm=0.5, max_scale_factor=1.25, smoothness=10.0, attachment=0.0
    )
    joint: RelaxationSettings = RelaxationSettings(
        rotates=True, max_offset_mm=math.inf, max_scale_factor=math.inf, smoothness=1.0, attachment=0.03
    )
    regularization: float = 0.1
    """λ with which they are moved, where none is given: with a small one the amplitudes explain what a move
    would (25.7 dB at 0.1, 24.7 at 0.01, 23.9 at 0.0003 on the phantom of tests/core/test_geometry.py)."""
    n_rounds: int = 4
    """Turns of moving the Gaussians and solving for their amplitudes."""
    n_steps: int = 5
    """Adam steps of a turn."""
    learning_rate: float = 0.1
    """Per step: 0.05 mm of a mean, 0.02 of the logarithm of a scale, 0.02 of a quaternion's element."""


@dataclass(frozen=True)
class CoreSettings:
    scaffold: ScaffoldSettings = field(default_factory=ScaffoldSettings)
    graph: GraphSettings = field(default_factory=GraphSettings)
    learned: LearnedSettings = field(default_factory=LearnedSettings)
    appearance: AppearanceSettings = field(default_factory=AppearanceSettings)
    geometry: GeometrySettings = field(default_factory=GeometrySettings)
    chunk_elements: int = 2**24
    """Gaussian-voxel pairs that the reference kernel holds at once: the one number that bounds its memory."""
    seed: int = 0

"""A series once it is fitted: what its contrasts share, and the amplitudes of its volumes, in blocks."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from atlasgs_bids.core.appearance import Appearance, solve_appearance
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.uncertainty import Uncertainty
from atlasgs_bids.imaging.series import Series, SeriesKinds
from atlasgs_bids.imaging.volume_motion import SeriesMotion
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.restoration.result import TargetResult, rendered_result
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack
from atlasgs_bids.restoration.target import FittedTarget

_BLOCK_BYTES = 2**30
_MOST_TOGETHER = 16
_MOST_SAMPLES = 4


@dataclass(frozen=True)
class ContrastFit:
    """What the volumes of one contrast share."""

    regularization: float
    """λ of the graph, on a volume or on its difference from the mean."""
    mean: Tensor | None
    """(x, y, z) native slices; None: volumes are solved for as they are."""
    amplitudes: Tensor | None
    """(n,) of the mean, as the learned prior and the slices have it."""
    uncertainty: Uncertainty | None = None
    """Of the mean; None: there is none, or it was not asked for."""
    judged: tuple[Appearance, LatticeObservation] | None = None
    """A volume, or its difference from the mean, on which λ and noise were found; None: λ is known."""


@dataclass(frozen=True)
class SeriesFit:
    """The reference of a series, and all that its volumes are solved with."""

    series: Series
    kinds: SeriesKinds
    reference: FittedTarget
    contrasts: Mapping[str, ContrastFit]
    config: RestorationSettings
    placed: PlacedStack
    """The reference in its position."""
    motion: SeriesMotion | None
    """Of the volumes from there; None: they share its position."""

    @property
    def observation(self) -> LatticeObservation:
        """Of every volume that lies where the reference does, and lacks no slice."""
        return self.reference.observations[0]

    def observation_of(self, index: int) -> LatticeObservation:
        """Of one volume, where it lay, without the slices that lost their signal."""
        motion, observed = self.motion, self.observation
        if motion is None or motion.as_reference(index):
            return observed
        if not motion.at_rest(index):
            position = motion.target_from_anchor(index, self.placed.registration.target_from_anchor)
            scaffold = self.scaffold
            moved = observe_placed(self.placed.at(position), scaffold.anchor, scaffold.gaussians, self.config)
            observed = replace(moved, noise_sd=observed.noise_sd)
        weights = observed.weights.clone()
        weights.movedim(observed.slice_axis, 0)[list(motion.lost[index])] = 0.0
        return replace(observed, weights=weights)

    def _shared(self, index: int) -> Hashable:
        """What volumes that are solved together have in common."""
        alike = None if self.motion is None else (self.motion.positions[index], self.motion.lost[index])
        return self.kinds.contrasts[index], alike

    @property
    def samples(self) -> frozenset[int]:
        """A few volumes of each contrast, by which its uncertainty is spread over the image."""
        found: set[int] = set()
        for name in self.contrasts:
            indices = self.kinds.of_contrast(name)
            n = min(_MOST_SAMPLES, len(indices))
            found |= {indices[(2 * k + 1) * len(indices) // (2 * n)] for k in range(n)}
        return frozenset(found)

    @property
    def scaffold(self) -> SessionScaffold:
        """Whose Gaussians the amplitudes are of."""
        return self.reference.scaffold

    def solved(self) -> Iterator[tuple[Tensor, LatticeObservation]]:
        """(n,) of each volume in turn, and what they were solved with.

        As many neighbours of one contrast and position are solved together as a bound on memory allows.
        """
        n_elements = 6 * self.observation.splat.shape_in[0] + 3 * math.prod(self.observation.splat.shape_out)
        n_together = min(_MOST_TOGETHER, max(1, _BLOCK_BYTES // (4 * n_elements)))
        for indices in _blocks([self._shared(index) for index in range(len(self.series))], n_together):
            contrast = self.contrasts[self.kinds.contrasts[indices[0]]]
            observation = self.observation_of(indices[0])
            solved = _solve(self, observation, indices, contrast)
            for column in solved.unbind(1):
                known = contrast.amplitudes
                yield column.contiguous() if known is None else known + column, observation

    def reference_result(self) -> TargetResult:
        """The reference on the output grid, which the volumes share."""
        return rendered_result(self.reference.fit, self.scaffold, self.config)


def _solve(
    fit: SeriesFit, shared: LatticeObservation, indices: Sequence[int], contrast: ContrastFit
) -> Tensor:
    """Amplitudes (n, k) of volumes of a contrast that share their operators, less its mean's."""
    observation = replace(shared, slices=less_the_mean(fit, shared, indices, contrast))
    settings = fit.config.core.appearance
    return solve_appearance(observation, fit.scaffold.prior, contrast.regularization, settings).amplitudes


def less_the_mean(
    fit: SeriesFit, shared: LatticeObservation, indices: Sequence[int], contrast: ContrastFit
) -> Tensor:
    """Slices (x, y, z, k) of volumes of a contrast, less its mean where it has one."""
    volumes = torch.from_numpy(np.stack([fit.series.volume(index) for index in indices], axis=3))
    volumes = volumes.to(fit.config.device)
    if contrast.mean is None:
        return volumes
    mean = contrast.mean
    if shared.splat is not fit.observation.splat:  # as it would be seen in the volumes' own position
        assert contrast.amplitudes is not None
        mean = shared.slices_from_amplitudes.forward(contrast.amplitudes)
    return volumes - mean[..., None]


def _blocks(shared: Sequence[Hashable], n_together: int) -> list[list[int]]:
    """Runs of neighbouring volumes that have all of that in common, at most ``n_together`` long.

    >>> _blocks(["b0", "b0", "b0", "b1000", "b0"], 2)
    [[0, 1], [2], [3], [4]]
    """
    blocks: list[list[int]] = []
    for index, own in enumerate(shared):
        if blocks and len(blocks[-1]) < n_together and shared[blocks[-1][0]] == own:
            blocks[-1].append(index)
        else:
            blocks.append([index])
    return blocks

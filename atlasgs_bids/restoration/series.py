"""The volumes of a series -> their amplitudes, solved together in blocks, by contrast.

With the graph prior each volume is solved for as it is. With the learned prior only the mean of a contrast
meets the network, and the volumes' differences from that mean are solved for with the graph: a network is not
linear, and what volumes differ by (perfusion, direction) has to be (docs/decisions/0013-series.md).
"""

import logging
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from atlasgs_bids.core.appearance import fit_appearance, fit_expected_appearance, solve_appearance
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.expectation import ExpectedStack
from atlasgs_bids.core.uncertainty import Uncertainty
from atlasgs_bids.imaging.series import Series, SeriesKinds
from atlasgs_bids.imaging.volume_motion import SeriesMotion
from atlasgs_bids.restoration.fit import uncertainty_of
from atlasgs_bids.restoration.learning import learn_together
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.restoration.result import TargetResult, rendered_result
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack
from atlasgs_bids.restoration.target import FittedTarget, fit_target
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 2**30
_MOST_TOGETHER = 16


@dataclass(frozen=True)
class ContrastFit:
    """What the volumes of one contrast share."""

    regularization: float
    """λ of the graph, on a volume or on its difference from the mean."""
    mean: Tensor | None
    """(x, y, z) native slices; None: volumes are solved for as they are."""
    amplitudes: Tensor | None
    """(n,) of the mean, as the learned prior and the slices have it."""
    uncertainties: tuple[Uncertainty, ...] = ()
    """Of the mean and of one volume's difference from it, or of the volume; empty: not asked for."""


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


def fit_series(
    placed: PlacedStack,
    series: Series,
    kinds: SeriesKinds,
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
    motion: SeriesMotion | None = None,
) -> SeriesFit:
    """The reference volume's fit, and what is common to each contrast.

    ``placed`` holds the reference, calibrated by whoever counts what that takes; ``motion`` where the
    volumes lay from there, None: in its position.
    """
    expected = _expected_of_contrasts(placed, series, kinds, scaffold, config, progress, motion)
    shown = kinds.contrasts[kinds.reference[0]]
    # No Gaussians of the reference's own: the graph, which differences are solved with, does not know them.
    appearance = replace(config.core.appearance, specific_loss_db=math.inf, own_gaussians=0)
    reference = fit_target(
        [placed],
        scaffold,
        # Nor positions of its slices: the volumes share one observation, of a head that lies still.
        replace(config, prior="graph", motion="none", core=replace(config.core, appearance=appearance)),
        progress.under("reference"),
        [expected[shown]] if expected else None,
    )
    # What the reference chose holds for all volumes: a graph without the anchor, if that was better.
    chosen = replace(reference.scaffold, prior=reference.fit.appearance.objective.prior)
    reference = replace(reference, scaffold=chosen)
    without = SeriesFit(series, kinds, reference, {}, config, placed, motion)
    names = list(dict.fromkeys(kinds.contrasts))
    contrasts = {}
    with progress.stage("contrasts", len(names)) as advance:
        for name in names:
            fit = ContrastFit(reference.fit.appearance.regularization, None, None)
            if expected:
                fit = _with_mean(without, expected[name], progress.under(name), is_reference=name == shown)
            contrasts[name] = _judged(without, name, fit, progress.under(name))
            advance(1)
    return replace(without, contrasts=contrasts)


def _expected_of_contrasts(
    placed: PlacedStack,
    series: Series,
    kinds: SeriesKinds,
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
    motion: SeriesMotion | None,
) -> dict[str, ExpectedStack]:
    """What a network trained on the means of all contrasts expects of each; empty without one."""
    # Only where it is asked for: what it gains on series has not been shown (decision 13).
    if config.prior != "learned":
        return {}
    reference = observe_placed(placed, scaffold.anchor, scaffold.gaussians, config)
    names = list(dict.fromkeys(kinds.contrasts))
    # A mean over several positions is no image of the head.
    at_rest = {
        name: [v for v in kinds.of_contrast(name) if motion is None or motion.as_reference(v)]
        for name in names
    }
    if not all(at_rest.values()):
        logger.warning(
            "%s: no volume lies where the reference does; the graph prior is used",
            progress.led(", ".join(name for name in names if not at_rest[name])),
        )
        return {}
    means = []
    for name in names:
        data = series.mean(at_rest[name]).data
        mean = replace(reference, slices=torch.from_numpy(data).to(config.device))
        measured = fit_appearance(mean, scaffold.prior, config.core.appearance)
        means.append(replace(mean, noise_sd=measured.noise_sd))
    found = learn_together(means, scaffold, config, progress)
    return dict(zip(names, found, strict=True)) if found else {}


def _with_mean(
    fit: SeriesFit, expected: ExpectedStack, progress: Progress, *, is_reference: bool
) -> ContrastFit:
    """The mean of a contrast, fitted to its slices and to what is expected of them."""
    if is_reference:
        appearance, uncertainty = fit.reference.fit.appearance, fit.reference.fit.uncertainty
    else:
        scaffold, mean = fit.scaffold, expected.observation
        observation = replace(fit.observation, slices=mean.slices, noise_sd=mean.noise_sd)
        expectation = expected.on(observation.splat, scaffold.gaussians).expectation
        appearance = fit_expected_appearance(
            observation, scaffold.prior, [expectation], fit.config.core.appearance
        )
        uncertainty = uncertainty_of(appearance, [observation], [expectation], scaffold, fit.config, progress)
    slices, amplitudes = expected.observation.slices, appearance.amplitudes
    return ContrastFit(appearance.regularization, slices, amplitudes, _kept(uncertainty))


def _judged(fit: SeriesFit, name: str, contrast: ContrastFit, progress: Progress) -> ContrastFit:
    """With the graph's weight, and how far a volume may be off, from one of the contrast: noise differs.

    The middle one of those that lie where the reference does, if there are any.
    """
    indices, settings = fit.kinds.of_contrast(name), fit.config.core.appearance
    is_its_mean = contrast.mean is not None and len(indices) == 1
    weight = settings.regularization
    if weight is None and (is_its_mean or len(fit.kinds.contrasts) == 1):
        weight = contrast.regularization
    if weight is not None and (is_its_mean or not fit.config.estimate_uncertainty):
        return replace(contrast, regularization=weight)
    motion = fit.motion
    middle = [v for v in indices if motion is None or motion.as_reference(v)] or indices
    index = middle[len(middle) // 2]
    shared = fit.observation_of(index)
    slices = _less_the_mean(fit, shared, [index], contrast)[..., 0]
    appearance = fit_appearance(
        replace(shared, slices=slices), fit.scaffold.prior, replace(settings, regularization=weight)
    )
    measured = replace(shared, slices=slices, noise_sd=appearance.noise_sd)
    own = uncertainty_of(appearance, [measured], (), fit.scaffold, fit.config, progress)
    return replace(
        contrast,
        regularization=appearance.regularization,
        uncertainties=(*contrast.uncertainties, *_kept(own)),
    )


def _kept(uncertainty: Uncertainty | None) -> tuple[Uncertainty, ...]:
    """Without what is known of slices: a series has a mask of none of its volumes."""
    return () if uncertainty is None else (replace(uncertainty, trust=None, held_out=()),)


def _solve(
    fit: SeriesFit, shared: LatticeObservation, indices: Sequence[int], contrast: ContrastFit
) -> Tensor:
    """Amplitudes (n, k) of volumes of a contrast that share their operators, less its mean's."""
    observation = replace(shared, slices=_less_the_mean(fit, shared, indices, contrast))
    settings = fit.config.core.appearance
    return solve_appearance(observation, fit.scaffold.prior, contrast.regularization, settings).amplitudes


def _less_the_mean(
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

"""The volumes of a series -> what they are solved with, contrast by contrast (series_fit.py).

With the graph prior each volume is solved for as it is. With the learned prior only the mean of a contrast
meets the network, and the volumes' differences from that mean are solved for with the graph: a network is not
linear, and what volumes differ by (perfusion, direction) has to be (docs/decisions/0013-series.md).
"""

import logging
import math
from dataclasses import replace

import torch

from atlasgs_bids.core.appearance import fit_appearance, fit_expected_appearance
from atlasgs_bids.core.priors.expectation import ExpectedStack
from atlasgs_bids.imaging.series import Series, SeriesKinds
from atlasgs_bids.imaging.volume_motion import SeriesMotion
from atlasgs_bids.restoration.fit import uncertainty_of
from atlasgs_bids.restoration.learning import learn_together
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.series_fit import ContrastFit, SeriesFit, less_the_mean
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack
from atlasgs_bids.restoration.target import fit_target
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)


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
            contrasts[name] = _judged(without, name, fit)
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
    return ContrastFit(appearance.regularization, slices, amplitudes, uncertainty)


def _judged(fit: SeriesFit, name: str, contrast: ContrastFit) -> ContrastFit:
    """With the graph's weight, chosen on a volume of the contrast: noise differs.

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
    slices = less_the_mean(fit, shared, [index], contrast)[..., 0]
    appearance = fit_appearance(
        replace(shared, slices=slices), fit.scaffold.prior, replace(settings, regularization=weight)
    )
    return replace(contrast, regularization=appearance.regularization, judged=(appearance, shared))

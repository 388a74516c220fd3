"""How far one volume of each kind of a series may be off (docs/decisions/0039-series-error.md).

Volumes of one contrast share a map: what held-out slices of one of them say, and the noise of one. Those of
the reference's contrast have its image, so that its own held-out slices, of less noise, speak for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atlasgs_bids.core.uncertainty import Uncertainty, volume_uncertainty
from atlasgs_bids.restoration.error import ImageError, error_of
from atlasgs_bids.restoration.result import (
    TargetResult,
    rendered_volume,
    uncertain_positions,
    uncertain_profiles,
)
from atlasgs_bids.restoration.series_fit import ContrastFit, SeriesFit

Uncertainties = Sequence[Uncertainty]
"""Of images whose sum is a volume: the mean of its contrast and its difference from it, or of itself."""


def volume_uncertainties(fit: SeriesFit, samples: Mapping[str, Sequence[Tensor]]) -> dict[str, Uncertainties]:
    """Of a volume of each contrast; empty: not asked for.

    ``samples``: amplitudes (n,) of some of its volumes, on whose average errors are spread.
    """
    if fit.reference.fit.uncertainty is None:
        return {}
    found: dict[str, Uncertainties] = {}
    for name, contrast in fit.contrasts.items():
        of_mean = () if contrast.uncertainty is None else (contrast.uncertainty,)
        found[name] = (*of_mean, *_of_volume(fit, name, contrast, samples[name]))
    return found


def _of_volume(
    fit: SeriesFit, name: str, contrast: ContrastFit, samples: Sequence[Tensor]
) -> tuple[Uncertainty, ...]:
    """Of a volume, or of its difference from the mean; empty where it is the mean."""
    of_reference, reference = fit.reference.fit.uncertainty, fit.reference.fit.appearance
    if contrast.judged is None:
        return ()
    appearance, observation = contrast.judged
    assert of_reference is not None
    assert of_reference.posterior is not None
    assert appearance.noise_draw is not None
    # Between slices the posterior's variance goes as σ²/λ.
    size = (reference.regularization / appearance.regularization) ** 0.5
    posterior = size * appearance.noise_sd / reference.noise_sd * of_reference.posterior
    if contrast.mean is None and name == fit.kinds.contrasts[fit.kinds.reference[0]]:
        if of_reference.expected_sd is None:
            return (Uncertainty(posterior, None),)
        return (replace(of_reference, deviations=appearance.noise_draw[:, None]),)
    (term,) = appearance.objective.terms
    amplitudes = torch.stack(list(samples), dim=1)
    if contrast.amplitudes is not None:
        amplitudes = amplitudes - contrast.amplitudes[:, None]
    found = volume_uncertainty(
        appearance.objective,
        replace(observation, slices=term.slices, noise_sd=appearance.noise_sd),
        fit.scaffold.gaussians,
        amplitudes,
        appearance.noise_draw,
        posterior,
        fit.config.core.appearance,
    )
    return (found,)


def volume_errors(
    fit: SeriesFit,
    reference: TargetResult,
    means: Mapping[str, npt.NDArray[np.float32]],
    uncertainties: Mapping[str, Uncertainties],
) -> dict[str, ImageError]:
    """Of one volume of each kind on the reference's grid, in the series' units, the reference's kind first.

    ``means``: the restored volumes' mean of each kind, for what position and profile leave open.
    """
    of_kind = dict(zip(fit.kinds.kinds, fit.kinds.contrasts, strict=True))
    found: dict[str, ImageError] = {}
    for kind in fit.kinds.each_kind:
        name = of_kind[kind]
        if name not in found and name in uncertainties:
            found[name] = _error(uncertainties[name], means[kind], fit, reference)
    return {kind: found[of_kind[kind]] for kind in fit.kinds.each_kind if of_kind[kind] in found}


def _error(
    uncertainties: Uncertainties,
    mean: npt.NDArray[np.float32],
    fit: SeriesFit,
    reference: TargetResult,
) -> ImageError:
    """The variances of what a volume is the sum of, and once what position and profile leave open."""
    grid, inside, stacks = reference.grid, reference.inside, reference.stacks
    drawn = partial(
        rendered_volume, grid=grid, inside=inside, scaffold=fit.scaffold, config=fit.config, floor=None
    )
    error, *others = (
        error_of(
            replace(own, trust=None), drawn, mean, grid, inside, inside,
            uncertain_positions(stacks) if k == 0 else (), uncertain_profiles(stacks) if k == 0 else (),
        )
        for k, own in enumerate(uncertainties)
    )  # fmt: skip
    for other in others:
        error = error.beside(other)
    return error

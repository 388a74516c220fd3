"""The images of a series on the output grid: its volumes, and how far one of each kind may be off."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from atlasgs_bids.core.uncertainty import Uncertainty
from atlasgs_bids.restoration.error import ImageError, error_of
from atlasgs_bids.restoration.result import (
    TargetResult,
    rendered_volume,
    uncertain_positions,
    uncertain_profiles,
)
from atlasgs_bids.restoration.series import SeriesFit
from atlasgs_bids.runtime.costs import Clock


@dataclass(frozen=True)
class RestoredVolume:
    """One volume of a series, in memory until the next one is asked for."""

    index: int
    rendered: npt.NDArray[np.float32]
    """On the output grid."""
    simulated: npt.NDArray[np.float32]
    """What the model predicts for the acquired slices, native grid."""
    observed: npt.NDArray[np.bool_]
    """Native voxels that took part."""


def restored_volumes(
    fit: SeriesFit, reference: TargetResult, floor: float | None, clock: Clock
) -> Iterator[RestoredVolume]:
    """Every volume on the reference's grid, in turn: a series as float32 would fill the memory.

    None lies below ``floor``. The clock counts solving as ``appearance`` and rendering as ``render``.
    """
    solved = fit.solved()
    for index in range(len(fit.series)):
        with clock.measure("appearance"):
            amplitudes, observation = next(solved)
        with clock.measure("render"):
            rendered = rendered_volume(
                amplitudes, reference.grid, reference.inside, fit.scaffold, fit.config, floor=floor
            )
            simulated = observation.slices_from_amplitudes.forward(amplitudes).cpu().numpy()
        yield RestoredVolume(index, rendered, simulated, observation.weights.cpu().numpy() > 0)


def volume_errors(
    fit: SeriesFit, reference: TargetResult, means: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, ImageError]:
    """Of one volume of each kind on the reference's grid, in the series' units; empty: not asked for.

    Volumes of one contrast have one error, that of one of them (docs/decisions/0039-series-error.md).
    ``means``: the restored volumes' mean of each kind, for what position and profile leave open.
    """
    of_kind = dict(zip(fit.kinds.kinds, fit.kinds.contrasts, strict=True))
    kinds = {kind: of_kind[kind] for kind in fit.kinds.each_kind}
    found: dict[str, ImageError] = {}
    for kind, name in kinds.items():
        if name not in found and fit.contrasts[name].uncertainties:
            found[name] = _error(fit.contrasts[name].uncertainties, means[kind], fit, reference)
    return {kind: found[name] for kind, name in kinds.items() if name in found}


def _error(
    uncertainties: Sequence[Uncertainty],
    mean: npt.NDArray[np.float32],
    fit: SeriesFit,
    reference: TargetResult,
) -> ImageError:
    """The variances of what a volume is the sum of, position and profile once."""
    grid, inside = reference.grid, reference.inside
    drawn = partial(
        rendered_volume, grid=grid, inside=inside, scaffold=fit.scaffold, config=fit.config, floor=None
    )
    known = (uncertain_positions(reference.stacks), uncertain_profiles(reference.stacks))
    seen = reference.fov & inside
    first, *others = (
        error_of(own, drawn, mean, grid, inside, seen, *(known if own is uncertainties[0] else ((), ())))
        for own in uncertainties
    )
    for other in others:
        first = first.beside(other)
    return first

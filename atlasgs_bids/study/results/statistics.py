"""Bootstrap intervals, and paired tests with Holm's correction."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

N_RESAMPLES = 2000
LEVEL = 0.95
FEWEST_FOR_P = 5
"""Subjects: with fewer Wilcoxon's test cannot come below 0.1, and no p-value is given."""


def bootstrap_interval(
    n_units: int, statistic: Callable[[npt.NDArray[np.intp]], float], seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic over units drawn with replacement (Efron 1979).

    ``statistic`` takes the positions of the drawn units. NaN where there are fewer than 2 units.
    """
    if n_units < 2:
        return np.nan, np.nan
    return _percentiles([statistic(drawn) for drawn in _draws(n_units, seed)])


def mean_interval(values: npt.NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """The same of a mean, at once: there are many pairs of methods."""
    if len(values) < 2:
        return np.nan, np.nan
    return _percentiles(values[_draws(len(values), seed)].mean(axis=1))


def _draws(n_units: int, seed: int) -> npt.NDArray[np.intp]:
    return np.asarray(np.random.default_rng(seed).integers(0, n_units, (N_RESAMPLES, n_units)))


def _percentiles(values: Sequence[float] | npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def paired_p_value(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; 1 where nothing differs, NaN for fewer than 2 pairs.

    Exact where there are few pairs without ties: 5 pairs cannot fall below 1/16.
    """
    from scipy.stats import wilcoxon  # noqa: PLC0415 - a second

    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    difference = difference[np.isfinite(difference)]
    if len(difference) < 2:
        return np.nan
    if not difference.any():
        return 1.0
    ranked = np.abs(difference[difference != 0])
    exact = len(ranked) == len(difference) == len(np.unique(ranked)) and len(difference) <= 50
    return float(wilcoxon(difference, method="exact" if exact else "asymptotic").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p (Holm 1979): NaN stays NaN and counts as no test.

    >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    raw = np.asarray(p_values, np.float64)
    adjusted = np.full(len(raw), np.nan)
    tested = np.flatnonzero(np.isfinite(raw))
    highest = 0.0
    for rank, position in enumerate(tested[np.argsort(raw[tested], kind="stable")]):
        highest = max(highest, min(1.0, (len(tested) - rank) * raw[position]))
        adjusted[position] = highest
    return [float(p) for p in adjusted]

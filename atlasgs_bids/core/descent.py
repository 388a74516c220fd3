"""The least of a function whose gradient is better known than its value; parameters of one scale."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_FIRST_STEP = 0.3
_ENOUGH = 0.01
"""A step shorter than this in every parameter is not worth its evaluation: the search ends before it."""
_MOST_STEPS, _MOST_STALLS = 30, 2
_LONGEST_STEP = 1.0
_TINY = 1e-300
_VALUE_ERROR = 1e-4
"""Relative: what the value may rise by in a step, being known no better."""
_LEAST_CURVATURE = 0.05


@dataclass(frozen=True)
class Point:
    """Where a search is."""

    x: Array
    value: float
    gradient: Array


def as_a_whole(step: Array) -> Array:
    """The step in its direction, no longer than one in any parameter."""
    return np.asarray(step * min(1.0, _LONGEST_STEP / max(float(np.abs(step).max()), _TINY)))


def one_by_one(step: Array) -> Array:
    """Each parameter's by itself: one that is hardly known asks for a long way, and holds up no other."""
    return np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)


def descended(
    value_and_gradient: Callable[[Array], tuple[float, Array]],
    start: Array,
    inverse: Array | None = None,
    enough: float = _ENOUGH,
    most_steps: int = _MOST_STEPS,
    shortened: Callable[[Array], Array] = as_a_whole,
) -> Point:
    """Quasi-Newton steps (BFGS), short ones, halved where the value rises by more than its error.

    No line search: the value is known to a few parts in 10⁵ only, by which a search near the minimum is
    misled, while its gradient is not. ``inverse``: of the
    curvature, to step by; None: learnt on the way.
    """
    here = Point(start, *value_and_gradient(start))
    n_stalls = 0
    for _ in range(most_steps):
        if inverse is None:
            step = -_FIRST_STEP * here.gradient / max(float(np.abs(here.gradient).max()), _TINY)
        else:
            step = -inverse @ here.gradient
        step = shortened(step)
        if np.abs(step).max() < enough:
            break
        there = Point(here.x + step, *value_and_gradient(here.x + step))
        while there.value > here.value * (1 + _VALUE_ERROR) and np.abs(step).max() > enough:
            step = step / 2
            there = Point(here.x + step, *value_and_gradient(here.x + step))
        inverse = _updated(inverse, step, there.gradient - here.gradient)
        here = there
        # A step that had to be shortened to nothing has shown the curvature: the next is better, or none is.
        n_stalls += int(np.abs(step).max() < enough)
        if n_stalls == _MOST_STALLS:
            break
    return here


def _updated(inverse: Array | None, step: Array, change: Array) -> Array | None:
    """The inverse curvature with what a step showed of it (Broyden, Fletcher, Goldfarb, Shanno 1970)."""
    seen = float(step @ change)
    if seen <= 1e-6 * float(np.linalg.norm(step) * np.linalg.norm(change)):
        return inverse
    if inverse is None:
        inverse = np.eye(len(step)) * seen / float(change @ change)  # the first step shows the scale
    turned = inverse @ change
    both = np.outer(turned, step)
    along = (1 + float(change @ turned) / seen) * np.outer(step, step)
    return np.asarray(inverse + (along - both - both.T) / seen)


def positive_inverse(symmetric: Array, least: float = _LEAST_CURVATURE) -> Array:
    """The inverse, with no direction less curved than ``least`` of the most curved one.

    Differences of gradients are known to a few percent of it: less would be their error (of 4 mm, measured,
    where the position was known to 0.1).
    """
    values, vectors = np.linalg.eigh(symmetric)
    floor = least * max(float(np.abs(values).max()), _TINY)
    return np.asarray((vectors / np.maximum(values, floor)) @ vectors.T)

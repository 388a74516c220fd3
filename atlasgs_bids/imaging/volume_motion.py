"""Where the head was in each volume of a series, and which slices of it lost their signal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from atlasgs_bids.imaging.slice_motion import AT_REST, SlicePosition

_RADIUS_MM = 50.0
"""Of the sphere on which turns count as movements in the framewise displacement (Power et al. 2012)."""

_ENOUGH = 4
"""Volumes of one kind whose median says what is common to one slice of all."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SeriesMotion:
    """The movement of a head during a series, relative to its reference, in the series' world."""

    positions: tuple[SlicePosition, ...]
    """Of each volume; at rest: exactly where the reference is."""
    errors_mm: tuple[float, ...]
    """Standard error of each, mean over the head."""
    lost: tuple[tuple[int, ...], ...]
    """Slices of each volume that lost their signal."""
    centre_world: tuple[float, float, float]
    """Of the head in the reference, about which it turns, mm."""

    def at_rest(self, index: int) -> bool:
        """Whether a volume lies where the reference does."""
        return self.positions[index] == AT_REST

    def as_reference(self, index: int) -> bool:
        """Whether a volume lies there, and lacks no slice."""
        return self.at_rest(index) and not self.lost[index]

    def target_from_anchor(self, index: int, of_reference: Array) -> Array:
        """(4, 4) position of a volume from that of the reference."""
        if self.at_rest(index):
            return of_reference
        return np.asarray(self.positions[index].moved(np.array(self.centre_world)) @ of_reference)

    @property
    def moved(self) -> list[int]:
        """The volumes that lie elsewhere."""
        return [index for index in range(len(self.positions)) if not self.at_rest(index)]

    @cached_property
    def framewise_displacement_mm(self) -> tuple[float | None, ...]:
        """Σ |Δ translation| + 50 mm Σ |Δ rotation| from the volume before (Power et al. 2012)."""
        moves = np.array(
            [[*own.translation_mm, *(_RADIUS_MM * np.radians(own.rotation_deg))] for own in self.positions]
        )
        return (None, *np.abs(np.diff(moves, axis=0)).sum(1).tolist())

    @property
    def mean_displacement_mm(self) -> float:
        """Mean framewise displacement."""
        steps = [own for own in self.framewise_displacement_mm if own is not None]
        return float(np.mean(steps)) if steps else 0.0

    @property
    def n_lost(self) -> int:
        """Slices without signal, of all volumes."""
        return sum(len(slices) for slices in self.lost)


def leave_one_out(directions: Array, ridge: float) -> Array:
    """(n, n) weights W with zero diagonal: Σ_u W_vu y_u is what volume v is expected to be from the others.

    ``directions``: (n, 3) unit vectors of one shell, 0 where there is none. A constant and the five even
    harmonics of second order, the latter held to 0 by ``ridge``, are fitted to the others (Hoerl and
    Kennard 1970): with few directions, or none, it is their mean.
    """
    x, y, z = directions.T
    even = np.stack([2 * x * y, 2 * x * z, 2 * y * z, x * x - y * y, (3 * z * z - 1) / 3**0.5], axis=1)
    even[np.square(directions).sum(1) < 0.5] = 0.0
    basis = np.column_stack([np.ones(len(directions)), even])
    penalty = np.diag([0.0, *[ridge] * even.shape[1]])
    hat = basis @ np.linalg.solve(basis.T @ basis + penalty, basis.T)
    weights = hat / (1 - np.diag(hat))[:, None]
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights)


def lost_slices(
    ratios: Array, known: npt.NDArray[np.bool_], z_limit: float, least: float
) -> npt.NDArray[np.bool_]:
    """(volumes, slices) of one kind: which lost their signal.

    ``ratios``: signal over what is expected; ``known`` (volumes, slices): where enough is seen. A slice is
    compared with the median of its volume, and with that of its like in the other volumes where there are
    four; lost is what falls short of them by ``least`` or more, and by ``z_limit`` robust standard deviations
    (MAD).
    """
    if not known.any():
        return np.zeros(ratios.shape, bool)
    seen = np.ma.masked_array(ratios, ~known)
    short = 1 - seen / np.maximum(np.ma.median(seen, axis=1).filled(1.0), 1e-6)[:, None]
    if len(short) >= _ENOUGH:
        short = short - np.ma.median(short, axis=0)
    spread = 1.4826 * float(np.ma.median(np.abs(short - np.ma.median(short))))
    return np.asarray((short > max(least, z_limit * spread)).filled(fill_value=False))

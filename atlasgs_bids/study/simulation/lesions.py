"""Lesions of known place, size and slice phase, implanted into an isotropic head of two contrasts.

Each is a ball with a soft border that changes the target, the anchor (T1w) or both. Its own image is what it
changes in the target. Of a decoy, which the anchor alone shows, it is what the same would be in the target,
and of a control, which nothing shows, a bright lesion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

from atlasgs_bids.study.simulation.phantom import Image, Mask, Point, Structure

PHASES = (0.0, 0.25, 0.5, 0.75)
"""Where the centre lies between the middle of a slice (0) and that of the next, in slices."""
DIAMETERS_MM = (3.0, 4.0, 6.0, 8.0, 12.0, 20.0)
_BEYOND_BORDER_VOX = 3.0
"""How far the soft border reaches."""
_RIM_MM = 2.0
_APART_IN_PLANE_VOX = 4.0
_APART_SLICES = 2.0
"""Least gaps between two lesions: what lies between the slices reaches as far."""
_MOST_WHITE, _LEAST_WHITE = 0.95, 0.6
"""Part of a ball that is white matter: wanted, and accepted where a lesion is too large for that."""
_LEAST_WHITE_BESIDE = 0.4
_FEW = 4000
"""Places for a lesion below which the greater part of white matter will do."""
_TRIED = 20_000
_VENTRICLE_MM3 = 300.0


@dataclass(frozen=True)
class Levels:
    """Intensities of one contrast."""

    white: float
    fluid: float
    lesion: float
    """Of a bright lesion in the target, of an enhancing one in the anchor."""


@dataclass(frozen=True)
class Change:
    """What is added: so much of lesion − white, so much of fluid − white."""

    bright: float = 0.0
    fluid: float = 0.0

    def amount(self, levels: Levels) -> float:
        """In intensity units."""
        return self.bright * (levels.lesion - levels.white) + self.fluid * (levels.fluid - levels.white)


NOTHING = Change()


@dataclass(frozen=True)
class Kind:
    """What a lesion changes in each contrast; a rim is its outermost 2 mm, None: as the rest of it."""

    target: Change = NOTHING
    anchor: Change = NOTHING
    target_rim: Change | None = None
    anchor_rim: Change | None = None
    diameters_mm: tuple[float, ...] = DIAMETERS_MM
    beside_ventricle: bool = False
    """It touches a ventricle, and spares it."""

    @property
    def in_target(self) -> bool:
        return self.target != NOTHING or self.target_rim is not None


KINDS: Mapping[str, Kind] = {
    "target": Kind(target=Change(bright=1)),
    "decoy": Kind(anchor=Change(fluid=0.8)),
    "opposite": Kind(target=Change(bright=1), anchor=Change(fluid=0.5)),
    "rim": Kind(
        target=Change(bright=1),
        target_rim=Change(bright=0.7),
        anchor=Change(fluid=0.5),
        anchor_rim=Change(bright=1),
        diameters_mm=DIAMETERS_MM[2:],
    ),
    "cavity": Kind(
        target=Change(fluid=0.9),
        target_rim=Change(bright=0.6),
        anchor=Change(fluid=0.9),
        anchor_rim=NOTHING,
        diameters_mm=DIAMETERS_MM[3:],
    ),
    "dark": Kind(target=Change(bright=-0.7)),
    "microbleed": Kind(target=Change(bright=-1.0), diameters_mm=DIAMETERS_MM[:2]),
    "periventricular": Kind(target=Change(bright=1), anchor=Change(fluid=0.3), beside_ventricle=True),
    "control": Kind(),
}
SHOWN_NOWHERE = ("decoy", "control")
"""Kinds of which the target has nothing."""


@dataclass(frozen=True)
class Lesion:
    """One of a kind, at a place of the fine grid."""

    kind: str
    centre: Point
    """Voxels."""
    diameter_mm: float
    phase: float
    voxel_mm: float = 1.0

    @property
    def radius_vox(self) -> float:
        return self.diameter_mm / 2 / self.voxel_mm

    def box(self, shape: Sequence[int]) -> tuple[slice, slice, slice]:
        """Of the grid, with all that the lesion changes."""
        reach = self.radius_vox + _BEYOND_BORDER_VOX
        bounds = [
            slice(max(0, int(np.floor(c - reach))), min(n, int(np.ceil(c + reach)) + 1))
            for c, n in zip(self.centre, shape, strict=True)
        ]
        return bounds[0], bounds[1], bounds[2]

    def ball(self, shape: Sequence[int]) -> Mask:
        """Voxels of its box whose centres it holds, half a voxel of border included."""
        return self._within(shape, self.radius_vox).shell(self._box_shape(shape), 0.0, self.radius_vox + 0.5)

    def fractions(self, shape: Sequence[int]) -> tuple[Image, Image]:
        """Of each voxel of its box: what is rim, and what is inside of it."""
        box = self._box_shape(shape)
        whole = self._within(shape, self.radius_vox).fraction(box)
        inner_vox = self.radius_vox - _RIM_MM / self.voxel_mm
        core = self._within(shape, inner_vox).fraction(box) if inner_vox > 0 else np.zeros_like(whole)
        return np.maximum(whole - core, 0), core

    def _within(self, shape: Sequence[int], radius: float) -> Structure:
        i, j, k = (c - b.start for c, b in zip(self.centre, self.box(shape), strict=True))
        return Structure((i, j, k), radius)

    def _box_shape(self, shape: Sequence[int]) -> tuple[int, int, int]:
        i, j, k = (b.stop - b.start for b in self.box(shape))
        return i, j, k


@dataclass(frozen=True)
class Head:
    """Two contrasts of one head on one isotropic grid."""

    anchor: Image
    target: Image
    anchor_levels: Levels
    target_levels: Levels
    fluid: Mask
    """Where periventricular lesions end."""


@dataclass(frozen=True)
class Implanted:
    """A head with lesions, and the same without."""

    healthy: Head
    anchor: Image
    target: Image
    lesions: tuple[Lesion, ...]
    own: tuple[Image, ...] = field(repr=False)
    """Of each lesion, in its box: what it changes in the target, or what a decoy would."""


def implant(head: Head, lesions: Sequence[Lesion]) -> Implanted:
    """The head with the lesions in both of its contrasts."""
    anchor, target = head.anchor.copy(), head.target.copy()
    tissue = 1 - ndimage.gaussian_filter(head.fluid.astype(np.float32), 0.5)
    own = []
    for lesion in lesions:
        kind, box = KINDS[lesion.kind], lesion.box(head.target.shape)
        rim, core = lesion.fractions(head.target.shape)
        if kind.beside_ventricle:
            rim, core = rim * tissue[box], core * tissue[box]
        in_anchor = _changed(rim, core, kind.anchor, kind.anchor_rim, head.anchor_levels)
        in_target = _changed(rim, core, kind.target, kind.target_rim, head.target_levels)
        # A magnitude is nowhere negative.
        in_target = np.maximum(in_target, -target[box])
        anchor[box] += in_anchor
        target[box] += in_target
        would_be = Change(bright=1) if kind.anchor == NOTHING else kind.anchor
        own.append(in_target if kind.in_target else _changed(rim, core, would_be, None, head.target_levels))
    return Implanted(head, np.maximum(anchor, np.float32(0)), target, tuple(lesions), tuple(own))


def _changed(rim: Image, core: Image, inner: Change, outer: Change | None, levels: Levels) -> Image:
    of_rim = inner if outer is None else outer
    return (rim * of_rim.amount(levels) + core * inner.amount(levels)).astype(np.float32)


@dataclass(frozen=True)
class Wish:
    """A lesion before it has a place."""

    kind: str
    diameter_mm: float
    phase: float


def wishes(
    kinds: Sequence[str], diameters_mm: Sequence[float], phases: Sequence[float], rng: np.random.Generator
) -> list[Wish]:
    """One of each, the largest first, since they are the hardest to place; else in random order."""
    every = [
        Wish(*own) for own in product(kinds, diameters_mm, phases) if own[1] in KINDS[own[0]].diameters_mm
    ]
    mixed = [every[i] for i in rng.permutation(len(every))]
    return sorted(mixed, key=lambda wish: -wish.diameter_mm)


def place_lesions(
    white: Mask,
    fluid: Mask,
    wanted: Sequence[Wish],
    axis: int,
    factor: int,
    rng: np.random.Generator,
    voxel_mm: float = 1.0,
) -> tuple[Lesion, ...]:
    """Lesions apart from one another in white matter, or beside a ventricle; those without room are left out.

    Within the slices the centres lie anywhere between voxels.
    """
    beside = _beside_ventricles(fluid, white, voxel_mm)
    share: dict[float, npt.NDArray[np.floating]] = {}
    placed: list[Lesion] = []
    for wish in wanted:
        radius = wish.diameter_mm / 2 / voxel_mm
        if radius not in share:
            share[radius] = _share_of_ball(white, radius)
        if KINDS[wish.kind].beside_ventricle:
            candidates = np.argwhere(beside & (share[radius] > _LEAST_WHITE_BESIDE))
        else:
            candidates = np.argwhere(share[radius] > _MOST_WHITE)
            if len(candidates) < _FEW:
                candidates = np.argwhere(share[radius] > _LEAST_WHITE)
        candidates = candidates[rng.permutation(len(candidates))[:_TRIED]]
        between = candidates + rng.uniform(-0.5, 0.5, candidates.shape)
        centres = _at_phase(between, axis, factor, wish.phase)
        centres = centres[_fits(centres, radius, placed, white.shape, axis, factor)]
        if len(centres):
            i, j, k = (float(c) for c in rng.choice(centres))
            placed.append(Lesion(wish.kind, (i, j, k), wish.diameter_mm, wish.phase, voxel_mm))
    return tuple(placed)


def _share_of_ball(white: Mask, radius: float) -> npt.NDArray[np.floating]:
    """Part of the ball around each voxel that is white matter."""
    reach = int(np.ceil(radius))
    side = 2 * reach + 1
    ball = Structure((reach, reach, reach), radius).fraction((side, side, side))
    return np.asarray(signal.fftconvolve(white.astype(np.float32), ball / ball.sum(), mode="same"))


def _beside_ventricles(fluid: Mask, white: Mask, voxel_mm: float) -> Mask:
    """White matter within a voxel of large inner pools of fluid."""
    labels, n_pools = ndimage.label(ndimage.binary_opening(fluid, iterations=1))
    sizes = ndimage.sum_labels(np.ones_like(labels), labels, np.arange(1, n_pools + 1)) * voxel_mm**3
    pools = np.isin(labels, 1 + np.flatnonzero(sizes >= _VENTRICLE_MM3))
    return np.asarray(ndimage.binary_dilation(pools, iterations=2) & white)


def _at_phase(
    centres: npt.NDArray[np.floating], axis: int, factor: int, phase: float
) -> npt.NDArray[np.floating]:
    """(n, 3) the nearest points of that phase; slice k has its centre at (k + ½) f − ½."""
    k = np.round((centres[:, axis] + 0.5) / factor - 0.5 - phase)
    moved = centres.copy()
    moved[:, axis] = (k + 0.5 + phase) * factor - 0.5
    return moved


def _fits(
    centres: npt.NDArray[np.floating],
    radius: float,
    placed: Sequence[Lesion],
    shape: Sequence[int],
    axis: int,
    factor: int,
) -> Mask:
    """(n,) which are far enough from the lesions that have a place, and from the grid's ends."""
    margin = np.full(3, radius + _BEYOND_BORDER_VOX)
    margin[axis] += _APART_SLICES * factor
    fits = np.all((centres >= margin) & (centres <= np.array(shape) - 1 - margin), axis=1)
    for other in placed:
        offsets = centres - other.centre
        in_plane = np.linalg.norm(np.delete(offsets, axis, axis=1), axis=1)
        reach = radius + other.radius_vox
        beside = in_plane >= reach + _APART_IN_PLANE_VOX
        fits &= beside | (np.abs(offsets[:, axis]) >= reach + _APART_SLICES * factor)
    return np.asarray(fits)

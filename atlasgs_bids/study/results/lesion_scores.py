"""How true an implanted lesion is in what the slices do not fix.

Slices y = A x fix the part A⁺A x of an image; whatever restores them gets that part right, a lesion's too.
So errors are projected onto the rest, the null space: e − A⁺A e. There an image can lose a lesion, draw one
that only the T1w has, or double it, and the slices say nothing.

Scored are the image with lesions, and what the lesions did to it: with minus without, same noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from atlasgs_bids.core.acquisition import AcquisitionOperator, AxisSampling, point_sampling
from atlasgs_bids.core.solvers import conjugate_gradient
from atlasgs_bids.study.simulation.degrade import Degradation
from atlasgs_bids.study.simulation.lesions import KINDS, Implanted, Lesion

Image = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]

_TOLERANCE = 1e-6
_END_DISC_VOX = 1.5
_AROUND_VOX = 3.0
"""How far off the ball a lesion's volume is looked for, beside a slice along the axis."""
_IN_BALL = 0.25
"""Part of a slice's voxel that a ball must hold for the voxel to be the lesion's."""


@dataclass(frozen=True)
class LesionScore:
    """One lesion in one image; 1 is all of the lesion's own, in the null space unless said."""

    lesion: Lesion
    power: float
    """Sum of squares of the lesion's null space in its ball: what a mean over lesions weighs them by."""
    error: float
    """RMS of image − truth in the ball over the RMS of the lesion: anatomy, noise and lesion."""
    leak: float
    """Part of the lesion in image − truth, signed: −1 erased, +1 drawn in or doubled."""
    own_error: float
    """RMS in the ball of what is wrong by the lesion, over the lesion's: erased, drawn in, doubled 1."""
    kept: float
    """Part of the lesion in what the lesion did to the image: 1 wanted; of decoys and controls 0."""
    peak: float
    """Largest change of the image over the lesion's; not only in the null space, as what follows."""
    volume: float
    """Voxels changed by more than half the lesion's contrast, over the lesion's."""
    end_error_mm: float
    """Mean distance of its two ends along the slice axis from the true ones; NaN: it is not half as high."""
    flagged: float = math.nan
    """Part of the slices' voxels in the ball in which the program says that slices and prior disagree."""


class NullSpace:
    """What the slices of a degradation say nothing about: x − A⁺A x."""

    def __init__(self, degradation: Degradation, n_fine: int) -> None:
        self.axis, self.factor = degradation.axis, degradation.factor
        lines = Degradation(degradation.kind, 0, degradation.factor)
        weights, _ = lines.slices(np.eye(n_fine)[:, None, :], np.eye(4))
        middle = 0.5 / degradation.factor - 0.5
        self._sampling = AxisSampling(weights[:, 0, :].astype(np.float64), middle, 1 / degradation.factor)

    def acquisition(self, shape: Sequence[int]) -> AcquisitionOperator:
        """A, of images whose length along the slice axis is that of the fine grid."""
        x, y, z = (self._sampling if a == self.axis else point_sampling(n) for a, n in enumerate(shape))
        return AcquisitionOperator((x, y, z), "cpu")

    def slices(self, image: Image | Mask) -> npt.NDArray[np.float32]:
        """A x."""
        x = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
        return np.asarray(self.acquisition(image.shape).forward(x).numpy())

    def part(self, image: Image) -> npt.NDArray[np.float32]:
        """x − Aᵀ z with A Aᵀ z = A x."""
        op = self.acquisition(image.shape)
        x = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
        seen = op.forward(x)

        def apply(z: torch.Tensor) -> torch.Tensor:
            return op.forward(op.adjoint(z.reshape(seen.shape))).flatten()

        solution = conjugate_gradient(apply, seen.flatten(), tolerance=_TOLERANCE)
        return np.asarray((x - op.adjoint(solution.value.reshape(seen.shape))).numpy())


def score_lesions(
    implanted: Implanted, image: Image, without: Image, null_space: NullSpace, disagrees: Mask | None = None
) -> list[LesionScore]:
    """Each lesion in an image of the target, and in that of the same head ``without`` lesions.

    ``disagrees``: of the slices' voxels, where the program says so.
    """
    error = null_space.part(image - implanted.target)
    done = np.asarray(image - without, dtype=np.float32)
    done_null = null_space.part(done)
    flags = None if disagrees is None else disagrees.astype(np.float32)
    return [
        _score(lesion, own, (error, done, done_null), flags, null_space)
        for lesion, own in zip(implanted.lesions, implanted.own, strict=True)
    ]


def own_null_part(lesion: Lesion, own: Image, shape: Sequence[int], null_space: NullSpace) -> Image:
    """Of a lesion, on the whole grid: what an image can lose or invent of it unseen by the slices."""
    whole = np.zeros(tuple(shape), np.float32)
    whole[columns(lesion, shape, null_space.axis)] = _own_null(lesion, own, shape, null_space)[1]
    return whole


def columns(lesion: Lesion, shape: Sequence[int], axis: int) -> tuple[slice, slice, slice]:
    """The lesion's box within the slices, and all of the grid through them."""
    i, j, k = (slice(0, shape[axis]) if a == axis else b for a, b in enumerate(lesion.box(shape)))
    return i, j, k


def _own_null(
    lesion: Lesion, own: Image, shape: Sequence[int], null_space: NullSpace
) -> tuple[Image, Image, Mask]:
    """The lesion, its null space and its ball, in its columns."""
    box = lesion.box(shape)
    place = tuple(box[a] if a == null_space.axis else slice(None) for a in range(3))
    n_columns = tuple(shape[a] if a == null_space.axis else b.stop - b.start for a, b in enumerate(box))
    whole, ball = np.zeros(n_columns, np.float32), np.zeros(n_columns, dtype=bool)
    whole[place], ball[place] = own, lesion.ball(shape)
    return whole, null_space.part(whole), ball


def _score(
    lesion: Lesion,
    own: Image,
    images: tuple[Image, Image, Image],
    flags: Image | None,
    null_space: NullSpace,
) -> LesionScore:
    shape, axis = images[0].shape, null_space.axis
    place = columns(lesion, shape, axis)
    error, done, done_null = (image[place] for image in images)
    whole, null, ball = _own_null(lesion, own, shape, null_space)
    expected = null if KINDS[lesion.kind].in_target else np.zeros_like(null)
    power = float((null[ball] ** 2).sum())
    sign = 1.0 if whole.max() >= -whole.min() else -1.0
    half = 0.5 * float((sign * whole).max())
    near = _near(lesion, place, null_space)
    return LesionScore(
        lesion=lesion,
        power=power,
        error=math.sqrt(float((error[ball] ** 2).sum()) / power),
        leak=float((error * null)[ball].sum()) / power,
        own_error=math.sqrt(float(((done_null - expected)[ball] ** 2).sum()) / power),
        kept=float((done_null * null)[ball].sum()) / power,
        peak=float((sign * done)[near].max()) / (2 * half),
        volume=float((sign * done[near] > half).sum() / (sign * whole > half).sum()),
        end_error_mm=_end_error_mm(lesion, sign * done, sign * whole, half, place, axis),
        flagged=math.nan if flags is None else _flagged(flags, ball, place, null_space),
    )


def _near(lesion: Lesion, place: tuple[slice, ...], null_space: NullSpace) -> Mask:
    """Of its columns: the ball with what is around it, and a slice more at its ends."""
    lines = np.ogrid[tuple(place)]
    reach = lesion.radius_vox + _AROUND_VOX
    stretch = [null_space.factor if a == null_space.axis else 0.0 for a in range(3)]
    offsets = (
        np.maximum(np.abs(x - c) - s, 0) for x, c, s in zip(lines, lesion.centre, stretch, strict=True)
    )
    return np.asarray(sum(offset**2 for offset in offsets) <= reach**2)


def _end_error_mm(
    lesion: Lesion, done: Image, whole: Image, half: float, place: tuple[slice, ...], axis: int
) -> float:
    lines = (_axial_line(lesion, image, place, axis) for image in (done, whole))
    found, true = (_ends(line, lesion.centre[axis], half) for line in lines)
    if found is None or true is None:
        return math.nan
    return 0.5 * lesion.voxel_mm * sum(abs(a - b) for a, b in zip(found, true, strict=True))


def _axial_line(
    lesion: Lesion, image: Image, place: tuple[slice, ...], axis: int
) -> npt.NDArray[np.floating]:
    """Mean over a small disc around the lesion's axis."""
    i, j = (np.arange(p.start, p.stop) - lesion.centre[a] for a, p in enumerate(place) if a != axis)
    disc = i[:, None] ** 2 + j[None] ** 2 <= min(_END_DISC_VOX, max(1.0, lesion.radius_vox / 2)) ** 2
    return np.asarray(np.moveaxis(image, axis, 0)[:, disc].mean(axis=1))


def _ends(line: npt.NDArray[np.floating], centre: float, half: float) -> tuple[float, float] | None:
    """Where the line falls to half below and above its highest point near the centre; None: it is lower."""
    first = max(0, round(centre) - 2)
    top = first + int(np.argmax(line[first : round(centre) + 3]))
    if line[top] <= half:
        return None
    below, above = top, top
    while below > 0 and line[below] > half:
        below -= 1
    while above < len(line) - 1 and line[above] > half:
        above += 1
    low = below + (half - line[below]) / max(line[below + 1] - line[below], 1e-12)
    high = above - (half - line[above]) / max(line[above - 1] - line[above], 1e-12)
    return float(low), float(high)


def _flagged(flags: Image, ball: Mask, place: tuple[slice, ...], null_space: NullSpace) -> float:
    own = tuple(slice(None) if a == null_space.axis else place[a] for a in range(3))
    inside = null_space.slices(ball) > _IN_BALL
    return float(flags[own][inside].mean()) if inside.any() else 0.0

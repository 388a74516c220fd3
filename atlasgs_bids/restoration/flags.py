"""Where a restored image is not to be believed for a reason that can be named, and what is said of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from atlasgs_bids.core.local_shifts import LocalShifts
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.error import ImageError, places_mm, slopes_mm

CONTRADICTED, MISALIGNED = 1, 2
LABELS = {CONTRADICTED: "contradicted", MISALIGNED: "misaligned"}
"""Of the label image."""
_FARTHEST_MM = 3.0
"""From where one Newton step tells that, and no longer how far, slices lie elsewhere."""
_USUAL_PART = 0.002
"""Of the head, that is called contradicted at most where nothing is wrong (0.001 was measured)."""
_CENTRAL_MM = 10.0
"""From the head's centre, within which no side is named."""
_SIDES = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))

FloatArray = npt.NDArray[np.float32]
Point = npt.NDArray[np.float64]
Contradicting = tuple[FloatArray, Volume, npt.NDArray[np.float64]]
"""By how much each voxel of a stack contradicts, 0: not; the stack, and target_from_anchor (world, mm)."""


@dataclass(frozen=True)
class FlaggedRegion:
    """Voxels of one label that touch each other."""

    label: int
    centre_mm: Point
    """(3,) mean, anchor's world."""
    volume_mm3: float
    side: str
    """Of the head: ``left anterior``."""
    shift_mm: Point | None
    """(3,) by which the slices show it elsewhere; None: no shift is meant."""

    @property
    def place(self) -> str:
        x, y, z = self.centre_mm
        return f"{x:.0f}, {y:.0f}, {z:.0f} mm ({self.side})"


@dataclass(frozen=True)
class Flags:
    """On the output grid."""

    labels: npt.NDArray[np.uint8]
    amount: FloatArray
    """By how much the image may be off for that reason, standard deviation; 0 where nothing is flagged."""
    regions: tuple[FlaggedRegion, ...]
    """The largest first."""
    contradicted_part: float
    """Of the image's voxels."""
    asked: tuple[int, ...]
    """Labels that were looked for: of another, that there is no region says nothing."""

    def of(self, label: int) -> list[FlaggedRegion]:
        return [region for region in self.regions if region.label == label]

    def warnings(self, name: str) -> list[str]:
        """What whoever looks at the image has to know; ``name``: of the anchor.

        Small places are contradicted in nearly every scan: the labels show them, a warning would be ignored.
        """
        found = []
        regions = self.of(CONTRADICTED)
        if self.contradicted_part > _USUAL_PART:
            found.append(
                f"{_places(regions)} the slices contradict what the {name} or the image shows; the largest, "
                f"{regions[0].volume_mm3:.0f} mm³, lies at {regions[0].place}: see desc-*flags_dseg"
            )
        if regions := self.of(MISALIGNED):
            first = regions[0]
            assert first.shift_mm is not None
            found.append(
                f"{_places(regions)} the slices show the head elsewhere than the {name} has it; the largest, "
                f"{first.volume_mm3 / 1000:.0f} cm³ around {first.place}, {_shift(first.shift_mm)}: the "
                "image is not to be believed there; look for distortion or movement"
            )
        return found


def flags_of(
    contradicting: Sequence[Contradicting],
    shifts: Sequence[LocalShifts],
    image: FloatArray,
    grid: Grid,
    inside: npt.NDArray[np.bool_],
    anchor: Anchor,
) -> Flags:
    """``inside``: where the image is not set to 0. Where both are true, a region counts as misaligned."""
    labels, amount = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.float32)
    for native, acquired, target_from_anchor in contradicting:
        found = resample(Volume(native, acquired.world_from_voxel), grid, target_from_anchor, order=0)
        labels[(found > 0) & inside] = CONTRADICTED
        amount = np.maximum(amount, found)
    regions = []
    centre_mm = places_mm(anchor.volume.grid, anchor.foreground).mean(0)
    for own in shifts:
        if not own.found.any():
            continue
        cells = own.cells_of(places_mm(grid, inside))
        patches, n_regions = ndimage.label(own.found, np.ones((3, 3, 3)))
        where = patches[tuple(cells.T)]
        shown_mm = np.clip(own.shift_mm[tuple(cells.T)], -_FARTHEST_MM, _FARTHEST_MM)
        off = np.abs((shown_mm * slopes_mm(image, grid, inside)).sum(1))
        part = labels[inside]
        part[where > 0] = MISALIGNED
        labels[inside] = part
        amount[inside] = np.maximum(amount[inside], np.where(where > 0, np.nan_to_num(off), 0))
        for number in range(1, n_regions + 1):
            if not (where == number).any():
                continue
            shift = np.median(own.shift_mm[patches == number], axis=0)
            mask = np.zeros(grid.shape, bool)
            mask[inside] = where == number
            regions.append(_region(MISALIGNED, mask, grid, centre_mm, shift))
    clusters, _ = ndimage.label(labels == CONTRADICTED, np.ones((3, 3, 3)))
    for number, box in enumerate(ndimage.find_objects(clusters), start=1):
        regions.append(_region(CONTRADICTED, clusters[box] == number, grid, centre_mm, None, box))
    regions.sort(key=lambda region: -region.volume_mm3)
    share = float((labels == CONTRADICTED).sum() / max(1, inside.sum()))
    asked = tuple(label for label, seen in ((CONTRADICTED, contradicting), (MISALIGNED, shifts)) if len(seen))
    return Flags(labels, np.where(labels > 0, amount, np.float32(0)), tuple(regions), share, asked)


def with_flags(error: ImageError, flags: Flags) -> ImageError:
    """The error where something is flagged: less sure, and not trusted."""
    trust = error.trust
    if trust is not None:
        trust = replace(trust, mask=trust.mask & (flags.labels == 0))
    return replace(error, sd=np.hypot(error.sd, flags.amount), trust=trust)


def side_of(offset_mm: Point) -> str:
    """In words, from the head's centre; RAS.

    >>> side_of(np.array([-30.0, 2.0, 41.0]))
    'left superior'
    """
    words = [
        sides[int(offset > 0)]
        for offset, sides in zip(offset_mm, _SIDES, strict=True)
        if abs(offset) > _CENTRAL_MM
    ]
    return " ".join(words) or "central"


def _region(
    label: int,
    mask: npt.NDArray[np.bool_],
    grid: Grid,
    centre_mm: Point,
    shift_mm: Point | None,
    box: tuple[slice, ...] | None = None,
) -> FlaggedRegion:
    first = np.zeros(3) if box is None else np.array([part.start for part in box])
    voxels = np.argwhere(mask) + first
    place = grid.world_from_voxel[:3, :3] @ voxels.mean(0) + grid.world_from_voxel[:3, 3]
    volume_mm3 = len(voxels) * float(np.prod(voxel_sizes_mm(grid.world_from_voxel)))
    return FlaggedRegion(label, place, volume_mm3, side_of(place - centre_mm), shift_mm)


def _places(regions: Sequence[FlaggedRegion]) -> str:
    return "in one place" if len(regions) == 1 else f"in {len(regions)} places"


def _shift(shift_mm: Point) -> str:
    length = float(np.linalg.norm(shift_mm))
    axis = int(np.abs(shift_mm).argmax())
    way = _SIDES[axis][int(shift_mm[axis] > 0)]
    far = f"{length:.1f} mm" if length < _FARTHEST_MM else f"{_FARTHEST_MM:.0f} mm or more"
    return f"by {far}, {way}"

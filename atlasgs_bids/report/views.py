"""The images of a finished target as views: on the result's grid, and on the acquired slices."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.feature import canny

from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.interpolated import mean_interpolated
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.imaging.registration.itk_files import read_itk_transform
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm
from atlasgs_bids.report.contents import StackFiles, TargetContents
from atlasgs_bids.report.pictures import grey_window, in_grey
from atlasgs_bids.report.volumes import (
    COLOUR,
    MASK,
    SIGNED,
    Layer,
    View,
    box_around,
    centre_of,
    coarser,
    cropped,
    ras,
    ras_axis,
)
from atlasgs_bids.restoration.anchor import Anchor

INTERPOLATED, RESTORED, SD, TRUSTED = "interpolated", "restored", "standard deviation", "trusted"
FLAGGED = "flagged"
ACQUIRED, SIMULATED, RESIDUAL = "acquired", "simulated", "residual"
BEFORE, AFTER, EDGES = "{}, headers' position", "{}, position found", "{} edges"
"""Of the anchor, by its name."""
_MOST_VOXELS = 5_000_000
"""Of each volume on the result's grid: more than that takes more bytes and seconds than a page may."""
_MOST_PIXELS_ACROSS = 256
_HEAD_MARGIN = 2
_MOST_SAMPLES = 3
_WEAK_EDGE, _STRONG_EDGE = 12.0, 30.0
"""Steps of 256 for each pixel, about."""


@dataclass(frozen=True)
class TargetViews:
    """What can be scrolled through of one target."""

    result: View
    slices: tuple[View, ...]
    """One for each stack."""
    alignment: tuple[View, ...]


def target_views(target: TargetContents, anchor: Anchor, key: str, shrink: float = 1.0) -> TargetViews:
    """All views of a target; ``shrink``: voxels that many times as wide as they would be."""
    slices, alignment = [], []
    for number, stack in enumerate(target.stacks, start=1):
        of_slices, of_alignment = stack_views(stack, anchor, f"{key}-stack{number}", shrink)
        slices.append(of_slices)
        alignment.append(of_alignment)
    return TargetViews(result_view(target, anchor, f"{key}-result", shrink), tuple(slices), tuple(alignment))


def result_view(target: TargetContents, anchor: Anchor, key: str, shrink: float = 1.0) -> View:
    """Anchor, interpolated and restored image on the result's grid, cropped to what was seen of the head."""
    result = load_volume(target.result)
    shape = result.data.shape
    head = anchor.foreground_on(result.grid)
    seen = head & (_written(target.fov).data > 0) if target.fov.exists() else head
    box = box_around(seen, voxel_sizes_mm(result.world_from_voxel))
    whole = cropped(result, box).grid
    factor = shrink * max(1.0, (np.prod(whole.shape) / _MOST_VOXELS) ** (1 / 3))
    grid = coarser(whole, factor) if factor > 1 else whole
    order = 1 if factor > 1 else 3
    # A coarser voxel is a mean: a single sample of what is finer would alias.
    width = (factor - 1) / 2 if factor > 1 else 0.0

    def shown(volume: Volume) -> npt.NDArray[np.float32]:
        if width:
            smooth = ndimage.gaussian_filter(volume.data, width)
            volume = Volume(smooth, volume.world_from_voxel, form_code=volume.form_code)
        return resample(volume, grid, order=order)

    def shown_mask(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        own = cropped(Volume(mask.astype(np.float32), result.world_from_voxel), box)
        return resample(own, grid, order=1) >= 0.5

    stacks = [(load_volume(s.acquired), read_itk_transform(s.transform), 1.0) for s in target.stacks]
    gains = target.sidecar.get("StackGains")
    if isinstance(gains, list) and len(gains) == len(stacks):
        stacks = [(*stack[:2], float(gain)) for stack, gain in zip(stacks, gains, strict=True)]
    interpolated = mean_interpolated(stacks, grid)
    restored = shown(cropped(result, box))
    guide = shown(cropped(_on_grid(anchor.volume, result.grid), box))
    inside = shown_mask(head)
    window = grey_window(np.concatenate([interpolated[inside], restored[inside]]))
    margin = ndimage.binary_dilation(inside, iterations=_HEAD_MARGIN)
    units = f"black {window[0]:.4g}, white {window[1]:.4g}"

    def grey(image: npt.NDArray[np.float32], own: tuple[float, float]) -> npt.NDArray[np.uint8]:
        # What lies far outside the head is noise, which takes bytes and shows nothing.
        return np.where(margin, in_grey(image, own), np.uint8(0))

    layers = [
        Layer(INTERPOLATED, grey(interpolated, window), caption=units),
        Layer(RESTORED, grey(restored, window), caption=units),
        Layer(anchor.name, grey(guide, grey_window(guide[inside])), caption="its own window"),
    ]
    if target.sd.exists():
        sd = resample(cropped(_like(_written(target.sd), shape), box), grid, order=1)
        most = float(np.percentile(sd[inside], 99)) if inside.any() else 1.0
        layers.append(
            Layer(SD, grey(sd, (0.0, most or 1.0)), COLOUR, f"from 0 (dark) to {most:.4g} (bright)")
        )
    if target.trusted.exists():
        trusted = resample(cropped(_like(_written(target.trusted), shape), box), grid, order=0) > 0.5
        layers.append(Layer(TRUSTED, (inside & trusted).astype(np.uint8) * 255, MASK))
    if target.flags.exists():
        flagged = resample(cropped(_like(_written(target.flags), shape), box), grid, order=0) > 0.5
        layers.append(Layer(FLAGGED, (inside & flagged).astype(np.uint8) * 255, MASK))
    moved = _turned_layers(layers, grid, key)
    turned, affine = ras(inside, grid.world_from_voxel)
    warning = (
        ""
        if anchor.is_brain
        else "These images hold a whole head: a face may be recognised in them. Share the page as you would "
        "share the scan."
    )
    return View(key, moved, _grid(turned, affine), (2, 1, 0), centre_of(turned), warning)


def stack_views(stack: StackFiles, anchor: Anchor, key: str, shrink: float = 1.0) -> tuple[View, View]:
    """On the acquired slices: acquired, simulated, residual; and the anchor there, before and after."""
    simulated, residual = _written(stack.simulated), _written(stack.residual)
    acquired = load_volume(stack.acquired)
    seen = residual.data != 0
    if not seen.any():
        seen = simulated.data != 0
    sizes_mm = voxel_sizes_mm(acquired.world_from_voxel)
    box = list(box_around(seen, sizes_mm))
    box[stack.slice_axis] = slice(None)
    across = max(span.indices(n)[1] - span.indices(n)[0] for span, n in zip(box, seen.shape, strict=True))
    block = max(1, round(shrink * max(1.0, across / _MOST_PIXELS_ACROSS)))
    i, j, k = (1 if axis == stack.slice_axis else block for axis in range(3))

    def shown(volume: Volume) -> Volume:
        return cropped(volume, box).averaged((i, j, k))

    small = shown(acquired)
    grid = small.grid
    target_from_anchor = read_itk_transform(stack.transform)
    after = _through_slices(anchor.volume, grid, stack, np.linalg.inv(target_from_anchor).astype(np.float64))
    before = _through_slices(anchor.volume, grid, stack, np.eye(4))
    inside = shown(Volume(seen.astype(np.float32), acquired.world_from_voxel)).data > 0.5
    window = grey_window(small.data[inside])
    rest = shown(residual).data
    span = float(np.percentile(np.abs(rest[inside]), 99)) if inside.any() else 1.0
    guide_window = grey_window(after[inside])
    units = f"black {window[0]:.4g}, white {window[1]:.4g}"
    head = Volume(anchor.foreground.astype(np.float32), anchor.volume.world_from_voxel)
    in_head = resample(head, grid, np.linalg.inv(target_from_anchor), order=1) > 0.5
    edges = _edges(in_grey(after, guide_window), in_head, stack.slice_axis)
    grey_acquired = Layer(ACQUIRED, in_grey(small.data, window), caption=units)
    of_slices = [
        grey_acquired,
        Layer(SIMULATED, in_grey(shown(simulated).data, window), caption=units),
        Layer(
            RESIDUAL,
            in_grey(rest, (-(span or 1), span or 1)),
            SIGNED,
            f"black −{span:.3g}, white +{span:.3g}",
        ),
    ]
    of_alignment = [
        grey_acquired,
        Layer(AFTER.format(anchor.name), in_grey(after, guide_window)),
        Layer(BEFORE.format(anchor.name), in_grey(before, guide_window)),
        Layer(EDGES.format(anchor.name), edges, MASK),
    ]
    return (
        _turned(f"{key}-slices", of_slices, stack, grid, inside),
        _turned(f"{key}-alignment", of_alignment, stack, grid, inside),
    )


def _turned(
    key: str, layers: Sequence[Layer], stack: StackFiles, grid: Grid, inside: npt.NDArray[np.bool_]
) -> View:
    moved = _turned_layers(layers, grid, key.rpartition("-")[0])
    turned, affine = ras(inside, grid.world_from_voxel)
    plane = ras_axis(stack.slice_axis, grid.world_from_voxel)
    return View(key, moved, _grid(turned, affine), (plane,), centre_of(turned))


def _turned_layers(layers: Sequence[Layer], grid: Grid, key: str) -> tuple[Layer, ...]:
    """The layers in RAS order, each with a key of its own in the page."""
    return tuple(
        replace(
            layer,
            volume=ras(layer.volume, grid.world_from_voxel)[0],
            key=f"{key}-{re.sub('[^a-z0-9]+', '-', layer.name.lower())}",
        )
        for layer in layers
    )


def _grid(data: npt.NDArray, affine: npt.NDArray[np.float64]) -> Grid:
    i, j, k = data.shape
    return Grid((i, j, k), affine)


def _written(path: Path) -> Volume:
    """An image of ours as it is: a mask may be the same everywhere, which is wrong for an acquired image."""
    image = nib.Nifti1Image.from_filename(path)
    return Volume(image.get_fdata(dtype=np.float32), np.asarray(image.affine, dtype=np.float64))


def _on_grid(guide: Volume, grid: Grid) -> Volume:
    """The anchor on the result's grid, which mostly is its own."""
    return Volume(resample(guide, grid), grid.world_from_voxel, form_code=guide.form_code)


def _like(volume: Volume, shape: tuple[int, ...]) -> Volume:
    """A volume on the result's grid, or zeros where another run has written it on another one."""
    if volume.data.shape == shape:
        return volume
    return Volume(np.zeros(shape, np.float32), volume.world_from_voxel)


def _through_slices(
    guide: Volume, grid: Grid, stack: StackFiles, anchor_from_target: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """The anchor as slices of that thickness would show it: the mean of planes within each slice."""
    spacing_mm = voxel_sizes_mm(grid.world_from_voxel)[stack.slice_axis]
    anchor_mm = float(voxel_sizes_mm(guide.world_from_voxel).min())
    n_samples = int(np.clip(round(stack.thickness_mm / anchor_mm), 1, _MOST_SAMPLES))
    offsets = (np.arange(n_samples) + 0.5) / n_samples - 0.5
    total = np.zeros(grid.shape, np.float32)
    for offset in offsets * stack.thickness_mm / spacing_mm:
        affine = grid.world_from_voxel.copy()
        affine[:3, 3] += affine[:3, stack.slice_axis] * offset
        total += resample(guide, Grid(grid.shape, affine), anchor_from_target, order=1)
    return total / np.float32(n_samples)


def _edges(
    volume: npt.NDArray[np.uint8], inside: npt.NDArray[np.bool_], slice_axis: int
) -> npt.NDArray[np.uint8]:
    """Edges within each slice, in and around the head."""
    around = ndimage.binary_dilation(inside, iterations=_HEAD_MARGIN + 2)
    planes = [
        canny(plane.astype(np.float32), 1.2, _WEAK_EDGE, _STRONG_EDGE, mask=of_plane)
        for plane, of_plane in zip(
            np.moveaxis(volume, slice_axis, 0), np.moveaxis(around, slice_axis, 0), strict=True
        )
    ]
    return np.moveaxis(np.stack(planes), 0, slice_axis).astype(np.uint8) * 255

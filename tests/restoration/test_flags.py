"""A region that lies elsewhere is named where it is; what is flagged is not trusted, and said in words."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from atlasgs_bids.core.local_shifts import LocalShifts
from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings, ScaffoldSettings
from atlasgs_bids.imaging.displacement import centres_mm
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.error import ImageError, TrustedVoxels
from atlasgs_bids.restoration.flags import CONTRADICTED, MISALIGNED, flags_of, side_of, with_flags
from atlasgs_bids.restoration.guides import Guides
from atlasgs_bids.restoration.patches import shifts_of
from atlasgs_bids.restoration.restore import restore_stacks
from atlasgs_bids.restoration.scaffold import scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, StackInput, place
from atlasgs_bids.runtime.progress import Progress
from tests.imaging.phantom import T1W, T2W, head

SIZE_MM = 2
SETTINGS = RestorationSettings(device="cpu", registration="header", slice_profile="box")
BUMP_MM = np.array([0.0, 45.0, 10.0])
BLOCK_MM = np.array([-28.0, -20.0, 10.0])


@functools.cache
def _anchor():
    return anchor_of(head(T1W, SIZE_MM, with_scalp=False))


@functools.cache
def _guides():
    return Guides(_anchor())


def _bump(points):
    """6 mm forwards in the forehead."""
    shift = np.zeros_like(points)
    shift[:, 1] = 6 * np.exp(-((points - BUMP_MM) ** 2).sum(1) / (2 * 18.0**2))
    return shift


def _block(points):
    """2.5 mm upwards, through the slices, of a ball."""
    shift = np.zeros_like(points)
    shift[:, 2] = 2.5 / (1 + np.exp((np.linalg.norm(points - BLOCK_MM, axis=1) - 26) / 2.5))
    return shift


def _shifts(shift=None, noise: float = 1.0) -> LocalShifts:
    """Of slices of 4 mm."""
    (found,) = shifts_of([_placed(shift, noise)], _guides(), SETTINGS)
    return found


def _placed(shift=None, noise: float = 1.0, n_averaged: int = 2) -> PlacedStack:
    image = head(T2W, SIZE_MM, with_scalp=False)
    data = image.data.astype(np.float64)
    if shift is not None:
        there = centres_mm(image.grid)
        voxels = (there - shift(there) - image.world_from_voxel[:3, 3]) / SIZE_MM
        signs = np.sign(np.diag(image.world_from_voxel)[:3])
        data = ndimage.map_coordinates(data, (voxels * signs).T, order=3).reshape(data.shape)
    data = data + np.random.default_rng(0).normal(0, noise, data.shape)
    volume = Volume(data.astype(np.float32), image.world_from_voxel).averaged((1, 1, n_averaged))
    geometry = slice_geometry(volume.data.shape, volume.world_from_voxel, {}, float(n_averaged * SIZE_MM))
    return place(StackInput("slices", geometry), volume, _anchor(), SETTINGS, Progress.quiet())


def _centres(shifts: LocalShifts) -> np.ndarray:
    return shifts.first_mm + shifts.step_mm * (np.argwhere(shifts.found) + 0.5)


def test_slices_that_lie_where_they_should_are_silent() -> None:
    found = _shifts()
    assert np.isfinite(found.error_mm).sum() > 100
    assert not found.found.any()


def test_slices_that_do_not_tell_where_patches_lie_name_none() -> None:
    """Slices of 12 mm: of hundreds of patches whose steps are chance some would be named."""
    assert shifts_of([_placed(noise=10.0, n_averaged=6)], _guides(), SETTINGS) == ()


def test_movement_between_volumes_asks_nothing_else_of_an_image() -> None:
    """--motion volume is of series: in an image shifts are looked for all the same."""
    quick = CoreSettings(
        scaffold=ScaffoldSettings(n_gaussians=1500, n_steps=2),
        appearance=AppearanceSettings(regularization=0.1, max_iterations=10),
    )
    quiet = Progress.quiet()
    settings = replace(SETTINGS, core=quick, motion="volume")
    flags = restore_stacks([_placed(_bump)], scaffold_of(_anchor(), settings, quiet), settings, quiet).flags
    assert flags is not None
    assert flags.of(MISALIGNED)


@pytest.mark.parametrize(("shift", "axis"), [(_bump, 1), (_block, 2)])
def test_a_region_that_is_shifted_is_named_where_it_is(shift, axis) -> None:
    found = _shifts(shift)
    true_mm = np.linalg.norm(shift(_centres(found)), axis=1)
    assert len(true_mm) >= 2
    assert true_mm.min() > 0.5
    assert true_mm.mean() > 1.5
    told = found.shift_mm[found.found]
    assert (np.abs(told).argmax(1) == axis).mean() > 0.7
    assert np.median(told[:, axis]) > 1
    # A map that is true everywhere would name patches that lie still.
    still = np.linalg.norm(shift(found.first_mm + found.step_mm * (np.argwhere(~found.found) + 0.5)), axis=1)
    assert (still < 0.5).sum() > 50


def _flags(contradicted: np.ndarray, shifts=()):
    anchor = _anchor()
    grid = anchor.volume.grid
    amount = np.where(contradicted, 30, 0).astype(np.float32)
    stacks = [(amount, anchor.volume, np.eye(4))]
    return flags_of(stacks, shifts, anchor.volume.data, grid, anchor.foreground, anchor)


def test_what_was_not_looked_for_is_not_said_to_be_absent() -> None:
    assert _flags(np.zeros(_anchor().volume.data.shape, bool)).asked == (CONTRADICTED,)


def test_what_is_flagged_is_neither_trusted_nor_sure() -> None:
    anchor = _anchor()
    points = centres_mm(anchor.volume.grid).reshape(*anchor.volume.data.shape, 3)
    distance_mm = np.linalg.norm(points - [-30, 30, 40], axis=-1)
    ball = distance_mm < 12
    assert not _flags(distance_mm < 6).warnings("T1w"), "a small place: the labels show it"
    flags = _flags(ball)
    (region,) = flags.regions
    assert region.label == CONTRADICTED
    assert region.side == "left anterior superior"
    np.testing.assert_allclose(region.centre_mm, [-30, 30, 40], atol=2)
    assert region.volume_mm3 == pytest.approx((ball & anchor.foreground).sum() * SIZE_MM**3)
    (said,) = flags.warnings("T1w")
    assert "in one place" in said
    assert "-30, 30, 40 mm (left anterior superior)" in said.replace("-31", "-30").replace("39 mm", "40 mm")
    everywhere = TrustedVoxels(anchor.foreground, 0.05, 0.2, 30)
    error = ImageError(np.full(ball.shape, 4.0, np.float32), None, everywhere)
    flagged = with_flags(error, flags)
    assert flagged.trust is not None
    assert not flagged.trust.mask[ball].any()
    assert (flagged.trust.mask == (anchor.foreground & ~ball)).all()
    inside = ball & anchor.foreground
    np.testing.assert_allclose(flagged.sd[inside], np.hypot(4, 30), rtol=1e-6)
    assert (flagged.sd[~inside] == 4).all()


def test_a_patch_is_named_with_its_shift() -> None:
    patch = np.zeros((8, 8, 8))
    shift = np.zeros((8, 8, 8, 3))
    shift[4, 6, 4] = 0, 2.4, 0
    own = LocalShifts(np.array([-64.0, -80.0, -64.0]), 16.0, shift, patch + 0.2)
    flags = _flags(np.zeros(_anchor().volume.data.shape, bool), [own])
    (region,) = flags.of(MISALIGNED)
    assert np.linalg.norm(region.centre_mm - [8, 24, 8]) < 5
    (said,) = flags.warnings("T1w")
    assert "2.4 mm, anterior" in said
    assert flags.amount[flags.labels == MISALIGNED].max() > 0
    assert not _flags(
        np.zeros(_anchor().volume.data.shape, bool), [replace(own, error_mm=patch + 0.8)]
    ).regions


def test_sides_are_the_patients() -> None:
    assert side_of(np.array([20.0, 0, -20])) == "right inferior"
    assert side_of(np.array([-20.0, -20, 5])) == "left posterior"
    assert side_of(np.zeros(3)) == "central"

"""Volumes of a diffusion series of the phantom that move, and slices that lose their signal."""

from dataclasses import replace

import numpy as np
import pytest

from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.imaging.registration.register import apart_mm
from atlasgs_bids.imaging.series import SeriesKinds
from atlasgs_bids.imaging.slice_motion import AT_REST
from atlasgs_bids.restoration.series import fit_series
from atlasgs_bids.restoration.series_images import restored_volumes
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.volume_positions import grouped, with_motion
from atlasgs_bids.runtime.costs import Clock
from atlasgs_bids.runtime.progress import Progress
from tests.acquisitions import diffusion_series
from tests.imaging.phantom import rigid
from tests.restoration.scenes import brain_scaffold, placed_series

SIZE_MM, SPACING_MM = 6, 12.0
SETTINGS = RestorationSettings(device="cpu", estimate_uncertainty=False)
# λ is chosen on the reference, which is another image where some of its volumes moved.
ONE_WEIGHT = replace(SETTINGS.core, appearance=replace(SETTINGS.core.appearance, regularization=0.03))
QUIET = Progress.quiet()
CENTRE = np.array([0.0, -20.0, 10.0])
B_VALUES = np.array([0.0, 1000, 1000, 0, 1000, 1000])
KINDS = SeriesKinds(tuple(f"b{b:.0f}" for b in B_VALUES), tuple(f"b{b:.0f}" for b in B_VALUES), (0, 3))
_AXES = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
DIRECTIONS = np.zeros((6, 3))
DIRECTIONS[B_VALUES > 0] = _AXES / np.linalg.norm(_AXES, axis=1, keepdims=True)
MOVED = {2: rigid([3, -1, 2], [2, -1.5, 1], CENTRE), 3: rigid([-2, 2, 1], [-1, 2, 2], CENTRE)}
"""Degrees, mm."""
LOST = (4, 7)


@pytest.fixture(scope="module")
def scaffold():
    return brain_scaffold(SIZE_MM, SETTINGS)


def positions(moved):
    return np.stack([moved.get(v, np.eye(4)) for v in range(len(B_VALUES))])


def series_of(moved, noise):
    return diffusion_series(positions(moved), SPACING_MM, noise, B_VALUES, DIRECTIONS, SIZE_MM)


def looked_for(acquired, scaffold):
    series, placed = placed_series(acquired, KINDS, SPACING_MM)
    found = with_motion(placed, series, KINDS, DIRECTIONS, scaffold.guides, SETTINGS, QUIET)
    return series, placed, *found


@pytest.fixture(scope="module")
def moving(scaffold):
    return looked_for(series_of(MOVED, 1.0), scaffold)


def test_the_volumes_that_moved_are_found_and_no_other(moving, scaffold):
    _, _, reference, motion = moving
    assert motion.moved == sorted(MOVED)
    assert motion.n_lost == 0
    points = scaffold.guides.points_mm
    here = reference.registration.target_from_anchor
    for v, truth in enumerate(positions(MOVED)):
        assert apart_mm(motion.target_from_anchor(v, here), truth, points) < 0.2
    assert apart_mm(MOVED[2], np.eye(4), points) > 2


def test_the_reference_is_what_lay_still(moving):
    """The mean b0 of two positions is no image of the head: the first one is taken."""
    series, placed, reference, _ = moving
    np.testing.assert_array_equal(reference.acquired.data, series.volume(0))
    assert not np.array_equal(placed.acquired.data, series.volume(0))


@pytest.mark.parametrize("noise", [0.0, 5.0])
@pytest.mark.slow
def test_what_lies_still_stays(scaffold, noise):
    _, placed, reference, motion = looked_for(series_of({}, noise), scaffold)
    assert reference is placed
    assert motion.positions == (AT_REST,) * len(B_VALUES)
    assert motion.n_lost == 0
    assert max(motion.errors_mm) < 0.5


@pytest.mark.slow
def test_restored_where_they_lay_they_are_nearer_to_the_truth(moving, scaffold):
    series, placed, reference, motion = moving
    acquired = series_of(MOVED, 1.0)
    inside = scaffold.anchor.foreground

    def decibels(stack, known):
        fit = fit_series(stack, series, KINDS, scaffold, replace(SETTINGS, core=ONE_WEIGHT), QUIET, known)
        result = fit.reference_result()
        images = [own.rendered for own in restored_volumes(fit, result, 0.0, Clock())]
        return np.array(
            [psnr_db(truth.data, image, inside) for truth, image in zip(acquired.truth, images, strict=True)]
        )

    gained = decibels(reference, motion) - decibels(placed, None)
    print("gained, dB:", gained)
    assert gained[sorted(MOVED)].min() > 2
    assert np.delete(gained, sorted(MOVED)).min() > -0.1


@pytest.mark.slow
def test_a_slice_without_signal_is_named_and_its_harm_is_less(scaffold):
    acquired = series_of({}, 1.0)
    data = acquired.data.copy()
    data[:, :, LOST[1], LOST[0]] *= 0.3
    series, _, reference, motion = looked_for(replace(acquired, data=data), scaffold)
    assert [(v, k) for v, slices in enumerate(motion.lost) for k in slices] == [LOST]
    assert motion.moved == []

    def image(known):
        fit = fit_series(reference, series, KINDS, scaffold, SETTINGS, QUIET, known)
        return list(restored_volumes(fit, fit.reference_result(), 0.0, Clock()))[LOST[0]]

    with_it, without = image(None), image(motion)
    assert not without.observed.take(LOST[1], 2).any()
    truth, inside = acquired.truth[LOST[0]].data, scaffold.anchor.foreground
    assert psnr_db(truth, without.rendered, inside) > psnr_db(truth, with_it.rendered, inside) + 1


def test_volumes_that_cannot_be_told_apart_share_a_position():
    spread = np.eye(6)[None].repeat(5, 0) * 0.05**2
    where = np.zeros((5, 6))
    where[0, 0] = 0.05
    where[[1, 3], 0] = 2.0, 2.05
    where[2, 0] = -1.0
    groups, centres = grouped(where, spread)
    assert groups.tolist() == [0, 1, 2, 1, 0]
    np.testing.assert_allclose([own[0] for own in centres], [0.025, 2.025, -1], atol=1e-9)

"""The head in a UNIT1, whose air is as bright as tissue."""

from dataclasses import replace

import numpy as np
import pytest

from atlasgs_bids.imaging.mp2rage import silent_air
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import anchor_of
from tests.imaging.mp2rage import inversions, unit1
from tests.imaging.phantom import T1W, head

RANGE = 4095


@pytest.fixture(scope="module")
def truth():
    """Where the head is."""
    return anchor_of(head(T1W, noise=2.0)).foreground


def overlap(one, two):
    return 2 * (one & two).sum() / (one.sum() + two.sum())


def test_without_a_mask_there_is_no_head_in_it(truth):
    assert overlap(anchor_of(unit1()).foreground, truth) < 0.8


@pytest.mark.parametrize("with_magnitude", [True, False])
def test_the_head_is_found(truth, with_magnitude):
    magnitude = inversions()[1] if with_magnitude else None
    found = silent_air(unit1(), magnitude)
    anchor = anchor_of(found, name="UNIT1")
    assert overlap(anchor.foreground, truth) > 0.95
    assert anchor.exterior_is_empty
    # Tissue is left as it is.
    inside = anchor.foreground & truth
    assert np.array_equal(found.data[inside], unit1().data[inside] - unit1().data.min())


def test_a_unit1_from_minus_a_half_to_a_half_is_the_same_image():
    centred = replace(unit1(), data=unit1().data / RANGE - 0.5)
    found = silent_air(centred)
    assert found.data.min() == 0
    np.testing.assert_allclose(found.data * RANGE, silent_air(unit1()).data, atol=0.5)


def test_silent_air_stays_silent_and_a_silent_border_is_no_head(truth):
    clean = Volume(np.where(truth, unit1().data, 0), unit1().world_from_voxel)
    np.testing.assert_array_equal(silent_air(clean).data, clean.data)
    bordered = unit1().data.copy()
    bordered[:, :8] = 0
    found = anchor_of(silent_air(replace(unit1(), data=bordered))).foreground
    truth = truth.copy()
    truth[:, :8] = False
    assert overlap(found, truth) > 0.95

"""Absurd values and lost slices are found, and nothing that a scanner writes is taken for them."""

import nibabel as nib
import numpy as np
import pytest

from atlasgs_bids.imaging.nifti import load_series, load_volume, to_nifti
from atlasgs_bids.imaging.no_data import find_no_data
from atlasgs_bids.restoration.anchor import load_anchor
from tests.bids_datasets import THICK_MM, head

SPIKES = ((12, 12, 3), (13, 11, 4), (9, 14, 5))


def thick():
    return head("FLAIR", THICK_MM)


def save(path, data, affine):
    nib.save(to_nifti(data, affine, data.dtype), path)
    return path


def all_finite(data):
    return np.ones(data.shape, dtype=bool)


@pytest.mark.parametrize("suffix", ["T1w", "FLAIR", "T2w", "PDw"])
def test_an_ordinary_image_is_all_data(suffix):
    for data in (head(suffix)[0], head(suffix, THICK_MM)[0]):
        assert find_no_data(data, all_finite(data)) is None
        brain = np.where(data > 100, data, 0).astype(np.float32)
        assert find_no_data(brain, all_finite(brain)) is None


@pytest.mark.parametrize("value", [32000.0, -32000.0, 1e6, 3e38, -1e25])
def test_absurd_values_are_not_observed_and_said(tmp_path, value):
    data, affine = thick()
    for place in SPIKES:
        data[place] = value
    volume = load_volume(save(tmp_path / "spikes.nii.gz", data, affine))
    expected = np.ones(data.shape, bool)
    expected[tuple(np.transpose(SPIKES))] = False
    np.testing.assert_array_equal(volume.observed, expected)
    np.testing.assert_array_equal(volume.lost, ~expected)
    assert (volume.data[~expected] == 0).all()
    (warning,) = volume.warnings
    assert warning.startswith("spikes.nii.gz: 3 voxels with values of")
    assert "(12, 12, 3)" in warning


def test_a_spike_in_the_air_makes_no_slice_a_lost_one():
    data, _ = thick()
    padded = np.pad(np.where(data > 100, data, 0), ((3, 3), (3, 3), (3, 3))).astype(np.float32)
    padded[4, 4, 0] = 1e25
    found = find_no_data(padded, all_finite(padded))
    assert np.argwhere(found.voxels).tolist() == [[4, 4, 0]]


def test_a_bright_vessel_is_data():
    """Four times the range of the rest, as no scan that was looked at has."""
    data, _ = thick()
    data[12, 12, 2:6] = data.max() * 4
    assert find_no_data(data, all_finite(data)) is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_that_was_lost_amid_the_head(tmp_path, axis):
    data, affine = thick()
    middle = data.shape[axis] // 2
    data[tuple(middle if a == axis else slice(None) for a in range(3))] = 0
    volume = load_volume(save(tmp_path / "lost.nii.gz", data, affine))
    assert np.unique(np.argwhere(volume.lost)[:, axis]).tolist() == [middle]
    assert volume.lost.sum() == data.size / data.shape[axis]
    np.testing.assert_array_equal(volume.observed, ~volume.lost)
    assert f"along axis {axis} is constant amid the image" in volume.warnings[0]


def test_slices_at_the_end_are_lost_where_the_head_is_cut():
    data, _ = thick()
    cut = data[:, :, 2:6].copy()
    cut[:, :, -1] = 7
    found = find_no_data(cut, all_finite(cut))
    assert np.unique(np.argwhere(found.voxels)[:, 2]).tolist() == [3]


def test_air_beyond_the_head_is_data():
    data, _ = thick()
    brain = np.where(data > 100, data, 0).astype(np.float32)
    padded = np.pad(brain, ((3, 3), (3, 3), (2, 2)))
    assert find_no_data(padded, all_finite(padded)) is None


def test_a_mask_and_a_label_image_are_all_data(tmp_path):
    data, affine = thick()
    mask = load_volume(save(tmp_path / "mask.nii.gz", (data > 100).astype(np.uint8), affine))
    assert mask.observed is None
    assert mask.warnings == ()


def test_an_anchor_has_a_plausible_value_where_its_own_is_none(tmp_path):
    data, affine = head("T1w")
    data[12, 12, 12], data[2, 2, 2] = 1e25, np.nan
    anchor = load_anchor(save(tmp_path / "T1w.nii.gz", data, affine), None)
    assert 0 < anchor.volume.data[12, 12, 12] < 2000
    assert np.isfinite(anchor.volume.data).all()
    assert anchor.volume.warnings
    assert anchor.volume.observed is not None
    assert not anchor.volume.observed[2, 2, 2]


def test_a_series_leaves_out_what_is_no_data_in_any_volume(tmp_path):
    data, affine = thick()
    volumes = np.stack([data, 0.9 * data, 0.8 * data], axis=-1).astype(np.int16)
    volumes[12, 12, 3, 1] = 32000
    series = load_series(save(tmp_path / "series.nii.gz", volumes, affine))
    assert np.argwhere(~series.observed).tolist() == [[12, 12, 3]]
    assert series.warnings[0].startswith("series.nii.gz, volume 1: 1 voxels with values of 3.2e+04")
    assert series.volume(1).max() < 2000
    assert series.mean(range(3)).data.max() < 2000

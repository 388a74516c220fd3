"""The demo's dataset is what it says: geometry, contrasts, a lesion that the T1w does not show."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_mask, load_volume
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.study.results.scores import lesion_ring
from tests.validation import validator_errors

from anatomy import Lesion, make_anatomy
from compare import mean_distance_mm
from make_dataset import SUBJECTS, acquire, anchor_grid, make_dataset, target_from_anchor

VOXEL_MM, FACTOR = 4, 3
SCANS = [(subject, target) for subject in SUBJECTS for target in subject.scans]
scan_ids = [f"sub-{subject.label}-{target}" for subject, target in SCANS]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    make_dataset(root / "bids", root / "truth", VOXEL_MM, FACTOR)
    return root


def image_of(demo, subject, suffix):
    stem = f"sub-{subject.label}"
    return demo / "bids" / stem / "anat" / f"{stem}_{suffix}.nii.gz"


def truth_of(demo, subject, name):
    return load_mask(demo / "truth" / f"sub-{subject.label}" / f"{name}.nii.gz")


def test_dataset_passes_the_bids_validator(demo):
    assert validator_errors(demo / "bids") == []


def test_validator_finds_an_error_where_there_is_one(demo, tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    assert validator_errors(tmp_path)


@pytest.mark.parametrize(("subject", "target"), SCANS, ids=scan_ids)
def test_slices_are_thick_oblique_and_their_headers_consistent(demo, subject, target):
    image = nib.load(image_of(demo, subject, target))
    assert image.header.get_zooms() == pytest.approx((VOXEL_MM, VOXEL_MM, FACTOR * VOXEL_MM))
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-3)
    normal = image.affine[:3, 2] / np.linalg.norm(image.affine[:3, 2])
    obliquity_deg = np.degrees(np.arccos(np.abs(normal).max()))
    assert obliquity_deg == pytest.approx(abs(subject.scans[target].tilt_deg), abs=0.01)
    sidecar = json.loads(image_of(demo, subject, target).with_suffix("").with_suffix(".json").read_text())
    assert sidecar["SliceThickness"] == FACTOR * VOXEL_MM


def test_orientations_and_handedness_differ(demo):
    affines = [nib.load(image_of(demo, *scan)).affine for scan in SCANS]
    assert {int(np.abs(affine[:3, 2]).argmax()) for affine in affines} == {0, 1, 2}
    assert {float(np.sign(np.linalg.det(affine))) for affine in affines} == {-1.0, 1.0}


@pytest.mark.parametrize(("subject", "target"), SCANS, ids=scan_ids)
def test_acquired_slices_show_the_moved_head(demo, subject, target):
    """Truth, brought to the slices with the recorded movement, explains them; without it, it does not."""
    truth = truth_of(demo, subject, target)
    acquired = load_volume(image_of(demo, subject, target))
    fine_shape = (*acquired.data.shape[:2], acquired.data.shape[2] * FACTOR)
    slice_from_fine = np.diag([1, 1, 1 / FACTOR, 1])
    slice_from_fine[2, 3] = (1 - FACTOR) / (2 * FACTOR)
    fine = Grid(fine_shape, acquired.world_from_voxel @ slice_from_fine)
    recorded = json.loads((demo / "truth" / f"sub-{subject.label}" / "target_from_anchor.json").read_text())[
        target
    ]

    def rms_error(motion):
        predicted = resample(truth, fine, np.linalg.inv(motion))
        slices = predicted.reshape(*acquired.data.shape, FACTOR).mean(axis=-1)
        return np.sqrt(np.mean((slices - acquired.data)[acquired.data > 100] ** 2))

    assert rms_error(recorded) < 20
    assert rms_error(np.eye(4)) > 3 * rms_error(recorded)
    assert rms_error(np.linalg.inv(recorded)) > 3 * rms_error(recorded)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: f"sub-{subject.label}")
def test_head_moved_by_a_few_millimetres(demo, subject):
    brain = truth_of(demo, subject, "brain")
    for scan in subject.scans.values():
        distance_mm = mean_distance_mm(
            target_from_anchor(scan), np.eye(4), brain.data > 0.5, brain.world_from_voxel
        )
        assert 2 < distance_mm < 6


def test_lesion_changes_the_targets_and_not_the_t1w():
    lesion = SUBJECTS[0].lesion
    moved = Lesion((25.0, 14.0, 22.0), lesion.radii_mm)
    here, there = (make_anatomy(each, VOXEL_MM, seed=1).coefficients for each in (lesion, moved))
    np.testing.assert_array_equal(here["T1w"], there["T1w"])
    assert not np.allclose(here["FLAIR"], there["FLAIR"])
    assert not np.allclose(here["T2w"], there["T2w"])


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: f"sub-{subject.label}")
def test_contrasts_are_those_of_the_sequences(demo, subject):
    brain, lesion_fraction = truth_of(demo, subject, "brain"), truth_of(demo, subject, "lesion")
    lesion = lesion_fraction.data > 0.5
    ring = lesion_ring(lesion, brain.data > 0.5, brain.world_from_voxel)
    t1w = load_volume(image_of(demo, subject, "T1w")).data
    fluid = (t1w < 350) & (brain.data > 0.95)
    white = (t1w > 800) & (brain.data > 0.95) & ~lesion
    flair, t2w = truth_of(demo, subject, "FLAIR").data, truth_of(demo, subject, "T2w").data

    assert flair[fluid].mean() < 0.6 * flair[white].mean()
    assert t2w[fluid].mean() > 1.4 * t2w[white].mean()
    assert flair[lesion].mean() > 1.4 * flair[ring].mean()
    assert t2w[lesion].mean() > 1.3 * t2w[ring].mean()
    assert abs(t1w[lesion].mean() / t1w[ring].mean() - 1) < 0.15


@pytest.mark.parametrize("target", ["FLAIR", "T2w"])
def test_target_is_no_function_of_the_t1w_alone(demo, target):
    """The best function of the T1w's intensity (its mean in 100 bins) leaves far more than the noise."""
    inside = truth_of(demo, SUBJECTS[0], "brain").data > 0.95
    t1w = load_volume(image_of(demo, SUBJECTS[0], "T1w")).data[inside]
    values = truth_of(demo, SUBJECTS[0], target).data[inside]
    bins = np.digitize(t1w, np.quantile(t1w, np.linspace(0, 1, 101)[1:-1]))
    best = np.array([values[bins == each].mean() for each in range(100)])[bins]
    assert 0.1 < np.var(values - best) / np.var(values) < 0.95


def test_subjects_differ_in_shape():
    shape, world_from_voxel = anchor_grid(VOXEL_MM)
    brains = [
        make_anatomy(subject.lesion, VOXEL_MM, subject.seed).sample(
            "brain", shape, world_from_voxel, np.eye(4)
        )
        > 0.5
        for subject in SUBJECTS
    ]
    overlap = (brains[0] & brains[1]).sum() / (brains[0] | brains[1]).sum()
    assert 0.75 < overlap < 0.97


def test_a_still_head_seen_by_unit_slices_is_the_truth():
    """Two ways to one image: the anchor's grid, and an acquisition without tilt, movement or thickness."""
    subject = SUBJECTS[0]
    anatomy = make_anatomy(subject.lesion, VOXEL_MM, subject.seed)
    still = dataclasses.replace(
        subject.scans["FLAIR"], tilt_deg=0, head_rotation_deg=(0, 0, 0), head_translation_mm=(0, 0, 0)
    )
    slices, world_from_slices = acquire(anatomy, "FLAIR", still, VOXEL_MM, factor=1)
    shape, world_from_anchor = anchor_grid(VOXEL_MM)
    truth = anatomy.sample("FLAIR", shape, world_from_anchor, np.eye(4))
    seen = resample(Volume(slices, world_from_slices), Grid(shape, world_from_anchor))
    assert np.corrcoef(seen.ravel(), truth.ravel())[0, 1] > 0.98


def test_the_example_restores_the_demos_flair_from_python(demo, tmp_path):
    example = Path(__file__).parents[1] / "examples" / "restore_in_python.py"
    images = [image_of(demo, SUBJECTS[0], suffix) for suffix in ("T1w", "FLAIR")]
    finished = subprocess.run(
        [sys.executable, example, *images, tmp_path / "restored.nii.gz"],
        capture_output=True, text=True, check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "an oblique plane of" in finished.stdout
    restored, truth = nib.load(tmp_path / "restored.nii.gz"), truth_of(demo, SUBJECTS[0], "FLAIR")
    brain = truth_of(demo, SUBJECTS[0], "brain").data > 0.5
    acquired = load_volume(images[1])
    moved = np.array(json.loads((demo / "truth/sub-01/target_from_anchor.json").read_text())["FLAIR"])
    cubic = resample(acquired, truth.grid, moved)  # at the true position, which the example has to find
    rms, rms_cubic = (
        np.sqrt(np.mean((image - truth.data)[brain] ** 2)) for image in (restored.get_fdata(), cubic)
    )
    assert rms < 0.8 * rms_cubic

"""A displaced DWI through the real command: fields, figure and metrics; and a sidecar that names no axis."""

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from atlasgs_bids.app.stacks import stack_input
from atlasgs_bids.bids.images import ImageFile
from atlasgs_bids.bids.plan.targets import StackPlan
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.displacement import read_displacement
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.files import load_tsv
from tests.bids_datasets import Dataset
from tests.imaging.phantom import T1W, head
from tests.restoration.test_distortion import SIZE_MM, acquired, shift_mm
from tests.validation import validator_errors


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    root = tmp_path_factory.mktemp("distortion")
    dataset = Dataset.create(root / "bids")
    anchor, b0 = head(T1W, SIZE_MM, with_scalp=False), acquired(displaced=True)
    dataset.add("01", "T1w", data=anchor.data, world_from_voxel=anchor.world_from_voxel)
    series = np.stack([b0.data, 0.5 * b0.data], axis=3)
    directions = np.array([[0.0, 0, 0], [1, 0, 0]])
    dataset.add_diffusion("01", series, b0.world_from_voxel, np.array([0.0, 1000]), directions)
    command = [sys.executable, "-m", "atlasgs_bids", root / "bids", root / "out", "participant"]
    options = ["--registration", "deformable", "--device", "cpu", "--regularization", "0.1", "--no-viewer"]
    done = subprocess.run(
        [*command, *options, "--slice-profile", "box"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return root / "out"


@pytest.mark.slow
def test_fields_lead_to_the_slices_and_back(out):
    there, back = (
        read_displacement(out / "sub-01/dwi" / f"sub-01_{name}_mode-image_desc-deformable_xfm.nii.gz")
        for name in ("from-dwi_to-T1w", "from-T1w_to-dwi")
    )
    points = np.array([[0.0, 40, 10], [10, 30, 15], [-15, 20, 5], [5, -40, 20]])
    seen = points + there.at(points)
    assert np.abs(seen[:, 1] - points[:, 1] - shift_mm(points)).max() < 3
    np.testing.assert_allclose(seen + back.at(seen), points, atol=0.2)


@pytest.mark.slow
def test_figure_and_metrics_tell_of_it(out):
    assert len(list((out / "sub-01/figures").glob("*_desc-distortion_dwi.png"))) == 1
    (row,) = load_tsv(out / "sub-01/dwi/sub-01_mod-dwi_space-T1w_res-iso_desc-sr_metrics.tsv")
    assert row["registration_method"] == "deformable"
    assert 0.2 < float(row["distortion_mean"]) < 2
    assert 3 < float(row["distortion_max"]) < 8
    assert row["distortion_gain"] == "n/a"
    assert validator_errors(out) == []


@pytest.mark.slow
def test_the_result_is_not_displaced(out):
    """The b0's edges lie where the T1w has them: where fluid is, it is bright."""
    result = nib.load(out / "sub-01/dwi/sub-01_space-T1w_res-iso_desc-sr_dwi.nii.gz").get_fdata()[..., 0]
    simulated = nib.load(out / "sub-01/dwi/sub-01_desc-simulated_dwi.nii.gz").get_fdata()[..., 0]
    truth = head((65, 45, 120, 0), SIZE_MM).data
    displaced = acquired(displaced=True).data
    inside = (head(T1W, SIZE_MM, with_scalp=False).data > 30) & (shift_mm(_points(truth.shape)) > 3)
    assert np.corrcoef(result[inside], truth[inside])[0, 1] > 0.85
    assert np.corrcoef(simulated.ravel(), displaced.ravel())[0, 1] > 0.95


def _points(shape):
    affine = head(T1W, SIZE_MM).world_from_voxel
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def test_a_sidecar_that_names_no_axis_is_told(tmp_path):
    image = ImageFile(tmp_path / "sub-01_dwi.nii.gz", {"suffix": "dwi"}, {}, None, None)
    settings = RestorationSettings(registration="deformable")
    with pytest.raises(
        InputError, match=r"sub-01_dwi.nii.gz: PhaseEncodingDirection is None, expected i, j or k"
    ):
        stack_input(StackPlan(image, None), settings)
    assert stack_input(StackPlan(image, None), RestorationSettings()).phase_axis is None
    named = ImageFile(image.path, image.entities, {"PhaseEncodingDirection": "j-"}, None, None)
    assert stack_input(StackPlan(named, None), settings).phase_axis == 1

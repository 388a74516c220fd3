"""Images that are none of the app's: named, and of no harm to the others."""

import nibabel as nib
import numpy as np
import pytest

from atlasgs_bids.bids.images import read_header
from atlasgs_bids.bids.inputs.discover import discover_participant
from atlasgs_bids.bids.outputs.names import Naming
from atlasgs_bids.bids.plan.session import plan_subject
from atlasgs_bids.bids.plan.settings import PlanSettings
from atlasgs_bids.errors import InputError
from tests.bids_datasets import Dataset, affine_of

AFFINE = affine_of((3.0, 3.0, 9.0), (8, 8, 4))
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def planned(dataset):
    (inputs,) = discover_participant(dataset.root, "01")
    return plan_subject(inputs, PlanSettings(), Naming(dataset.root.parent / "out"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((8, 8, 4), RGB), "colours, expected one real number"),
        (np.zeros((8, 8, 4), np.complex64), "complex numbers, expected one real number"),
        (np.zeros(8, np.float32), "shape (8,"),
        (np.zeros((8, 8), np.float32), "shape (8, 8"),
        (np.zeros((8, 8, 4, 2), np.float32), "shape (8, 8, 4, 2)"),
        (np.zeros((8, 8, 4, 1, 3), np.float32), "shape (8, 8, 4, 1, 3)"),
    ],
)
@pytest.mark.parametrize("suffix", ["T1w", "T2w"])
def test_an_image_without_one_number_for_each_voxel_of_a_volume_is_refused_alone(
    tmp_path, suffix, data, message
):
    dataset = Dataset.create(tmp_path / "bids").add_participant("01", "FLAIR")
    path = dataset.add(
        "01", suffix, entities="acq-odd", data=data, world_from_voxel=AFFINE, voxel_mm=(3, 3, 9)
    )
    plan = planned(dataset)
    assert [target.label for target in plan.targets] == ["FLAIR"]
    refused = dict(plan.failures).get("acq-odd_T2w") if suffix == "T2w" else dict(plan.skipped)[path]
    assert message in refused
    dataset.path("01", "T1w").unlink()
    if suffix == "T1w":
        with pytest.raises(InputError, match=path.name):
            planned(dataset)


@pytest.mark.parametrize(
    ("excess", "sform_code", "readable"),
    [(5e-6, 1, True), (5e-6, 0, True), (0.1, 1, True), (0.1, 0, False)],
)
def test_a_quaternion_too_long_matters_where_it_is_the_only_orientation(
    tmp_path, excess, sform_code, readable
):
    """Rounding is none; more is no orientation, which a sform makes up for."""
    path = tmp_path / "sub-01_T2w.nii"
    image = nib.Nifti1Image(np.zeros((8, 8, 4), np.float32), AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, sform_code)
    image.header["quatern_b"] = 1 + excess
    content = image.header.structarr
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 4), np.float32), AFFINE), path)
    content["vox_offset"] = 352
    path.write_bytes(content.tobytes() + path.read_bytes()[348:])
    header, problem = read_header(path)
    assert (header is not None) == readable
    assert (problem is None) == readable
    assert readable or "sub-01_T2w.nii has no readable NIfTI header" in problem


def test_a_folder_with_the_name_of_an_image_is_refused_alone(tmp_path):
    dataset = Dataset.create(tmp_path / "bids").add_participant("01", "FLAIR")
    dataset.path("01", "T2w").mkdir()
    plan = planned(dataset)
    assert [target.label for target in plan.targets] == ["FLAIR"]
    assert "sub-01_T2w.nii.gz is no file" in dict(plan.failures)["T2w"]

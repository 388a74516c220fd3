"""Discovery on tiny real datasets: what pybids finds, and what it would get wrong by itself."""

import os

import nibabel as nib
import numpy as np
import pytest

from atlasgs_bids.bids.inputs.discover import discover_participant, list_participants, list_sessions
from tests.bids_datasets import Dataset, affine_of, sidecar_of, write_json


@pytest.fixture
def dataset(tmp_path):
    return Dataset.create(tmp_path / "bids")


def names(images):
    return [image.path.name for image in images]


def test_finds_anchor_and_targets_with_entities(dataset):
    dataset.add_participant("01", "FLAIR", "PDw")
    dataset.add("01", "T2w", entities="acq-axial_run-02")
    (inputs,) = discover_participant(dataset.root, "01")
    assert (inputs.participant, inputs.session, inputs.problem) == ("01", None, None)
    assert names(inputs.anchors) == [
        "sub-01_T1w.nii.gz",
        "sub-01_FLAIR.nii.gz",
        "sub-01_acq-axial_run-02_T2w.nii.gz",
    ]
    assert names(inputs.targets) == [
        "sub-01_FLAIR.nii.gz",
        "sub-01_acq-axial_run-02_T2w.nii.gz",
        "sub-01_PDw.nii.gz",
    ]
    assert inputs.targets[1].entities == {
        "subject": "01",
        "acquisition": "axial",
        "run": "02",
        "suffix": "T2w",
        "datatype": "anat",
        "extension": ".nii.gz",
    }
    header = inputs.targets[0].header
    assert header.shape == (24, 24, 8)
    np.testing.assert_allclose(header.world_from_voxel, affine_of((3, 3, 9), (24, 24, 8)))
    assert (header.sform_code, header.qform_code) == (1, 1)


def test_labels_are_sorted_and_files_are_none(dataset):
    for label in ("10", "02", "A+b"):
        (dataset.root / f"sub-{label}").mkdir()
    (dataset.root / "sub-02" / "ses-b").mkdir()
    (dataset.root / "sub-02" / "ses-a").mkdir()
    (dataset.root / "sub-99.txt").touch()
    assert list_participants(dataset.root) == ["02", "10", "A+b"]
    assert list_sessions(dataset.root, "02") == ["a", "b"]


def test_metadata_are_inherited_and_the_nearest_counts(dataset):
    dataset.add_participant("01", "FLAIR")
    write_json(dataset.root / "FLAIR.json", {"EchoTime": 0.1, "SliceThickness": 2.0})
    (inputs,) = discover_participant(dataset.root, "01")
    assert inputs.targets[0].sidecar == {"EchoTime": 0.1, "SliceThickness": 9.0, "MagneticFieldStrength": 3}


def test_sessions_share_the_participants_anchors(dataset):
    dataset.add_participant("01", "FLAIR", session="a")
    dataset.add("01", "FLAIR", session="b")
    first, second = discover_participant(dataset.root, "01")
    assert (first.session, second.session) == ("a", "b")
    assert names(second.targets) == ["sub-01_ses-b_FLAIR.nii.gz"]
    assert names(second.anchors) == names(first.anchors)
    assert names(first.anchors) == [f"sub-01_ses-{own}.nii.gz" for own in ("a_T1w", "a_FLAIR", "b_FLAIR")]
    (only,) = discover_participant(dataset.root, "01", session_ids=["b"])
    assert only.session == "b"
    assert discover_participant(dataset.root, "01", session_ids=["c"]) == []


def test_other_participants_and_datatypes_are_not_read(dataset):
    dataset.add_participant("01").add_participant("011")
    sidecar_of(dataset.path("011", "T1w")).write_text("{")
    func = dataset.root / "sub-01" / "func"
    func.mkdir()
    (func / "sub-01_task-rest_bold.json").write_text("{")
    (inputs,) = discover_participant(dataset.root, "01")
    assert inputs.problem is None
    assert names(inputs.anchors) == ["sub-01_T1w.nii.gz", "sub-01_FLAIR.nii.gz"]


def test_invalid_json_spoils_only_the_image_that_inherits_it(dataset):
    dataset.add_participant("01", "FLAIR", "T2w")
    sidecar_of(dataset.path("01", "T2w")).write_text('{"EchoTime": 0.1,}')
    (inputs,) = discover_participant(dataset.root, "01")
    problems = {image.entities["suffix"]: image.problem for image in (*inputs.anchors, *inputs.targets)}
    assert problems["T1w"] is None
    assert problems["FLAIR"] is None
    assert "sub-01_T2w.json is not valid JSON" in problems["T2w"]


@pytest.mark.parametrize("content", ["[1, 2]", "\xff"])
def test_a_shared_sidecar_that_is_no_object_spoils_its_suffix(dataset, content):
    dataset.add_participant("01", "FLAIR", "T2w")
    (dataset.root / "T2w.json").write_text(content, encoding="latin-1")
    (inputs,) = discover_participant(dataset.root, "01")
    spoiled = [image.entities["suffix"] for image in inputs.targets if image.problem]
    assert spoiled == ["T2w"]


def test_broken_links_and_annex_pointers_say_datalad_get(dataset):
    dataset.add_participant("01", "FLAIR", "T2w")
    flair, t2w = dataset.path("01", "FLAIR"), dataset.path("01", "T2w")
    flair.unlink()
    flair.symlink_to("../../.git/annex/objects/nowhere")
    t2w.write_text("/annex/objects/MD5E-s1--0.nii.gz\n")
    (inputs,) = discover_participant(dataset.root, "01")
    for image in inputs.targets:
        assert image.header is None
        assert "datalad get" in image.problem
        assert image.path.name in image.problem


def test_a_file_that_is_no_nifti_has_a_problem(dataset):
    dataset.add_participant("01", "FLAIR")
    dataset.path("01", "FLAIR").write_bytes(b"no image at all")
    (inputs,) = discover_participant(dataset.root, "01")
    assert "no readable NIfTI header" in inputs.targets[0].problem


def test_a_singular_affine_has_a_problem(dataset):
    dataset.add_participant("01", "FLAIR")
    path = dataset.path("01", "FLAIR")
    image = nib.load(path)
    image.header["srow_z"] = 0
    image.header["qform_code"] = 0
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    (inputs,) = discover_participant(dataset.root, "01")
    assert "an affine that is singular" in inputs.targets[0].problem


def test_the_datasets_own_path_gives_no_entities(tmp_path):
    """pybids matches entities against the whole path, so this dataset would get ses-9, sub-77 and func."""
    dataset = Dataset.create(tmp_path / "sub-77" / "ses-9" / "func" / "my data #1")
    dataset.add_participant("01", "FLAIR")
    (inputs,) = discover_participant(dataset.root, "01")
    assert inputs.session is None
    assert inputs.targets[0].entities["subject"] == "01"


def test_a_dataset_that_calls_itself_a_derivative_has_its_images(tmp_path):
    """As --skip-bids-validation lets it through; frametree (Pydra) makes such datasets."""
    dataset = Dataset.create(tmp_path / "bids", DatasetType="derivative").add_participant("01", "FLAIR")
    (inputs,) = discover_participant(dataset.root, "01")
    assert names(inputs.anchors) == ["sub-01_T1w.nii.gz", "sub-01_FLAIR.nii.gz"]


def test_derivatives_in_the_dataset_are_no_inputs(dataset):
    dataset.add_participant("01", "FLAIR")
    inner = Dataset.create(dataset.root / "derivatives" / "atlasgs", DatasetType="derivative")
    inner.add("01", "FLAIR", entities="space-T1w_desc-sr")
    (inputs,) = discover_participant(dataset.root, "01")
    assert names(inputs.targets) == ["sub-01_FLAIR.nii.gz"]


def test_brain_masks_in_t1w_space_are_found(dataset):
    dataset.add_participant("01", "FLAIR")
    folder = dataset.root / "derivatives" / "fmriprep" / "sub-01" / "anat"
    folder.mkdir(parents=True)
    for name in ("desc-brain_mask", "space-MNI152NLin2009cAsym_desc-brain_mask", "desc-preproc_T1w"):
        (folder / f"sub-01_{name}.nii.gz").write_bytes(dataset.path("01", "T1w").read_bytes())
    (inputs,) = discover_participant(dataset.root, "01")
    assert names(inputs.brain_masks) == ["sub-01_desc-brain_mask.nii.gz"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"acquisition": "axial"}, ["sub-01_acq-axial_run-02_FLAIR.nii.gz"]),
        ({"acquisition": None}, ["sub-01_FLAIR.nii.gz"]),
        ({"acquisition": "*"}, ["sub-01_acq-axial_run-02_FLAIR.nii.gz"]),
        ({"run": 2}, ["sub-01_acq-axial_run-02_FLAIR.nii.gz"]),
        ({"acquisition": ["axial", "sagittal"]}, ["sub-01_acq-axial_run-02_FLAIR.nii.gz"]),
        ({"run": "02"}, ["sub-01_acq-axial_run-02_FLAIR.nii.gz"]),
        ({"run": "5F"}, []),
        ({"EchoTime": ["n/a", 0.2]}, ["sub-01_acq-axial_run-02_FLAIR.nii.gz"]),
        ({"EchoTime": None}, ["sub-01_FLAIR.nii.gz"]),
        (
            {"MagneticFieldStrength": "*", "acquisition": []},
            ["sub-01_FLAIR.nii.gz", "sub-01_acq-axial_run-02_FLAIR.nii.gz"],
        ),
        ({"EchoTime": 0.2}, ["sub-01_acq-axial_run-02_FLAIR.nii.gz"]),
        ({"NotInAnySidecar": 1}, []),
        ({"suffix": "PDw"}, ["sub-01_PDw.nii.gz"]),
    ],
)
def test_filters_narrow_one_kind_of_input(dataset, query, expected):
    dataset.add_participant("01", "FLAIR", "PDw")
    dataset.add("01", "FLAIR", entities="acq-axial_run-02", sidecar={"EchoTime": 0.2})
    (inputs,) = discover_participant(dataset.root, "01", bids_filters={"flair": query, "pdw": {"run": 9}})
    assert names(inputs.targets) == expected
    assert names(inputs.anchors)[0] == "sub-01_T1w.nii.gz"


def test_an_mp2rage_is_found_once_whatever_kind_a_filter_calls_it(dataset):
    for suffix, entities in (("UNIT1", ""), ("UNIT1", "acq-b"), ("MP2RAGE", "inv-1"), ("MP2RAGE", "inv-2")):
        dataset.add("01", suffix, entities=entities, data=np.ones((4, 4, 4)), world_from_voxel=np.eye(4))
    (inputs,) = discover_participant(dataset.root, "01")
    assert names(inputs.anchors) == ["sub-01_UNIT1.nii.gz", "sub-01_acq-b_UNIT1.nii.gz"]
    assert names(inputs.inversions) == ["sub-01_inv-1_MP2RAGE.nii.gz", "sub-01_inv-2_MP2RAGE.nii.gz"]
    asked = {"t1w": {"suffix": "UNIT1"}, "unit1": {"acquisition": "b"}, "mp2rage": {"inv": 2}}
    (inputs,) = discover_participant(dataset.root, "01", bids_filters=asked)
    assert names(inputs.anchors) == ["sub-01_UNIT1.nii.gz", "sub-01_acq-b_UNIT1.nii.gz"]
    assert names(inputs.inversions) == ["sub-01_inv-2_MP2RAGE.nii.gz"]
    (inputs,) = discover_participant(dataset.root, "01", bids_filters={"unit1": {"acquisition": "b"}})
    assert names(inputs.anchors) == ["sub-01_acq-b_UNIT1.nii.gz"]


def test_an_empty_participant_has_one_empty_entry(dataset):
    (dataset.root / "sub-01").mkdir()
    (inputs,) = discover_participant(dataset.root, "01")
    assert inputs.anchors == inputs.targets == ()


def test_a_damaged_sidecar_is_seen_whatever_a_filter_asks_of_it(dataset):
    dataset.add_participant("01", "FLAIR")
    sidecar_of(dataset.path("01", "FLAIR")).write_text("{")
    (inputs,) = discover_participant(dataset.root, "01", bids_filters={"flair": {"EchoTime": 0.2}})
    assert "sub-01_FLAIR.json is not valid JSON" in inputs.targets[0].problem


def test_run_labels_are_text(dataset):
    dataset.add_participant("01", "FLAIR")
    dataset.add("01", "FLAIR", entities="run-5F")
    (inputs,) = discover_participant(dataset.root, "01", bids_filters={"flair": {"run": ["5F", "6F"]}})
    assert names(inputs.targets) == ["sub-01_run-5F_FLAIR.nii.gz"]


@pytest.mark.parametrize(
    "content", [b"# no\n\n*_T2w.nii.gz\n!acq-b_T2w.nii.gz\n", b"\xef\xbb\xbf*_T2w.*\r\n"]
)
def test_what_bidsignore_excludes_is_no_input(dataset, content):
    dataset.add_participant("01", "FLAIR", "T2w")
    (dataset.root / ".bidsignore").write_bytes(content)
    (inputs,) = discover_participant(dataset.root, "01")
    assert names(inputs.targets) == ["sub-01_FLAIR.nii.gz"]
    assert inputs.ignored == (dataset.path("01", "T2w"),)
    assert inputs.warnings == ()


def test_a_line_of_bidsignore_that_is_no_pattern_is_named(dataset):
    dataset.add_participant("01", "FLAIR", "T2w")
    (dataset.root / ".bidsignore").write_text("!\n/sub-01/anat/*_T2w.nii.gz\n")
    (inputs,) = discover_participant(dataset.root, "01")
    assert names(inputs.targets) == ["sub-01_FLAIR.nii.gz"]
    assert inputs.warnings == (".bidsignore: '!' is no pattern and left out; correct it",)


def test_a_participant_that_bidsignore_excludes_has_nothing(dataset):
    dataset.add_participant("01", "FLAIR")
    (dataset.root / ".bidsignore").write_text("sub-01/\n")
    assert discover_participant(dataset.root, "01") == []


def test_a_name_that_is_no_text_harms_nobody(dataset):
    dataset.add_participant("01", "FLAIR")
    os.close(
        os.open(os.fsencode(dataset.path("01", "FLAIR").parent) + b"/sub-01_acq-\xff_T2w.nii.gz", os.O_CREAT)
    )
    (inputs,) = discover_participant(dataset.root, "01")
    assert (names(inputs.targets), inputs.problem) == (["sub-01_FLAIR.nii.gz"], None)

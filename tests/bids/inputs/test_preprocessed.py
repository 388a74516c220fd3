"""Series that another pipeline preprocessed, in place of the raw ones."""

import numpy as np
import pytest

from atlasgs_bids.bids.inputs.discover import discover_participant
from atlasgs_bids.bids.inputs.preprocessed import check_targets_from
from atlasgs_bids.errors import ConfigurationError
from tests.bids_datasets import THICK_MM, Dataset, head, sidecar_of

B_VALUES = np.array([0.0, 1000.0])
DIRECTIONS = np.array([[0.0, 0, 0], [0, 0.6, 0.8]])


@pytest.fixture
def dataset(tmp_path):
    return Dataset.create(tmp_path / "bids").add_participant("01", "FLAIR")


@pytest.fixture
def pipeline(tmp_path):
    return Dataset.create(tmp_path / "preproc", DatasetType="derivative")


def series(n_volumes=2):
    data, affine = head("PDw", THICK_MM)
    return np.stack([data] * n_volumes, axis=-1), affine


def preprocessed_dwi(pipeline, entities="desc-preproc", directions=DIRECTIONS):
    data, affine = series()
    path = pipeline.add("01", "dwi", entities=entities, data=data, world_from_voxel=affine)
    sidecar_of(path).write_text('{"EchoTime": 0.07}')
    np.savetxt(path.with_name(path.name.replace(".nii.gz", ".bval")), B_VALUES[None], fmt="%g")
    if directions is not None:
        np.savetxt(path.with_name(path.name.replace(".nii.gz", ".bvec")), directions.T, fmt="%g")
    return path


def targets(dataset, pipeline, **options):
    (inputs,) = discover_participant(
        dataset.root, "01", derivatives={"preproc": pipeline.root}, targets_from="preproc", **options
    )
    return {image.entities["suffix"]: image for image in inputs.targets}


def raw_dwi(dataset):
    return dataset.add_diffusion("01", *series(), B_VALUES, np.array([[0.0, 0, 0], [1, 0, 0]]))


def test_a_preprocessed_dwi_brings_its_own_directions_and_sidecar(dataset, pipeline):
    raw_dwi(dataset)
    path = preprocessed_dwi(pipeline)
    found = targets(dataset, pipeline)
    dwi = found["dwi"]
    assert (dwi.path, dwi.problem) == (path, None)
    assert dwi.entities == {"subject": "01", "suffix": "dwi", "datatype": "dwi", "extension": ".nii.gz"}
    np.testing.assert_allclose(dwi.gradients.directions, DIRECTIONS)
    assert dwi.sidecar["EchoTime"] == 0.07
    assert dwi.sidecar["SliceThickness"] == 9.0, "which the raw sidecar alone says"
    assert found["FLAIR"].path == dataset.path("01", "FLAIR")


def test_directions_are_never_taken_from_the_raw_series(dataset, pipeline):
    """Volumes were turned with the head."""
    raw_dwi(dataset)
    preprocessed_dwi(pipeline, directions=None)
    assert "sub-01_desc-preproc_dwi.nii.gz has no bvec file" in targets(dataset, pipeline)["dwi"].problem


def test_kinds_that_a_pipeline_does_not_handle_stay_raw(dataset, pipeline):
    raw_dwi(dataset)
    dataset.add_labelling("01", *series(), ("control", "label"))
    preprocessed_dwi(pipeline)
    found = targets(dataset, pipeline)
    assert found["asl"].path == dataset.path("01", "asl")
    assert found["asl"].problem is None


def test_a_resampled_series_is_named_and_refused(dataset, pipeline):
    """QSIPrep writes its series in ACPC alone."""
    raw_dwi(dataset)
    preprocessed_dwi(pipeline, "space-ACPC_desc-preproc")
    problem = targets(dataset, pipeline)["dwi"].problem
    assert problem.startswith("sub-01_dwi.nii.gz: --targets-from preproc has only sub-01_space-ACPC_")
    assert "without space-" in problem


def test_what_a_filter_leaves_out_does_not_come_back(dataset, pipeline):
    raw_dwi(dataset)
    preprocessed_dwi(pipeline)
    assert "dwi" not in targets(dataset, pipeline, bids_filters={"dwi": {"run": 2}})


def test_runs_that_were_joined_are_one_target(dataset, pipeline):
    for run in ("run-1", "run-2"):
        data, affine = series()
        path = dataset.add("01", "dwi", entities=run, data=data, world_from_voxel=affine)
        for extension in (".bval", ".bvec"):
            path.with_name(path.name.replace(".nii.gz", extension)).write_text("0 0\n")
    path = preprocessed_dwi(pipeline)
    (inputs,) = discover_participant(
        dataset.root, "01", derivatives={"preproc": pipeline.root}, targets_from="preproc"
    )
    assert [i.path for i in inputs.targets if i.entities["suffix"] == "dwi"] == [path]


def test_a_context_whose_rows_do_not_fit_stays_and_is_refused_by_the_plan(dataset, pipeline):
    dataset.add_labelling("01", *series(4), ("control", "label") * 2)
    data, affine = series(3)
    pipeline.add("01", "asl", entities="desc-preproc", data=data, world_from_voxel=affine)
    assert targets(dataset, pipeline)["asl"].asl_context == ("control", "label") * 2


def test_a_name_that_was_not_given_or_has_no_series(pipeline):
    with pytest.raises(
        ConfigurationError, match=r"--targets-from qsiprep: -d gives preproc; add -d qsiprep=PATH"
    ):
        check_targets_from("qsiprep", {"preproc": pipeline.root})
    with pytest.raises(ConfigurationError, match="holds no sub-"):
        check_targets_from("preproc", {"preproc": pipeline.root})

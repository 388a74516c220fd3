"""Metrics of all participants -> group tables."""

import json

import pytest
from click.testing import CliRunner

from atlasgs_bids.app import cli
from atlasgs_bids.bids.outputs.dataset import write_dataset_files
from atlasgs_bids.bids.outputs.names import target_outputs
from atlasgs_bids.runtime.files import load_tsv, save_json, save_tsv
from tests.bids_datasets import Dataset


@pytest.fixture
def study(tmp_path):
    """A dataset of three participants without images, and an output folder."""
    dataset = Dataset.create(tmp_path / "bids")
    for label in ("01", "02", "03"):
        (dataset.root / f"sub-{label}").mkdir()
    write_dataset_files(tmp_path / "out", dataset.root, "0.1.0")
    return tmp_path


def add_metrics(study, participant, suffix, row, **entities):
    entities = {"subject": participant, **entities, "suffix": suffix, "datatype": "anat"}
    outputs = target_outputs(study / "out", entities)
    dictionary = {name: {"Description": f"the {name}"} for name in row}
    save_json(dictionary, outputs.metrics_json)
    save_tsv([row], outputs.metrics_tsv)


def group(study, *options):
    arguments = [str(study / "bids"), str(study / "out"), "group", *options]
    result = CliRunner().invoke(cli.main, arguments)
    return result.exit_code, result.stdout.splitlines()


def test_one_table_for_each_suffix_and_missing_participants_are_named(study):
    add_metrics(study, "01", "FLAIR", {"sharpness": 0.5, "n_gaussians": 10})
    add_metrics(study, "02", "FLAIR", {"sharpness": 0.25, "n_gaussians": 20})
    add_metrics(study, "02", "T2w", {"sharpness": 1.0})
    code, lines = group(study)
    assert code == 0
    assert lines[-1] == "2 of 3 participants in group_*.tsv; no results of sub-03"
    assert load_tsv(study / "out" / "group_FLAIR.tsv") == [
        {"participant_id": "sub-01", "session_id": "n/a", "sharpness": "0.5", "n_gaussians": "10"},
        {"participant_id": "sub-02", "session_id": "n/a", "sharpness": "0.25", "n_gaussians": "20"},
    ]
    assert [row["participant_id"] for row in load_tsv(study / "out" / "group_T2w.tsv")] == ["sub-02"]
    dictionary = json.loads((study / "out" / "group_FLAIR.json").read_text())
    assert dictionary["sharpness"] == {"Description": "the sharpness"}
    assert list(dictionary) == ["participant_id", "session_id", "sharpness", "n_gaussians"]


def test_entities_that_differ_are_columns(study):
    add_metrics(study, "01", "T2w", {"x": 1}, session="a", acquisition="axial", run="1")
    add_metrics(study, "01", "T2w", {"x": 2}, session="b", run="1")
    assert group(study)[0] == 0
    assert load_tsv(study / "out" / "group_T2w.tsv") == [
        {"participant_id": "sub-01", "session_id": "ses-a", "acquisition": "axial", "x": "1"},
        {"participant_id": "sub-01", "session_id": "ses-b", "acquisition": "n/a", "x": "2"},
    ]


def test_labels_narrow_the_group(study):
    add_metrics(study, "01", "FLAIR", {"x": 1}, session="a")
    add_metrics(study, "01", "FLAIR", {"x": 2}, session="b")
    add_metrics(study, "02", "FLAIR", {"x": 3}, session="b")
    for session in ("a", "b"):
        (study / "bids" / "sub-01" / f"ses-{session}").mkdir()
    code, lines = group(study, "--participant-label", "01", "--session-id", "b")
    assert (code, lines) == (0, ["1 of 1 participants in group_*.tsv"])
    assert [row["x"] for row in load_tsv(study / "out" / "group_FLAIR.tsv")] == ["2"]


def test_half_written_metrics_do_not_count(study):
    add_metrics(study, "01", "FLAIR", {"x": 1})
    path = next((study / "out" / "sub-01" / "anat").glob("*_metrics.tsv"))
    path.rename(path.with_name(".tmp-0123abcd.1-1-0123abcd-0123abcd.tsv"))
    assert group(study)[0] == 1


@pytest.mark.parametrize("ending", ["tsv", "json"])
def test_damaged_metrics_are_left_out_and_named(study, ending):
    add_metrics(study, "01", "FLAIR", {"x": 1})
    add_metrics(study, "02", "FLAIR", {"x": 2})
    path = next((study / "out" / "sub-02" / "anat").glob(f"*_metrics.{ending}"))
    path.write_text("x\ty\n1\n" if ending == "tsv" else "{")
    code, lines = group(study)
    assert code == 1
    assert "1 of 3 participants" in lines[-1]
    assert "left out: sub-02_mod-FLAIR" in lines[-1]
    assert [row["participant_id"] for row in load_tsv(study / "out" / "group_FLAIR.tsv")] == ["sub-01"]


def test_no_metrics_at_all_is_an_error(study):
    code, lines = group(study)
    assert code == 1
    assert "run it first" in lines[-1]


def test_an_unknown_label_is_exit_code_2(study):
    assert group(study, "--participant-label", "99")[0] == 2

"""What stops a run before it starts, and what is only said."""

import pytest

from atlasgs_bids.bids.inputs import validate
from atlasgs_bids.bids.inputs.validate import check_dataset, validation_errors
from atlasgs_bids.errors import ConfigurationError
from tests.bids_datasets import Dataset, sidecar_of


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing"),
        ("{", "is not valid JSON"),
        ('{"Name": "x"}', "has no BIDSVersion"),
        ("[]", "has no Name and no BIDSVersion"),
        ('{"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}', "expected a raw dataset"),
    ],
)
def test_a_folder_that_is_no_raw_dataset_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "dataset_description.json").write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        check_dataset(tmp_path)


@pytest.fixture
def faulty(tmp_path):
    """Two participants, the second with an invalid sidecar and a name that BIDS does not know."""
    dataset = Dataset.create(tmp_path / "my bids").add_participant("01").add_participant("02")
    sidecar_of(dataset.path("02", "FLAIR")).write_text("{")
    (dataset.root / "sub-02" / "anat" / "notes.doc").touch()
    (dataset.root / "participants.tsv").write_text("participant_id\nsub-01\nsub-02\n")
    return dataset.root


def test_the_validator_reports_the_selected_participants_only(faulty):
    check_dataset(faulty)
    assert validation_errors(faulty, ["01"]) == []
    lines = validation_errors(faulty, ["01", "02"])
    assert any(line.startswith("JSON_INVALID: /sub-02/anat/sub-02_FLAIR.json") for line in lines)
    assert any("NOT_INCLUDED" in line and "notes.doc" in line for line in lines)


def test_without_the_validator_file_names_are_checked(faulty, monkeypatch, caplog):
    monkeypatch.setattr(validate, "_validator_command", lambda: None)
    with caplog.at_level("INFO", logger="atlasgs_bids"):
        assert validation_errors(faulty, ["01"]) == []
        assert validation_errors(faulty, ["02"]) == ["not a BIDS file name: /sub-02/anat/notes.doc"]
    assert "only file names are checked" in caplog.text


@pytest.mark.parametrize("command", [["false"], ["no-such-program-here"]])
def test_a_validator_that_does_not_run_falls_back(faulty, monkeypatch, command):
    monkeypatch.setattr(validate, "_validator_command", lambda: command)
    assert validation_errors(faulty, ["02"]) == ["not a BIDS file name: /sub-02/anat/notes.doc"]


def test_many_files_of_one_error_are_counted(tmp_path):
    dataset = Dataset.create(tmp_path / "bids").add_participant("01")
    for number in range(8):
        (dataset.root / "sub-01" / "anat" / f"note{number}.doc").write_text("x")
    (line,) = validation_errors(dataset.root, ["01"])
    assert line.endswith("and 3 more")

"""A stored index is used while the dataset is the same, and made anew when it is not."""

import os

import pytest

from atlasgs_bids.bids.inputs import discover, index
from tests.bids_datasets import Dataset


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Names of the targets found, and whether the index was made anew."""
    dataset = Dataset.create(tmp_path / "bids").add_participant("01", "FLAIR").add_participant("02", "FLAIR")
    resets = []

    class Layout(index.BIDSLayout):
        def __init__(self, *arguments, **options):
            resets.append(options.get("reset_database"))
            super().__init__(*arguments, **options)

    monkeypatch.setattr(index, "BIDSLayout", Layout)

    def look(participant="01", filters=None):
        (inputs,) = discover.discover_participant(
            dataset.root, participant, (), filters, database_dir=tmp_path / "database"
        )
        assert inputs.problem is None
        return [image.path.name for image in inputs.targets], resets.pop()

    return dataset, look


def test_the_second_run_takes_the_stored_index(found):
    dataset, look = found
    expected = ["sub-01_FLAIR.nii.gz"]
    assert look() == (expected, True)
    assert look() == (expected, False)
    assert look("02") == (["sub-02_FLAIR.nii.gz"], True)
    sidecar = dataset.path("01", "FLAIR").with_name("sub-01_FLAIR.json")
    (inputs,) = discover.discover_participant(dataset.root, "01")
    assert dict(inputs.targets[0].sidecar)["SliceThickness"] == 9.0
    assert sidecar.exists()


@pytest.mark.parametrize("change", ["added", "removed", "sidecar", "root"])
def test_a_change_of_the_dataset_is_noticed(found, change):
    dataset, look = found
    look()
    expected = ["sub-01_FLAIR.nii.gz"]
    if change == "added":
        dataset.add("01", "T2w")
        expected = [*expected, "sub-01_T2w.nii.gz"]
    elif change == "removed":
        dataset.path("01", "FLAIR").unlink()
        expected = []
    else:
        path = dataset.root / ("T1w.json" if change == "root" else "sub-01/anat/sub-01_FLAIR.json")
        path.write_text('{"EchoTime": 0.2}', encoding="utf-8")
        os.utime(path, (1, 1))
    assert look() == (expected, True)
    assert look() == (expected, False)

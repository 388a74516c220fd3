"""--no-uncertainty: a result without desc-srstd, otherwise the same; through every level of the command."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from tests.bids_datasets import Dataset
from tests.runs import atlasgs, outputs
from tests.validation import validator_errors

DONE = "1 of 1 participants done"
STAGE = "uncertainty: done"


def rows(path):
    with path.open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table, delimiter="\t"))


@pytest.fixture
def dataset(tmp_path):
    return Dataset.create(tmp_path / "bids").add_participant("01", "FLAIR")


def test_a_result_without_uncertainty_leaves_none_of_an_earlier_run_behind(dataset, tmp_path):
    out_dir = tmp_path / "out"
    code, last_line, log = atlasgs(dataset.root, out_dir, "-v")
    assert (code, last_line) == (0, DONE), log
    files = outputs(out_dir, "01", "FLAIR")
    assert STAGE in log
    assert files.srstd.exists()
    assert files.srstd_json.exists()
    assert set(np.unique(nib.load(files.trusted_mask).get_fdata())) <= {0, 1}
    stated = json.loads(files.trusted_mask_json.read_text(encoding="utf-8"))
    assert stated["RiskOnSlices"] <= stated["RiskPromised"] == 0.1
    assert 0 <= float(rows(files.metrics_tsv)[0]["trusted_part"]) <= 1
    assert set(np.unique(nib.load(files.flags).get_fdata())) <= {0, 1, 2}
    assert [own["name"] for own in rows(files.flags_tsv)] == ["contradicted", "misaligned"]
    assert int(rows(files.metrics_tsv)[0]["misaligned_regions"]) == 0
    assert validator_errors(out_dir) == []
    assert float(rows(files.metrics_tsv)[0]["sd_median"]) > 0
    before = nib.load(files.sr).get_fdata()

    code, last_line, log = atlasgs(dataset.root, out_dir, "-v", "--overwrite", "--no-uncertainty")
    assert (code, last_line) == (0, DONE), log
    assert STAGE not in log
    assert not list(out_dir.rglob("*srstd*"))
    assert not list(out_dir.rglob("*trusted*"))
    assert not list(out_dir.rglob("*flags*"))
    np.testing.assert_array_equal(nib.load(files.sr).get_fdata(), before)
    assert rows(files.metrics_tsv)[0]["sd_median"] == "n/a"
    assert "desc-srstd" not in json.dumps(json.loads(files.sr_json.read_text(encoding="utf-8")))
    assert validator_errors(out_dir) == []

    files.figure.unlink()
    code, last_line, log = atlasgs(dataset.root, out_dir, "--reports-only")
    assert (code, last_line) == (0, DONE), log
    assert files.figure.exists()
    code, _, log = atlasgs(dataset.root, out_dir, level="group")
    assert code == 0, log
    assert [row["sd_median"] for row in rows(out_dir / "group_FLAIR.tsv")] == ["n/a"]


def test_corrected_movement_has_none_either(dataset, tmp_path):
    code, last_line, log = atlasgs(
        dataset.root, tmp_path / "out", "-v", "--no-uncertainty", "--motion", "slice"
    )
    assert (code, last_line) == (0, DONE), log
    assert STAGE not in log
    assert not list((tmp_path / "out").rglob("*srstd*"))


def test_moved_gaussians_are_estimated_once(dataset, tmp_path):
    """Not for the fit that only starts the geometry."""
    code, last_line, log = atlasgs(dataset.root, tmp_path / "out", "-v", "--geometry", "offset")
    assert (code, last_line) == (0, DONE), log
    assert log.count(STAGE) == 1
    assert outputs(tmp_path / "out", "01", "FLAIR").srstd.exists()

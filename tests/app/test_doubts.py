"""A T1w that says nothing of a target: said in the log, in the metrics and in the sidecar, and only then."""

import csv
import json

import numpy as np
import pytest

from tests.bids_datasets import Dataset, head
from tests.runs import finished, outputs

OPTIONS = ("--device", "cpu", "--registration", "header", "--skip-bids-validation", "--prior", "graph")
DOUBT = "the T1w hardly helps to predict the slices"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Output folder and log of two participants; the second one's T1w is noise."""
    root = tmp_path_factory.mktemp("doubts")
    dataset = Dataset.create(root / "bids").add_participant("01", "FLAIR").add_participant("02", "FLAIR")
    data, _ = head("T1w")
    noise = np.random.default_rng(0).uniform(100, 900, data.shape).astype(np.float32)
    dataset.add("02", "T1w", data=noise)
    ended = finished("atlasgs_bids.app.cli", dataset.root, root / "out", "participant", *OPTIONS)
    assert ended.returncode == 0, ended.stderr
    return root / "out", ended.stderr


@pytest.mark.parametrize(("participant", "is_doubted"), [("01", False), ("02", True)])
def test_a_useless_anchor_is_told_of_everywhere(run, participant, is_doubted):
    out_dir, log = run
    warnings = [line for line in log.splitlines() if DOUBT in line]
    assert any(f"sub-{participant} FLAIR" in line for line in warnings) == is_doubted
    files = outputs(out_dir, participant, "FLAIR")
    sidecar = json.loads(files.sr_json.read_text())
    assert sidecar["Prior"] == ("smoothness" if is_doubted else "graph")
    assert any(DOUBT in text for text in sidecar.get("Warnings", [])) == is_doubted
    with files.metrics_tsv.open(newline="") as table:
        (row,) = csv.DictReader(table, delimiter="\t")
    assert row["follows_anchor"].lower() == str(not is_doubted).lower()
    assert 0 <= float(row["prior_disagrees"]) <= 1
    assert row["anchor_gain"] == "n/a"
    assert {"follows_anchor", "prior_disagrees", "anchor_gain"} <= json.loads(
        files.metrics_json.read_text()
    ).keys()

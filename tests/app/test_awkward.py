"""Names and numbers that no output can hold, after computing that must not be lost: the real command."""

import json

import numpy as np
import pytest

from atlasgs_bids.bids.outputs.names import json_path, target_outputs
from atlasgs_bids.runtime.files import load_tsv
from tests.bids_datasets import THICK_MM, Dataset, head
from tests.runs import atlasgs
from tests.validation import validator_errors

LABEL = "VARIANT" + "EchoTimeFlipAngle" * 10
"""As CuBIDS makes them: every final name is below 255 bytes, with a host's name in it none would be."""


@pytest.fixture(scope="module")
def out_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("awkward")
    dataset = Dataset.create(root / "bids")
    dataset.add("01", "T1w")
    unknown = {"InversionTime": float("nan"), "EchoTime": 0.1, "PostLabelingDelay": [1.8, float("inf")]}
    dataset.add("01", "FLAIR", entities=f"acq-{LABEL}", sidecar=unknown)
    data, affine = head("T2w", THICK_MM)
    series = np.stack([0.5 * data, 0.97 * data, data, 0.97 * data], axis=-1)
    dataset.add_labelling("01", series, affine, ("n/a", "label", "control", "label"))
    code, last_line, log = atlasgs(dataset.root, root / "out")
    assert (code, last_line) == (0, "1 of 1 participants done"), log
    return root / "out"


def test_a_number_that_json_cannot_hold_is_left_out(out_dir):
    entities = {"subject": "01", "acquisition": LABEL, "suffix": "FLAIR", "datatype": "anat"}
    paths = target_outputs(out_dir, entities)
    assert paths.finished
    assert len(paths.metrics_json.name) > 220
    for path in (paths.sr, paths.srstd, paths.simulated, paths.residual):
        sidecar = json.loads(json_path(path).read_text(encoding="utf-8"), parse_constant=pytest.fail)
        assert sidecar["EchoTime"] == 0.1
        assert not {"InversionTime", "PostLabelingDelay"} & set(sidecar)


def test_a_kind_of_volume_is_a_label_in_the_name_of_its_figure(out_dir):
    paths = target_outputs(out_dir, {"subject": "01", "suffix": "asl", "datatype": "perf"})
    kinds = ("sr", "calibration", "na", "control", "label", "difference")
    figures = {path.name.partition("_desc-")[2] for path in paths.figure.parent.glob("*_asl.png")}
    assert figures == {f"{kind}_asl.png" for kind in kinds}
    context = paths.sr.with_name("sub-01_space-T1w_res-iso_desc-sr_aslcontext.tsv")
    assert [row["volume_type"] for row in load_tsv(context)] == ["n/a", "label", "control", "label"]


def test_the_results_pass_the_bids_validator(out_dir):
    assert validator_errors(out_dir) == []

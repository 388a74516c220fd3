"""Which files a target will have, and that a name which cannot be is refused in the plan."""

from dataclasses import replace
from pathlib import Path

import pytest

from atlasgs_bids.bids.inputs.discover import discover_participant
from atlasgs_bids.bids.outputs.names import Naming
from atlasgs_bids.bids.plan.files import remove_old_files, target_files
from atlasgs_bids.bids.plan.session import plan_subject
from atlasgs_bids.bids.plan.settings import PlanSettings
from tests.bids_datasets import Dataset
from tests.runs import atlasgs

LONGEST = len("sub-01_acq-_mod-FLAIR_space-T1w_res-iso_desc-sr_metrics.json")


def planned(bids_dir, out_dir, motion="none"):
    (inputs,) = discover_participant(bids_dir, "01")
    naming = Naming(out_dir, motion=motion)
    return plan_subject(inputs, PlanSettings(), naming), naming


def with_label(root, n_letters):
    dataset = Dataset.create(root / f"bids-{n_letters}").add_participant("01", "T2w")
    dataset.add("01", "FLAIR", entities=f"acq-{'x' * n_letters}")
    return dataset.root


def test_a_name_of_255_bytes_is_planned_and_one_more_is_that_images_failure(tmp_path):
    plan, naming = planned(with_label(tmp_path, 255 - LONGEST), tmp_path / "out")
    (flair, t2w), failures = plan.targets, plan.failures
    assert failures == ()
    assert max(len(path.name) for path in target_files(flair, naming)) == 255
    assert t2w.label == "T2w"
    plan, _ = planned(with_label(tmp_path, 256 - LONGEST), tmp_path / "out")
    assert [target.label for target in plan.targets] == ["T2w"]
    ((label, message),) = plan.failures
    assert label.endswith("x_FLAIR")
    assert "_desc-sr_metrics.json has a name of 256 bytes, expected at most 255; shorten" in message


def test_the_tables_of_movement_count_where_they_are_asked_for(tmp_path):
    bids_dir = with_label(tmp_path, 255 - LONGEST)
    plan, _ = planned(bids_dir, tmp_path / "out", motion="slice")
    assert "_desc-motion_metrics.json has a name of 259 bytes" in plan.failures[0][1]


def test_a_path_that_is_too_long_is_refused(tmp_path):
    bids_dir = Dataset.create(tmp_path / "bids").add_participant("01").root
    plan, _ = planned(bids_dir, Path("/" + "x" * 200) / "/".join(["x" * 200] * 19))
    assert plan.targets == ()
    assert "expected at most 4095; choose an output folder with a shorter path" in plan.failures[0][1]


def test_the_real_command_refuses_it_before_computing_and_does_the_others(tmp_path):
    out_dir = tmp_path / "out"
    code, last_line, log = atlasgs(with_label(tmp_path, 256 - LONGEST), out_dir, "--dry-run")
    assert code == 1, log
    code, last_line, log = atlasgs(with_label(tmp_path, 200), out_dir)
    assert code == 1, log
    assert "has a name of 260 bytes, expected at most 255" in log
    assert last_line.count("x") < 120
    (crash,) = (out_dir / "logs").glob("crash-*.txt")
    assert "x" * 200 in crash.read_text(encoding="utf-8")
    assert list((out_dir / "sub-01" / "anat").glob("*_T2w.nii.gz"))
    assert not list((out_dir / "sub-01" / "anat").glob("*_acq-*"))


@pytest.mark.parametrize("motion", ["none", "slice"])
def test_every_file_of_an_earlier_run_goes_and_nothing_else(tmp_path, motion):
    dataset = Dataset.create(tmp_path / "bids").add_participant("01", "FLAIR", "T2w")
    plan, naming = planned(dataset.root, tmp_path / "out", motion="slice")
    for target in plan.targets:
        for path in target_files(target, naming):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    flair, t2w = plan.targets
    remove_old_files(flair, replace(naming, motion=motion))
    left = {path for path in naming.out_dir.rglob("*") if path.is_file()}
    assert left == set(target_files(t2w, naming))

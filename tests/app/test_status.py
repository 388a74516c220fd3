"""atlasgs-status: who is done, failed, running or missing, and whose options differ; the exit code tells."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from atlasgs_bids.app import status as command
from atlasgs_bids.bids.outputs.dataset import write_dataset_files
from atlasgs_bids.bids.outputs.locks import lock_holder, session_lock
from atlasgs_bids.bids.outputs.names import json_path
from atlasgs_bids.bids.outputs.results import result_sidecar
from atlasgs_bids.runtime.files import save_json, save_tsv
from tests.bids_datasets import Dataset
from tests.runs import atlasgs, outputs


def status(out_dir, *options):
    """Exit code and lines."""
    result = CliRunner().invoke(command.main, [str(out_dir), *map(str, options)])
    return result.exit_code, result.output.splitlines()


def states(out_dir, *options):
    """Exit code, and label -> state and text."""
    code, lines = status(out_dir, "--json", *options)
    found = json.loads("\n".join(lines))["outcomes"]
    return code, {outcome["label"]: (outcome["state"], outcome["said"]) for outcome in found}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run over a dataset: one done, one that fails, one without a thick image, one never begun."""
    root = tmp_path_factory.mktemp("status")
    dataset = Dataset.create(root / "bids").add_participant("01").add_participant("02", "FLAIR", "T2w")
    dataset.add("03", "T1w")
    dataset.add_participant("04")
    dataset.path("02", "T2w").write_bytes(b"no image")
    code, _, log = atlasgs(dataset.root, root / "out", "--participant-label", "01", "02", "03")
    assert code == 1, log
    return dataset.root, root / "out"


def test_every_state_is_told_after_a_real_run(ran, tmp_path):
    _, out_dir = ran
    code, found = states(out_dir)
    assert code == 1
    assert {label: state for label, (state, _) in found.items()} == {
        "sub-01 FLAIR": "done",
        "sub-02 FLAIR": "done",
        "sub-02 T2w": "failed",
        "sub-04": "missing",
    }
    assert "sub-02_T2w.nii.gz" in found["sub-02 T2w"][1]
    code, lines = status(out_dir)
    assert code == 1
    assert lines[-1] == "4 participants: 2 done, 1 failed, 0 running, 1 missing"
    assert any(line.startswith("failed   sub-02 T2w: ") and "(logs/crash-" in line for line in lines)
    assert "missing  sub-04: in the dataset, but no run has planned it yet" in lines
    assert not any(line.startswith("options") for line in lines)


def test_all_done_is_zero_and_one_with_nothing_to_restore_is_done(ran):
    _, out_dir = ran
    assert status(out_dir, "--participant-label", "01", "sub-03") == (
        0,
        ["2 participants: 1 done, 0 failed, 0 running, 0 missing"],
    )


def test_wrong_use_is_two(ran, tmp_path):
    bids_dir, out_dir = ran
    code, lines = status(out_dir, "--participant-label", "99")
    assert (code, "unknown participant label: 99" in lines[0]) == (2, True)
    assert status(bids_dir)[0] == 2
    assert status(tmp_path)[0] == 2


def test_the_last_plan_counts_and_what_was_mended_is_forgotten(tmp_path):
    dataset = Dataset.create(tmp_path / "bids").add_participant("01")
    t1w = dataset.path("01", "T1w")
    kept = t1w.read_bytes()
    t1w.unlink()
    assert atlasgs(dataset.root, tmp_path / "out")[0] == 1
    code, found = states(tmp_path / "out")
    assert (code, found["sub-01"][0]) == (1, "failed")
    t1w.write_bytes(kept)
    with session_lock(tmp_path / "out", "01", None):  # somebody else is at it
        assert atlasgs(dataset.root, tmp_path / "out")[0] == 1
        assert states(tmp_path / "out")[1] == {
            "sub-01 FLAIR": ("running", lock_holder(tmp_path / "out", "01", None))
        }
    code, found = states(tmp_path / "out")
    assert found["sub-01 FLAIR"][0] == "failed"
    assert "being processed by another run" in found["sub-01 FLAIR"][1]
    for path in (tmp_path / "out" / "logs").glob("crash-*"):
        path.unlink()
    assert states(tmp_path / "out") == (
        1,
        {"sub-01 FLAIR": ("missing", "planned; not begun, or interrupted")},
    )
    assert atlasgs(dataset.root, tmp_path / "out")[0] == 0
    assert states(tmp_path / "out") == (0, {"sub-01 FLAIR": ("done", "")})


def test_a_lock_is_looked_at_without_changing_anything(tmp_path):
    assert lock_holder(tmp_path, "01", "a") is None
    assert list(tmp_path.iterdir()) == []
    with session_lock(tmp_path, "01", "a"):
        assert lock_holder(tmp_path, "01", "a").startswith("process ")
        assert lock_holder(tmp_path, "01", "b") is None
    dead = tmp_path / "sub-01" / "ses-a" / ".tmp-lock"
    dead.parent.mkdir(parents=True)
    dead.write_text("process 1 on elsewhere")  # of a process that was killed
    assert lock_holder(tmp_path, "01", "a") is None
    assert dead.exists()


def made_up_results(out_dir, settings):
    """Finished results without images: participant -> settings."""
    for participant, of_one in settings.items():
        metrics = outputs(out_dir, participant, "FLAIR").metrics_tsv
        save_json({"Settings": of_one}, result_sidecar(metrics))
        save_json({}, json_path(metrics))
        save_tsv([{"sharpness": 0.5}], metrics)


def test_results_that_were_made_otherwise_are_grouped(tmp_path):
    dataset = Dataset.create(tmp_path / "bids")
    out_dir = tmp_path / "out"
    write_dataset_files(out_dir, dataset.root, "0.1.0")
    usual = {"prior": "auto", "fast": False, "version": "0.2.0"}
    made_up_results(out_dir, {f"{n:02}": usual for n in range(1, 7)})
    made_up_results(out_dir, {"07": {**usual, "fast": True}, "08": {**usual, "version": "0.1.0"}})
    code, lines = status(out_dir)
    assert code == 0
    first = [f"sub-{n:02} FLAIR" for n in range(1, 6)]
    assert lines[:3] == [
        f"options  FLAIR res-iso: 6 with no --fast, AtlasGS 0.2.0: {', '.join(first)}, and 1 more",
        "options  FLAIR res-iso: 1 with --fast, AtlasGS 0.2.0: sub-07 FLAIR",
        "options  FLAIR res-iso: 1 with no --fast, AtlasGS 0.1.0: sub-08 FLAIR",
    ]
    assert len(status(out_dir, "--participant-label", "01", "02")[1]) == 1


def test_without_the_dataset_it_says_whom_it_cannot_miss(tmp_path):
    out_dir = tmp_path / "out"
    write_dataset_files(out_dir, tmp_path / "gone", "0.1.0")
    made_up_results(out_dir, {"01": {}})
    code, lines = status(out_dir)
    assert (code, "--bids-dir" in lines[0]) == (0, True)
    dataset = Dataset.create(tmp_path / "bids")
    for label in ("01", "02"):
        (dataset.root / f"sub-{label}").mkdir()
    assert states(out_dir, "--bids-dir", dataset.root)[1]["sub-02"][0] == "missing"


def test_it_loads_nothing_that_computes(ran):
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "atlasgs_bids.app.status", str(ran[1])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in ended.stderr.splitlines()}
    assert "numpy" in loaded
    assert loaded.isdisjoint({"torch", "nibabel", "bids", "pandas", "matplotlib", "scipy"})

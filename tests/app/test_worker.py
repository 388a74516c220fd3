"""--worker: processes share what is left to do; nothing twice, nothing lost, every failure named once."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from atlasgs_bids.app import cli, worker
from atlasgs_bids.app.outcomes import status_of
from atlasgs_bids.errors import InputError
from tests.bids_datasets import Dataset
from tests.runs import TIMEOUT_S, command, outputs
from tests.validation import validator_errors

LABELS = ("01", "02", "03", "04")


@pytest.fixture(scope="module")
def bids_dir(tmp_path_factory):
    """Four participants, of whom one has no T1w and one an image that cannot be read."""
    dataset = Dataset.create(tmp_path_factory.mktemp("workers") / "bids")
    for label in LABELS:
        dataset.add_participant(label)
    dataset.path("03", "T1w").unlink()
    dataset.add("04", "T2w").write_bytes(b"no image")
    return dataset.root


def started(bids_dir, out_dir, *options, batch="night"):
    return subprocess.Popen(
        command(bids_dir, out_dir, "--worker", batch, "--omp-nthreads", "1", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """Exit code, last line, log."""
    line, log = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, (line.splitlines() or [""])[-1], log


def crashes(out_dir):
    """Labels of the crash files."""
    return sorted(path.read_text().splitlines()[0] for path in (out_dir / "logs").glob("crash-*.txt"))


def states(out_dir):
    return {outcome.label: outcome.state for outcome in status_of(out_dir, None, ()).outcomes}


@pytest.fixture(scope="module")
def shared(bids_dir, tmp_path_factory):
    """What two workers at once make of it: their output folder, and how each of them ended."""
    out_dir = tmp_path_factory.mktemp("shared") / "out"
    workers = [started(bids_dir, out_dir, "--export", "raw") for _ in range(2)]
    return out_dir, [ended(process) for process in workers]


def test_two_workers_do_everything_once_and_name_each_failure_once(shared):
    out_dir, ends = shared
    assert states(out_dir) == {
        "sub-01 FLAIR": "done",
        "sub-02 FLAIR": "done",
        "sub-03": "failed",
        "sub-04 FLAIR": "done",
        "sub-04 T2w": "failed",
    }
    assert crashes(out_dir) == ["sub-03", "sub-04 T2w"]
    done = [int(line.removeprefix("worker: ").split()[0]) for _, line, _ in ends]
    assert sum(done) == 3, ends
    failures = [line.partition("this one, ")[2] for _, line, _ in ends]
    assert "".join(failures).count("sub-03: ") == 1
    assert "".join(failures).count("sub-04 T2w: ") == 1
    assert [code for code, _, _ in ends] == [int(not text.startswith("0 ")) for text in failures]
    assert {path.name for path in out_dir.glob("sub-*.html")} == {f"sub-{label}.html" for label in LABELS}
    exported = (out_dir / "derivatives" / "raw").glob("sub-*/anat/*_rec-atlasgs_*.nii.gz")
    assert {path.name for path in exported} == {
        f"sub-{label}_rec-atlasgs_FLAIR.nii.gz" for label in ("01", "02", "04")
    }
    assert list(out_dir.rglob(".tmp-*")) == []
    assert validator_errors(out_dir) == []


def test_the_same_batch_tries_nothing_again_and_another_one_does(shared, bids_dir):
    out_dir, _ = shared
    assert ended(started(bids_dir, out_dir))[:2] == (0, "worker: 0 sessions done by this one, 0 failures")
    assert crashes(out_dir) == ["sub-03", "sub-04 T2w"]
    code, line, _ = ended(started(bids_dir, out_dir, batch="morning"))
    assert (code, line.startswith("worker: 0 sessions done by this one, 2 failures: ")) == (1, True)
    assert crashes(out_dir) == ["sub-03", "sub-03", "sub-04 T2w", "sub-04 T2w"]


def test_what_another_one_holds_is_passed_over_and_taken_when_that_one_is_killed(bids_dir, tmp_path):
    out_dir = tmp_path / "out"
    slow = ("--n-gaussians", "1500", "--scaffold-steps", "100000")
    victim = started(bids_dir, out_dir, "--participant-label", "01", *slow)
    wait_until((out_dir / "sub-01" / ".tmp-lock").exists, victim)
    heir = started(bids_dir, out_dir, "--participant-label", "01", "02")
    wait_until(outputs(out_dir, "02", "FLAIR").metrics_tsv.exists, heir)
    time.sleep(3)
    assert (heir.poll(), states(out_dir)["sub-01 FLAIR"]) == (None, "running")
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert f"process {victim.pid} on " in (out_dir / "logs/batch/night/sub-01.begun").read_text()
    code, line, log = ended(heir)
    assert (code, line) == (0, "worker: 2 sessions done by this one, 0 failures"), log
    assert json.loads(outputs(out_dir, "01", "FLAIR").sr_json.read_text())["Settings"]["scaffold-steps"] == 2
    assert crashes(out_dir) == []


def wait_until(happened, process):
    deadline_s = time.monotonic() + TIMEOUT_S
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_a_session_that_kills_its_workers_is_given_up(tmp_path):
    """A killed process never comes to the end of its attempt; one that is interrupted does."""
    batch, dead = worker._Batch(tmp_path, "night"), []
    with pytest.raises(KeyboardInterrupt), batch.attempt("sub-01"):
        raise KeyboardInterrupt
    for _ in range(worker.MOST_DEATHS):
        with batch.attempt("sub-01"):
            pass
        dead.append(batch.attempt("sub-01"))
        dead[-1].__enter__()
    with (
        pytest.raises(InputError, match=rf"2 processes of .* process {os.getpid()} on .* another name"),
        batch.attempt("sub-01"),
    ):
        pass
    with worker._Batch(tmp_path, "morning").attempt("sub-01"):
        pass


@pytest.mark.parametrize(
    "options", [("--nprocs", "2"), ("--overwrite",), ("--reports-only",), ("--worker", "../x")], ids=" ".join
)
def test_what_a_worker_cannot_honour_is_refused(options, bids_dir, tmp_path):
    arguments = [str(bids_dir), str(tmp_path / "out"), "participant", "--worker", "night", *options]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    assert "--worker" in result.output or "expected a word" in result.output
    assert not Path(tmp_path / "out").exists()

"""Participants in parallel, as real processes: killed, interrupted, orphaned, bounded by memory."""

import csv
import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import pytest

from tests.bids_datasets import Dataset
from tests.runs import TIMEOUT_S, atlasgs, command, outputs

SLOW = ("--n-gaussians", "1500", "--scaffold-steps", "4000")
"""Keeps a participant busy for many seconds, so that a test can meddle with it: too few to render the T1w."""


@pytest.fixture(scope="module")
def bids_dir(tmp_path_factory):
    dataset = Dataset.create(tmp_path_factory.mktemp("parallel") / "bids")
    for participant in ("01", "02", "03"):
        dataset.add_participant(participant)
    return dataset.root


@contextmanager
def started(bids_dir, out_dir, *options):
    """A run in a process group of its own, which is gone when the block ends."""
    arguments = command(bids_dir, out_dir, *options)
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def holder(out_dir, participant):
    """Number of the process that works on a participant, from its lock."""
    path = out_dir / f"sub-{participant}" / ".tmp-lock"
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        match = re.match(r"process (\d+) on", path.read_text(encoding="utf-8")) if path.exists() else None
        if match:
            return int(match[1])
        time.sleep(0.01)
    pytest.fail(f"nobody works on sub-{participant}")


def wait_until_gone(pids):
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.05)
    pytest.fail(f"still alive: {[pid for pid in pids if Path(f'/proc/{pid}').exists()]}")


def leftovers(out_dir):
    return list(out_dir.rglob(".tmp-*"))


def test_a_killed_worker_fails_its_participant_alone(bids_dir, tmp_path):
    out_dir = tmp_path / "out"
    with started(bids_dir, out_dir, "--nprocs", "2", "--resource-monitor") as process:
        os.kill(holder(out_dir, "02"), signal.SIGKILL)
        last_line, log = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1, log
    assert last_line.strip().startswith("2 of 3 participants done; failed: sub-02: its process was killed")
    assert "memory" in last_line
    assert [outputs(out_dir, label, "FLAIR").finished for label in ("01", "02", "03")] == [True, False, True]
    (crash,) = (out_dir / "logs").glob("crash-*.txt")
    assert "SIGKILL" in crash.read_text()
    assert leftovers(out_dir) == []
    code, last_line, log = atlasgs(bids_dir, out_dir, "--nprocs", "2")
    assert (code, last_line) == (0, "3 of 3 participants done"), log


def test_an_interrupted_run_takes_its_workers_along(bids_dir, tmp_path):
    """SIGINT; SIGTERM, which the workers get from their parent here, is tested on a container."""
    out_dir = tmp_path / "out"
    with started(bids_dir, out_dir, "--nprocs", "2", *SLOW) as process:
        workers = [holder(out_dir, "01"), holder(out_dir, "02")]
        assert process.pid not in workers
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=TIMEOUT_S)
        wait_until_gone(workers)
    assert process.returncode == 130, log
    assert "interrupted" in log
    # A callback of numba's compiler that is interrupted says so, and goes on; nothing else may.
    assert "Traceback" not in log.partition("Exception ignored")[0]
    assert leftovers(out_dir) == []


def test_workers_of_a_killed_run_end_by_themselves(bids_dir, tmp_path):
    out_dir = tmp_path / "out"
    with started(bids_dir, out_dir, "--nprocs", "2", *SLOW) as process:
        workers = [holder(out_dir, "01"), holder(out_dir, "02")]
        process.kill()
        wait_until_gone(workers)
        process.communicate(timeout=TIMEOUT_S)


def test_the_first_crash_stops_everything_where_asked(bids_dir, tmp_path):
    out_dir = tmp_path / "out"
    with started(bids_dir, out_dir, "--nprocs", "2", "--stop-on-first-crash", *SLOW) as process:
        workers = [holder(out_dir, "01"), holder(out_dir, "02")]
        os.kill(workers[1], signal.SIGKILL)
        last_line, log = process.communicate(timeout=TIMEOUT_S)
        wait_until_gone(workers)
    assert process.returncode == 1, log
    assert last_line.startswith("0 of 3 participants done; failed: sub-02")
    assert last_line.strip().endswith("stopped before sub-01, sub-03 was done")
    assert not (out_dir / "sub-03").exists()


def test_memory_bounds_how_many_run_at_once(bids_dir, tmp_path):
    """Each is expected to need more than half of it."""
    out_dir = tmp_path / "out"
    chosen = ("--participant-label", "01", "02")
    code, last_line, log = atlasgs(
        bids_dir, out_dir, "--nprocs", "2", "--mem", "1G", "--resource-monitor", *chosen
    )
    assert (code, last_line) == (0, "2 of 2 participants done"), log
    spans = []
    for participant in ("01", "02"):
        with (out_dir / "logs" / f"sub-{participant}_resources.tsv").open(newline="") as file:
            rows = {row["stage"]: row for row in csv.DictReader(file, delimiter="\t")}
        whole = rows[f"sub-{participant}: all"]
        begin_s = datetime.strptime(whole["started"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
        spans.append((begin_s, begin_s + float(whole["seconds"])))
    spans.sort()
    assert spans[1][0] >= int(spans[0][1]), "the second begins when the first has ended"


def test_one_participant_in_this_process_stops_at_the_first_crash(bids_dir, tmp_path):
    out_dir = tmp_path / "out"
    blocked = out_dir / "sub-01" / "anat"
    blocked.parent.mkdir(parents=True)
    blocked.touch()  # a file where a folder has to be
    code, last_line, log = atlasgs(bids_dir, out_dir, "--stop-on-first-crash")
    assert code == 1, log
    assert last_line.startswith("0 of 3 participants done; failed: sub-01")
    assert last_line.endswith("stopped before sub-02, sub-03 was done")

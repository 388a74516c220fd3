"""One output folder and several runs: at once, after one another's death, on a full disk."""

import gzip
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from atlasgs_bids.bids.outputs.locks import session_lock
from atlasgs_bids.errors import InputError
from atlasgs_bids.runtime.files import session_mark
from tests.bids_datasets import Dataset
from tests.runs import TIMEOUT_S, atlasgs, command, outputs
from tests.validation import validator_errors

N_KILLS = 10


@pytest.fixture(scope="module")
def bids_dir(tmp_path_factory):
    dataset = Dataset.create(tmp_path_factory.mktemp("shared") / "bids")
    dataset.add_participant("01").add_participant("02")
    return dataset.root


@pytest.fixture(scope="module")
def undisturbed(bids_dir, tmp_path_factory):
    """Results of one run of participant 01, and how long it took."""
    out_dir = tmp_path_factory.mktemp("undisturbed") / "out"
    (seconds,) = forked_runs(bids_dir, [(out_dir, None)])
    return out_dir, seconds


FORKS = """
import json, os, signal, sys, time
import atlasgs_bids.app.session, atlasgs_bids.app.redraw
import gsplat.exporter, matplotlib.backends.backend_agg, torch
torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()
from atlasgs_bids.app.cli import main
for out_dir, delay_s in json.loads(sys.argv.pop(1)):
    sys.argv[2] = out_dir
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        main(prog_name="atlasgs")
    if delay_s is not None:
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(json.dumps([time.monotonic() - begin, status]), flush=True)
"""


def forked_runs(bids_dir, runs):
    """Seconds of each run, given by its output folder and when SIGKILL ends it (None: it must end well).

    Forked from a process that has loaded the libraries, so that the moments fall into the work, not into
    the seconds of imports before it.
    """
    arguments = command(bids_dir, "out_dir", "--participant-label", "01")[3:]
    finished = subprocess.run(
        [sys.executable, "-c", FORKS, json.dumps(runs, default=str), *arguments],
        capture_output=True,
        text=True,
        timeout=5 * TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    ended = [json.loads(line) for line in finished.stdout.splitlines()]
    for (_, delay_s), (_, status) in zip(runs, ended, strict=True):
        assert status in ({0} if delay_s is None else {0, signal.SIGKILL}), finished.stderr
    return [seconds for seconds, _ in ended]


def content(path):
    """What a file says: images without their compression, tables without their times and memory."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if path.name.endswith("_metrics.tsv"):
        names, values = (line.split("\t") for line in data.decode().splitlines())
        row = dict(zip(names, values, strict=True))
        return {
            name: value for name, value in row.items() if not name.startswith(("seconds_", "peak_memory"))
        }
    if path.suffix == ".html" and path.name.startswith("sub-"):
        # What it shows: the text says when it was made, and by which command.
        data = b"".join(re.findall(rb'<script type="text/plain" id="[\w-]+">[^<]*<', data))
    return hashlib.sha256(data).hexdigest()


def tree(out_dir):
    return {
        path.relative_to(out_dir).as_posix(): content(path) for path in out_dir.rglob("*") if path.is_file()
    }


@pytest.mark.slow
def test_killed_at_ten_random_moments_a_run_completes_as_if_undisturbed(bids_dir, undisturbed, tmp_path):
    expected, seconds = undisturbed
    seed = random.SystemRandom().randrange(2**32)
    moments_s = np.random.default_rng(seed).uniform(0, seconds, N_KILLS)
    folders = [tmp_path / f"out-{moment_s:.3f}" for moment_s in moments_s]
    killed = list(zip(folders, moments_s.tolist(), strict=True))
    forked_runs(bids_dir, [run for each in killed for run in (each, (each[0], None))])
    wanted = tree(expected)
    for folder in folders:
        found = tree(folder)
        assert set(found) == set(wanted), f"{folder.name}, seed {seed}"
        assert {name for name in wanted if found[name] != wanted[name]} == set(), f"{folder.name}, {seed}"


def test_two_runs_of_different_participants_share_a_folder(bids_dir, undisturbed, tmp_path):
    out_dir = tmp_path / "out"
    runs = [
        subprocess.Popen(
            command(bids_dir, out_dir, "--participant-label", label),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for label in ("01", "02")
    ]
    for process in runs:
        line, log = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, line.strip()) == (0, "1 of 1 participants done"), log
    assert validator_errors(out_dir) == []
    assert list(out_dir.rglob(".tmp-*")) == []
    expected = tree(undisturbed[0])
    assert {name: text for name, text in tree(out_dir).items() if "sub-02" not in name} == expected


def test_a_participant_that_another_run_works_on_is_left_to_it(bids_dir, tmp_path):
    out_dir = tmp_path / "out"
    with session_lock(out_dir, "02", None):
        code, last_line, log = atlasgs(bids_dir, out_dir, "--participant-label", "02")
    assert code == 1, log
    assert f"sub-02 is being processed by another run (process {os.getpid()} on " in last_line
    assert not outputs(out_dir, "02", "FLAIR").finished
    assert atlasgs(bids_dir, out_dir, "--participant-label", "02")[0] == 0


def test_a_lock_goes_with_its_process_and_its_holder_clears_what_the_dead_one_left(tmp_path):
    script = (
        "import sys, time; from pathlib import Path\n"
        "from atlasgs_bids.bids.outputs.locks import session_lock\n"
        "from atlasgs_bids.runtime.files import atomic\n"
        "with session_lock(Path(sys.argv[1]), '01', 'a'), "
        "atomic(Path(sys.argv[1]) / 'sub-01/figures/sub-01_ses-a_x.png') as temporary:\n"
        "    temporary.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    mark = session_mark("sub-01_ses-b_x.png")
    others = tmp_path / "sub-01" / "figures" / f".tmp-0123abcd.1-1-0123abcd-{mark}.png"
    others.parent.mkdir(parents=True)
    others.touch()
    arguments = [sys.executable, "-c", script, tmp_path]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        with (
            pytest.raises(InputError, match=rf"process {process.pid} on "),
            session_lock(tmp_path, "01", "a"),
        ):
            pass
        with session_lock(tmp_path, "01", "c"):
            pass  # another session of the same participant
        process.kill()
    with session_lock(tmp_path, "01", "a"):
        assert [path.name for path in others.parent.iterdir()] == [others.name]
    assert list((tmp_path / "sub-01").rglob(".tmp-lock")) == []
    assert not (tmp_path / "sub-01" / "ses-a").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_a_failure_that_says_so_and_leaves_no_half_file(bids_dir, small_disk):
    out_dir = small_disk / "out"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2**20 - 150_000))
    code, last_line, log = atlasgs(bids_dir, out_dir, "--participant-label", "01")
    assert code == 1, log
    assert "No space left on device" in last_line
    assert "free some space and run again" in last_line
    assert list(out_dir.rglob(".tmp-*")) == []
    assert not outputs(out_dir, "01", "FLAIR").finished
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    code, last_line, log = atlasgs(bids_dir, out_dir, "--participant-label", "01")
    assert (code, last_line) == (0, "1 of 1 participants done"), log


def test_figures_are_drawn_again_from_the_results_alone(bids_dir, undisturbed, tmp_path):
    out_dir = tmp_path / "out"
    shutil.copytree(undisturbed[0], out_dir)
    paths = outputs(out_dir, "01", "FLAIR")
    paths.figure.unlink()
    paths.metrics_json.write_text("{}")
    code, last_line, log = atlasgs(bids_dir, out_dir, "--reports-only")
    assert code == 1, log
    assert last_line.startswith("1 of 2 participants done; failed: sub-02 FLAIR: found no sub-02_")
    crashes = [name for name in tree(out_dir) if name.startswith("logs/crash-")]
    assert len(crashes) == 1
    new = {*crashes, "sub-02.html"}
    assert {name: text for name, text in tree(out_dir).items() if name not in new} == tree(undisturbed[0])


def test_the_resource_table_has_every_stage(bids_dir, tmp_path):
    out_dir = tmp_path / "out"
    begin_s = time.monotonic()
    code, _, log = atlasgs(bids_dir, out_dir, "--participant-label", "02", "--resource-monitor")
    assert code == 0, log
    path = out_dir / "logs" / "sub-02_resources.tsv"
    names, *rows = (line.split("\t") for line in path.read_text().splitlines())
    table = {row[0]: dict(zip(names, row, strict=True)) for row in rows}
    whole = table.pop("sub-02: all")
    stages = {"sub-02: scaffold", "sub-02: graph"}
    stages |= {f"sub-02 FLAIR: {name}" for name in ("registration", "appearance", "rendering", "writing")}
    assert stages <= set(table)
    total_s = sum(float(row["seconds"]) for row in table.values())
    assert total_s <= float(whole["seconds"]) <= time.monotonic() - begin_s
    for row in (whole, *table.values()):
        assert row["outcome"] == "done"
        assert 50 < float(row["peak_memory"]) <= float(whole["peak_memory"])
        assert float(row["cpu_seconds"]) >= 0
    dictionary = json.loads(Path(path.with_suffix(".json")).read_text())
    assert set(names) <= set(dictionary)
    assert validator_errors(out_dir) == []

"""Atomic writes and tables."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from atlasgs_bids.runtime.files import (
    LONGEST_TEMPORARY,
    atomic,
    load_tsv,
    remove_stale_temporaries,
    save_json,
    save_text,
    save_tsv,
)


def names(folder):
    return [path.name for path in folder.iterdir()]


def fail_halfway(path, error):
    with atomic(path) as temporary:
        temporary.write_text("ha")
        raise error


def test_the_name_appears_only_when_the_block_has_ended(tmp_path):
    path = tmp_path / "new" / "x.nii.gz"
    with atomic(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".nii.gz")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["x.nii.gz"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "x.txt"
    save_text("old", path)
    with pytest.raises(error):
        fail_halfway(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    """As in a DataLad dataset, where results of an earlier run are links to read-only content."""
    content = tmp_path / "content"
    content.write_text("annexed")
    (tmp_path / "x.txt").symlink_to(content)
    save_text("new", tmp_path / "x.txt")
    assert content.read_text() == "annexed"
    assert (tmp_path / "x.txt").read_text() == "new"
    assert not (tmp_path / "x.txt").is_symlink()


def test_a_killed_process_leaves_a_temporary_that_the_next_run_removes(tmp_path):
    script = (
        "import pathlib, sys, time; from atlasgs_bids.runtime.files import atomic\n"
        "with atomic(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    path = tmp_path / "x.txt"
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        assert remove_stale_temporaries(tmp_path) == 0, "a live process still writes"
        process.send_signal(signal.SIGKILL)
    assert not path.exists()
    assert len(names(tmp_path)) == 1
    assert remove_stale_temporaries(tmp_path) == 1
    assert names(tmp_path) == []


def test_another_machines_temporary_goes_when_it_is_old(tmp_path):
    with atomic(tmp_path / "x.txt") as mine:
        mine.touch()
        host = mine.name.removeprefix(".tmp-").partition("-")[0]
        theirs = tmp_path / mine.name.replace(f"-{host}-", "-0123abcd.1-")
    assert theirs != mine
    theirs.write_text("half")
    mine = tmp_path / "sub-01" / "x.txt"
    save_text("done", mine)
    assert remove_stale_temporaries(tmp_path) == 0
    three_days_ago_s = time.time() - 3 * 86400
    os.utime(theirs, (three_days_ago_s, three_days_ago_s))
    os.utime(mine, (three_days_ago_s, three_days_ago_s))
    assert remove_stale_temporaries(tmp_path) == 1
    assert mine.exists()
    assert remove_stale_temporaries(tmp_path / "absent") == 0


def test_tables_have_the_union_of_the_columns(tmp_path):
    path = tmp_path / "x.tsv"
    save_tsv([{"a": 1, "b": 0.123456789}, {"a": None, "c": "two\twords"}, {"b": float("nan")}], path)
    assert path.read_text() == "a\tb\tc\n1\t0.123457\tn/a\nn/a\tn/a\ttwo words\nn/a\tn/a\tn/a\n"
    assert load_tsv(path)[0] == {"a": "1", "b": "0.123457", "c": "n/a"}


def test_a_temporary_name_is_short_however_long_the_final_one(tmp_path):
    path = tmp_path / f"sub-01_acq-{'x' * 231}_FLAIR.nii.gz"
    assert len(path.name) == 255
    with atomic(path) as temporary:
        temporary.touch()
        assert len(temporary.name) <= LONGEST_TEMPORARY
        assert temporary.name.endswith(".nii.gz")
    assert path.exists()


def test_json_leaves_out_what_it_cannot_hold(tmp_path):
    path = tmp_path / "x.json"
    nan = float("nan")
    nested = {"d": [1, nan], "e": [{"f": -np.inf, "g": 1}], "h": np.array([[1.0, nan]]), "i": (0.5, None)}
    content = {"a": np.float32(0.5), "b": np.arange(2), "c": tmp_path, "nan": np.float64(nan), "n": nested}
    save_json({**content, "o": {1}, 7: True, "name": "\udcff"}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "a": 0.5, "b": [0, 1], "c": tmp_path.as_posix(), "n": {"e": [{"g": 1}], "i": [0.5, None]},
        "o": "{1}", "7": True, "name": "\udcff",
    }  # fmt: skip

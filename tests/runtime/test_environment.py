"""Threads, caches and temporary files, in processes of their own: libraries read their variables once."""

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from atlasgs_bids.runtime import environment
from tests.bids_datasets import Dataset
from tests.runs import command, outputs

TIMEOUT_S = 120


def python(script, cwd, **variables):
    """What a script prints as JSON, in a process with these variables alone (None: not set)."""
    keep = ("PATH", "PYTHONPATH")
    surroundings = {name: os.environ[name] for name in keep if name in os.environ} | variables
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env={name: value for name, value in surroundings.items() if value is not None},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


PLACE = """
import json, os, sys
from pathlib import Path
from atlasgs_bids.runtime import environment
work_dir = os.environ.get("TEST_WORK_DIR")
environment.place_caches(Path(work_dir) if work_dir else None)
names = ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "TRITON_CACHE_DIR", "DENO_DIR")
print(json.dumps({name: os.environ.get(name) for name in names}))
"""


def test_caches_go_to_the_work_dir_unless_the_user_says_otherwise(tmp_path):
    placed = python(PLACE, tmp_path, TEST_WORK_DIR=str(tmp_path), MPLCONFIGDIR="mine")
    assert placed["MPLCONFIGDIR"] == "mine"
    for name, folder in {
        "NUMBA_CACHE_DIR": "numba",
        "TRITON_CACHE_DIR": "triton",
        "DENO_DIR": "deno",
    }.items():
        assert placed[name] == str(tmp_path / folder)


def test_without_a_work_dir_caches_lie_in_a_folder_that_only_the_user_can_write(tmp_path):
    placed = python(PLACE, tmp_path, TMPDIR=str(tmp_path))
    folder = Path(placed["TRITON_CACHE_DIR"]).parent
    assert folder == tmp_path / f"atlasgs-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert placed["NUMBA_CACHE_DIR"] is None  # this installation can be written


@pytest.mark.parametrize("trap", ["link", "open", "file"])
def test_a_folder_that_others_could_have_filled_is_not_used(tmp_path, trap):
    """Its content would be loaded as code."""
    folder = tmp_path / f"atlasgs-{os.getuid()}"
    if trap == "link":
        (tmp_path / "theirs").mkdir()
        folder.symlink_to(tmp_path / "theirs")
    elif trap == "open":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.touch()
    placed = python(PLACE, tmp_path, TMPDIR=str(tmp_path))
    chosen = Path(placed["TRITON_CACHE_DIR"]).parent
    assert chosen != folder
    assert chosen.parent == tmp_path
    assert stat.S_IMODE(chosen.stat().st_mode) == 0o700


READ_ONLY = """
import json, os, sys
from pathlib import Path
import atlasgs_bids
from atlasgs_bids.runtime import environment
package = Path(atlasgs_bids.__file__).parent
os.access = lambda path, mode: path != package
environment.place_caches(None)
from atlasgs_bids.core.splat import numba_kernels as cpu
import numpy as np
cpu.slab_lists(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32), 4)
folder = Path(os.environ["NUMBA_CACHE_DIR"])
print(json.dumps([str(folder), len(list(folder.rglob("*.nbc")))]))
"""


def test_kernels_of_a_read_only_installation_are_kept_in_the_temporary_directory(tmp_path):
    folder, n_kernels = python(READ_ONLY, tmp_path, TMPDIR=str(tmp_path))
    assert folder == str(tmp_path / f"atlasgs-{os.getuid()}" / "numba")
    assert n_kernels > 0


NO_TEMPORARY = """
import json, os, tempfile
from pathlib import Path
from atlasgs_bids.runtime import environment
environment._SYSTEM_TEMPORARY = ()  # as on a read-only file system: nothing but the current folder is left
work_dir = os.environ.get("TEST_WORK_DIR")
try:
    environment.place_caches(Path(work_dir) if work_dir else None)
    print(json.dumps(tempfile.mkdtemp()))
except environment.ConfigurationError as error:
    print(json.dumps(str(error)))
"""


def test_without_a_temporary_directory_the_work_dir_serves(tmp_path):
    (tmp_path / "work").mkdir()
    made = python(NO_TEMPORARY, tmp_path, TEST_WORK_DIR=str(tmp_path / "work"))
    assert Path(made).parent == tmp_path / "work"
    assert "pass --work-dir" in python(NO_TEMPORARY, tmp_path)


LIMIT = """
import json, os, sys
from atlasgs_bids.runtime.environment import limit_threads
before = os.environ.get("TEST_BEFORE")
if not before: limit_threads(1)
import torch, numba, SimpleITK, threadpoolctl, numpy
if before: limit_threads(1)
numba.njit(parallel=True)(lambda: 0)
threads = {each["filepath"].split("/")[-1]: each["num_threads"] for each in threadpoolctl.threadpool_info()}
print(json.dumps({"torch": torch.get_num_threads(), "numba": numba.get_num_threads(),
    "ITK": SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()} | (threads if not before else {})))
"""


@pytest.mark.parametrize("before", [None, "yes"])
def test_every_library_keeps_to_its_share_of_threads(tmp_path, before):
    """Loaded before or after the limit is set."""
    threads = python(LIMIT, tmp_path, TEST_BEFORE=before)
    assert len(threads) >= 3
    assert set(threads.values()) == {1}


def test_the_share_is_that_of_the_processors_this_process_may_use(tmp_path):
    script = (
        "import json, os; from atlasgs_bids.runtime.environment import share_of_threads as share\n"
        "all_of_them = share(1); os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "print(json.dumps([all_of_them, share(1), share(4)]))"
    )
    n_here = len(os.sched_getaffinity(0))
    whole, one, quarter = python(script, tmp_path)
    assert 1 <= whole <= n_here
    assert (one, quarter) == (1, 1)


@pytest.mark.parametrize(("stated", "share"), [("3", 3), ("5,2", 5)])
def test_a_stated_number_of_threads_wins(monkeypatch, stated, share):
    monkeypatch.setenv("OMP_NUM_THREADS", stated)
    assert environment.share_of_threads(2) == share


NOBODY = max((entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid < 60_000), default=0) + 1
"""A number that belongs to no user."""


@pytest.fixture
def open_folder():
    """A folder that other users can look into, which tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="atlasgs-open-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root, and setpriv, to be somebody else"
)
def test_a_user_without_an_entry_and_a_home_is_served(open_folder):
    """As in a container on a cluster: pybids asks for the home while it loads, others for the user's name."""
    dataset = Dataset.create(open_folder / "bids").add_participant("01")
    temporary, out_dir = open_folder / "tmp", open_folder / "out"
    for folder in (temporary, out_dir):
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)
    # The interpreter may lie in root's home: that user may read everything, and write what is its own.
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    as_nobody += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    nameless = {"HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "NUMBA_CACHE_DIR"}
    variables = {name: value for name, value in os.environ.items() if name not in nameless}
    finished = subprocess.run(
        [*as_nobody, *command(dataset.root, out_dir)],
        env={**variables, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    files = outputs(out_dir, "01", "FLAIR")
    assert files.finished
    assert files.sr.stat().st_uid == NOBODY
    assert (temporary / f"atlasgs-{NOBODY}").is_dir()

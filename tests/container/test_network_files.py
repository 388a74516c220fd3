"""Locks and workers on a network file system: GlusterFS, two clients that share nothing but the server."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atlasgs_bids.app.outcomes import status_of
from atlasgs_bids.bids.outputs.locks import lock_holder, session_lock
from atlasgs_bids.errors import SessionHeldError
from tests.bids_datasets import Dataset
from tests.container.conftest import HERE, finished, missing, skip_unless_it_works
from tests.runs import TIMEOUT_S, command

pytestmark = pytest.mark.container

HOLD = """
import sys, time; from pathlib import Path
from atlasgs_bids.bids.outputs.locks import session_lock
with session_lock(Path(sys.argv[1]), "01", None):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def mounts(tmp_path_factory):
    """Two folders, each the same one through a client of its own."""
    reason = missing("gluster", "glusterd", "mount.glusterfs")
    if reason:
        pytest.skip(f"no network file system here: {reason}")
    folder = tmp_path_factory.mktemp("gluster")
    try:
        reason = "no network file system can be mounted here"
        skip_unless_it_works(reason, HERE / "gluster.sh", "start", folder)
        yield folder / "a", folder / "b"
    finally:
        finished(HERE / "gluster.sh", "stop", folder)


def holding(out_dir):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(out_dir)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def client_of(mount):
    """Process number of what serves a mount on this side."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[0].endswith("glusterfs") and str(mount) in words:
            return int(path.parent.name)
    raise AssertionError(f"nothing serves {mount}")


def test_a_lock_holds_across_clients_and_goes_with_its_process_or_its_node(mounts):
    here, there = (mount / "out" for mount in mounts)
    holder = holding(here)
    assert lock_holder(there, "01", None).startswith(f"process {holder.pid} on ")
    with pytest.raises(SessionHeldError, match=f"process {holder.pid} on "), session_lock(there, "01", None):
        pass
    holder.kill()
    holder.communicate()
    with session_lock(there, "01", None):
        assert lock_holder(here, "01", None).startswith(f"process {os.getpid()} on ")
    (here / "first").touch(exist_ok=False)
    with pytest.raises(FileExistsError):
        (there / "first").touch(exist_ok=False)
    holder = holding(here)
    os.kill(client_of(mounts[0]), signal.SIGKILL)  # the server hears no more of it, as of a node that dies
    begin_s = time.monotonic()
    while lock_holder(there, "01", None) is not None:
        assert time.monotonic() - begin_s < 60
        time.sleep(0.1)
    with session_lock(there, "01", None):
        pass
    holder.kill()
    holder.communicate()


def test_two_workers_share_a_network_folder(mounts, tmp_path):
    dataset = Dataset.create(tmp_path / "bids")
    for label in ("01", "02", "03"):
        dataset.add_participant(label)
    workers = [
        subprocess.Popen(
            command(dataset.root, mount / "out", "--worker", "night", "--omp-nthreads", "1"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for mount in mounts
    ]  # fmt: skip
    ends = [process.communicate(timeout=TIMEOUT_S) for process in workers]
    assert [process.returncode for process in workers] == [0, 0], ends
    assert sum(int(line.removeprefix("worker: ").split()[0]) for line, _ in ends) == 3
    for mount in mounts:
        assert status_of(mount / "out", dataset.root, ()).counts["done"] == 3
        assert list((mount / "out").rglob(".tmp-*")) == []

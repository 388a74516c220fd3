"""atlasgs-submit on a SLURM of two nodes that share a folder: workers, a node and the controller die.

Both nodes are daemons of this machine; what a network file system does to locks is not seen here.
"""

import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from atlasgs_bids.app.outcomes import status_of
from atlasgs_bids.runtime.files import load_tsv
from tests.bids_datasets import Dataset
from tests.container.conftest import HERE, finished, missing, skip_unless_it_works, succeeded
from tests.runs import FAST

pytestmark = pytest.mark.container

N_PARTICIPANTS, N_WORKERS = 9, 3
NODES = ("node1", "node2")
TIMEOUT_S = 480


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Folder of a SLURM of two nodes, and the environment in which its commands find it."""
    pytest.importorskip("submitit", reason="the extra `cluster` is not installed")
    reason = missing("sbatch", "slurmctld", "slurmd", "munged")
    if reason:
        pytest.skip(f"no SLURM here: {reason}")
    folder = tmp_path_factory.mktemp("nodes")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    try:
        skip_unless_it_works(
            "SLURM of two nodes does not start here", HERE / "slurm.sh", "start", folder, "2"
        )
        yield folder, {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        finished(HERE / "slurm.sh", "stop", folder)


def process_files(name):
    """Process number -> content of its file under /proc, of every process that may be looked at."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            found[int(path.name)] = (path / name).read_bytes().replace(b"\0", b"\n").decode(errors="replace")
        except OSError:
            continue
    return found


def workers_on(node, out_dir):
    """Process numbers of the workers of this test that run on a node."""
    commands = process_files("cmdline")
    return [
        pid
        for pid, environment in process_files("environ").items()
        if f"SLURMD_NODENAME={node}\n" in environment
        and "submitit.core._submit" in commands.get(pid, "")
        and "srun" not in commands[pid]
        and str(out_dir) in commands[pid]
    ]


def kill_node(folder, node, environment):
    """The daemon, its steps and whatever runs in them, at once and without a word, as when the power goes."""
    jobs = set(succeeded("squeue", "-w", node, "-h", "-o", "%A", env=environment).split())
    steps = [
        pid
        for pid, command in process_files("cmdline").items()
        if (match := re.match(r"slurmstepd: \[(\d+)\.", command)) and match[1] in jobs
    ]
    inside = [
        pid for pid, values in process_files("environ").items()
        if f"SLURMD_NODENAME={node}\n" in values and f"SLURM_CONF={folder}/" in values
    ]  # fmt: skip
    for pid in (int((folder / f"slurmd-{node}.pid").read_text()), *steps, *inside):
        with suppress(ProcessLookupError):  # it went with one before it
            os.kill(pid, signal.SIGKILL)


class Watch:
    """Every finished target's table as it was when it was first seen: one that is done again differs."""

    def __init__(self, out_dir):
        self.out_dir = out_dir
        self.first = {}

    def look(self):
        for path in self.out_dir.glob("sub-*/anat/*_desc-sr_metrics.tsv"):
            status = path.stat()
            seen = self.first.setdefault(path.name, (status.st_ino, status.st_mtime_ns))
            assert seen == (status.st_ino, status.st_mtime_ns), f"{path.name} was done twice"

    def until(self, happened, what):
        deadline_s = time.monotonic() + TIMEOUT_S
        while not happened():
            self.look()
            assert time.monotonic() < deadline_s, what
            time.sleep(0.3)
        self.look()


def test_a_node_a_worker_and_the_controller_die_and_nothing_is_lost(nodes, tmp_path, report):
    folder, environment = nodes
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    dataset, out_dir = Dataset.create(tmp_path / "bids"), tmp_path / "out"
    labels = [f"{number:02}" for number in range(1, N_PARTICIPANTS + 1)]
    for label in labels:
        dataset.add_participant(label)
    dataset.path("04", "T1w").unlink()
    watch, begin_s = Watch(out_dir), time.monotonic()
    submit = (sys.executable, "-m", "atlasgs_bids.app.submit", dataset.root, out_dir, "--partition", "main")
    size = ("--workers", N_WORKERS, "--cpus-per-worker", 1, "--mem-per-worker", 1.5, "--time", 30)
    slow = ("--scaffold-steps", 600)  # some seconds a participant: what dies, dies in the middle of one
    said = succeeded(*submit, *size, *FAST, *slow, env=environment)
    batch, array, group = re.match(
        r"batch (\S+): array (\d+) of 3 workers, then group job (\d+)", said
    ).groups()
    queue = succeeded("squeue", "-h", "-r", "-o", "%i %t", env=environment).split("\n")
    assert {line.split()[0] for line in queue if line} == {*(f"{array}_{n}" for n in range(N_WORKERS)), group}

    def begun():
        return list((out_dir / "logs" / "batch" / batch).glob("*.begun"))

    watch.until(lambda: len(begun()) == N_WORKERS, "all workers are at a session")
    by_node = sorted(
        (len(workers), node, workers) for node in NODES if (workers := workers_on(node, out_dir))
    )
    (n_lone, lost, _), (n_others, _, others) = by_node
    assert (n_lone, n_others) == (1, 2), by_node
    os.kill(others[0], signal.SIGKILL)
    kill_node(folder, lost, environment)
    os.kill(int((folder / "slurmctld.pid").read_text()), signal.SIGKILL)
    watch.until(lambda: len(watch.first) >= 2, "the last worker goes on")
    succeeded(HERE / "slurm.sh", "controller", folder)
    watch.until(lambda: "Restarts=1" in shown_jobs(environment), "the lost node's worker is queued again")
    watch.until(lambda: not succeeded("squeue", "-h", env=environment).strip(), "all jobs end")
    states = job_states(environment)
    report(f"SLURM of two nodes, {N_PARTICIPANTS} participants: {time.monotonic() - begin_s:.0f} s; {states}")

    status = status_of(out_dir, None, ())
    found = {outcome.label: outcome.state for outcome in status.outcomes}
    assert found == {f"sub-{n} FLAIR": "done" for n in labels if n != "04"} | {"sub-04": "failed"}
    crashes = [path.read_text().splitlines()[0] for path in (out_dir / "logs").glob("crash-*.txt")]
    assert crashes == ["sub-04"]
    assert len(load_tsv(out_dir / "group_FLAIR.tsv")) == N_PARTICIPANTS - 1
    assert states[group] == "COMPLETED"
    assert list(out_dir.rglob(".tmp-*")) == []
    dead = [path.read_text() for path in begun()]
    assert len(dead) <= 2, dead  # what the killed ones were at, said by who and where


def shown_jobs(environment):
    """What SLURM says of every job; nothing while its controller comes up."""
    return finished("scontrol", "--oneliner", "show", "job", env=environment).stdout


def job_states(environment):
    """State of every job, by its number or that of its array and its place there."""
    states = {}
    for line in shown_jobs(environment).splitlines():
        fields = dict(re.findall(r"(\w+)=(\S+)", line))
        task = fields.get("ArrayTaskId")
        label = fields["JobId"] if task is None else f"{fields['ArrayJobId']}_{task}"
        states[label] = fields["JobState"]
    return states

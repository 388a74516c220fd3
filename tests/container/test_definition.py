"""singularity.def, run section by section, and the job scripts of docs/cluster.md on a real SLURM."""

import os
import re
import shutil
import socket
import time

import pytest

from tests.bids_datasets import Dataset
from tests.container.conftest import (
    DEFINITION_IMAGE,
    HERE,
    ROOT,
    finished,
    missing,
    skip_unless_it_works,
    succeeded,
)
from tests.container.singularity import parse
from tests.runs import FAST, outputs

pytestmark = pytest.mark.container

SECTIONS = {"files", "post", "environment", "runscript", "test", "labels", "help"}
CLUSTER_TIMEOUT_S = 240


def test_the_definition_has_every_section_and_the_base_of_the_dockerfile():
    header, sections = parse((ROOT / "singularity.def").read_text(encoding="utf-8"))
    assert set(sections) == SECTIONS
    assert f"ARG BASE_IMAGE={header['from']}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "--nv" in sections["help"]


def test_its_own_test_passes_and_its_runscript_takes_arguments(definition_image):
    image, log = definition_image
    assert re.search(r"^atlasgs, version \S+$", log, re.MULTILINE)
    ended = image.run("--version")
    assert ended.stdout.startswith("atlasgs, version "), ended.stderr


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Environment in which sbatch finds a SLURM of one node."""
    reason = missing("sbatch", "slurmctld", "slurmd", "munged")
    if reason:
        pytest.skip(f"no SLURM here: {reason}")
    folder = tmp_path_factory.mktemp("slurm")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    try:
        skip_unless_it_works("SLURM does not start here", HERE / "slurm.sh", "start", folder)
        yield {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        finished(HERE / "slurm.sh", "stop", folder)


def code_blocks():
    """The shell scripts of docs/cluster.md: participants, group, submit."""
    return re.findall(
        r"```bash\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8"), re.DOTALL
    )


def test_the_array_and_its_dependent_group_job_run_as_documented(definition_image, cluster, tmp_path, report):
    """Two participants, one of which fails: the tables come all the same, and the exit codes tell."""
    dataset = Dataset.create(tmp_path / "bids").add_participant("01").add_participant("02")
    dataset.path("02", "T1w").unlink()
    participants, group, submit = code_blocks()
    (tmp_path / "participants.sbatch").write_text(participants, encoding="utf-8")
    (tmp_path / "group.sbatch").write_text(group, encoding="utf-8")
    tools = tmp_path / "bin"
    tools.mkdir()
    shutil.copy(HERE / "apptainer", tools)
    out_dir = tmp_path / "out"
    values = {"BIDS_DIR": dataset.root, "OUT_DIR": out_dir, "IMAGE": "atlasgs.sif"}
    _, *rest = submit.splitlines()  # the first line sets the variables to a site's own paths
    environment = {
        **cluster,
        **{name: str(value) for name, value in values.items()},
        "ATLASGS_OPTIONS": " ".join(FAST),
        "DEFINITION_IMAGE": DEFINITION_IMAGE,
        "PATH": f"{tools}:{os.environ['PATH']}",
    }
    begin_s = time.monotonic()
    shown = succeeded("bash", "-euo", "pipefail", "-c", "\n".join(rest), env=environment, cwd=tmp_path)
    group_job = re.search(r"Submitted batch job (\d+)", shown)[1]
    states = wait_for_jobs(environment)
    report(f"SLURM array of 2 and group job on {socket.gethostname()}: {time.monotonic() - begin_s:.0f} s")
    logs = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("atlasgs-*.log")}
    array_job = str(int(group_job) - 1)
    assert states == {
        f"{array_job}_0": "COMPLETED 0:0",
        f"{array_job}_1": "FAILED 1:0",
        group_job: "COMPLETED 0:0",
    }, logs
    assert outputs(out_dir, "01", "FLAIR").finished
    assert "found no T1w image" in logs[f"atlasgs-{array_job}_1.log"]
    assert (
        "1 of 2 participants in group_*.tsv; no results of sub-02" in logs[f"atlasgs-group-{group_job}.log"]
    )
    assert (out_dir / "group_FLAIR.tsv").read_text().count("sub-01") == 1


def wait_for_jobs(environment):
    """State and exit code of every job, once all have ended."""
    deadline_s = time.monotonic() + CLUSTER_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if not succeeded("squeue", "--noheader", "--states=PD,R,CG,CF", env=environment).strip():
            break
        time.sleep(1)
    shown = succeeded("scontrol", "--oneliner", "show", "job", env=environment)
    states = {}
    for line in shown.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S+)", line))
        task = fields.get("ArrayTaskId")
        label = fields["JobId"] if task is None else f"{fields['ArrayJobId']}_{task}"
        states[label] = f"{fields['JobState']} {fields['ExitCode']}"
    return states

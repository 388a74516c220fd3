"""atlasgs-submit: what sbatch is given, and what is refused before it; docs/cluster.md says the same.

tests/container/test_nodes.py submits to a real SLURM.
"""

import os
import re
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from atlasgs_bids.app import submit
from atlasgs_bids.app.cli import main as atlasgs
from atlasgs_bids.version import __version__
from tests.bids_datasets import Dataset

PAGE = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text("utf-8")
SBATCH = """#!/bin/sh
cp "$1" "$SUBMITTED/$(ls "$SUBMITTED" | wc -l).sh"
echo "Submitted batch job $((40 + $(ls "$SUBMITTED" | wc -l)))"
"""


@pytest.fixture
def submitted(tmp_path, monkeypatch):
    """A function that submits with options; exit code, what is said, and the files that sbatch was given."""
    pytest.importorskip("submitit", reason="the extra `cluster` is not installed")
    dataset = Dataset.create(tmp_path / "bids")
    tools, folder = tmp_path / "bin", tmp_path / "submitted"
    folder.mkdir()
    tools.mkdir()
    for name, script in (("sbatch", SBATCH), ("srun", "#!/bin/sh\n")):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("SUBMITTED", str(folder))

    def run(*options):
        arguments = [str(dataset.root), str(tmp_path / "out"), *options]
        result = CliRunner().invoke(submit.main, arguments)
        return result.exit_code, result.output, [p.read_text() for p in sorted(folder.iterdir())]

    return run


def test_one_array_and_the_group_level_after_it(submitted):
    options = ("--partition", "gpu", "--workers", "8", "--gpus-per-worker", "1", "--mem-per-worker", "6.5")
    more = ("--slurm", "constraint=a100", "--slurm", "exclusive", "--time", "90")
    code, said, files = submitted(*options, *more, "--prior", "graph")
    assert code == 0, said
    array, group = files
    assert re.fullmatch(r"batch \w+: array 41 of 8 workers, then group job 42\n", said)
    lines = set(array.splitlines())
    assert lines >= {
        "#SBATCH --array=0-7%8", "#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=1", "#SBATCH --requeue",
        "#SBATCH --time=90", "#SBATCH --mem=6656MB", "#SBATCH --constraint=a100", "#SBATCH --exclusive",
        "#SBATCH --cpus-per-task=4",
    }  # fmt: skip
    assert "--dependency" not in array
    assert "#SBATCH --dependency=afterany:41" in group.splitlines()
    assert "#SBATCH --requeue" in group.splitlines()
    assert "--array" not in group
    assert "--gpus" not in group


def test_what_a_job_runs_is_the_command_itself(tmp_path):
    """A failing command fails its job, and one that is queued again is the same command."""
    pytest.importorskip("submitit", reason="the extra `cluster` is not installed")
    dataset = Dataset.create(tmp_path / "bids")
    job = submit.Invocation((str(dataset.root), str(tmp_path / "out"), "participant", "--worker", "night"))
    with pytest.raises(RuntimeError, match="exit code 2"):  # a dataset without participants
        job()
    assert job.checkpoint().function == job


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--priro", "graph"), "No such option"),
        (("--prior", "best"), "'best' is not one of"),
        (("--slurm", "=x"), "expected NAME=VALUE"),
    ],
)
def test_what_would_fail_on_every_node_is_refused_here(options, said, submitted):
    code, output, files = submitted(*options)
    assert (code, files) == (2, [])
    assert said in output


def test_the_page_explains_every_option():
    table = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
    options = [param for param in submit.main.params if isinstance(param, click.Option)]
    assert len(options) > 5
    assert [o.opts[0] for o in options if o.name != "version" and f"`{o.opts[0]}" not in table] == []


def test_the_babs_configuration_asks_for_options_that_exist():
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    known = {name for param in atlasgs.params for name in param.opts}
    stated = config["bids_app_args"]
    assert {name for name in stated if not name.startswith("$")} | {
        stated["$SUBJECT_SELECTION_FLAG"]
    } <= known
    assert all(isinstance(value, str) for value in stated.values())  # BABS looks for placeholders in them
    assert config["zip_foldernames"] == {"atlasgs": __version__.replace(".", "-")}

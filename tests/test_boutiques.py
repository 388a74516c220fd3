"""boutiques.json against the real options, and through the real tool."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from atlasgs_bids.app import cli
from atlasgs_bids.app import run as app
from tests.bids_datasets import Dataset

from describe import DESCRIPTOR, described, public_options, text_of


def bosh(*arguments):
    finished = subprocess.run(
        [Path(sys.executable).parent / "bosh", *arguments], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def descriptor():
    return json.loads(DESCRIPTOR.read_text(encoding="utf-8"))


def test_the_descriptor_is_the_one_that_the_options_make(descriptor):
    expected = text_of(described(descriptor))
    assert DESCRIPTOR.read_text(encoding="utf-8") == expected, "run `make boutiques` and look at what changed"


def test_every_option_is_described_and_every_description_is_an_option(descriptor):
    """By name, straight from click: the generator cannot hide an option from this."""
    flags = {entry["command-line-flag"] for entry in descriptor["inputs"] if "command-line-flag" in entry}
    names = {name for param in cli.main.params if isinstance(param, click.Option) for name in param.opts}
    assert flags <= names
    for param in public_options():
        assert flags & set(param.opts), f"{param.opts} is not described"
    assert {"--version", "--help", "-h"} & flags == set()


def test_every_option_is_explained():
    for param in public_options():
        assert param.help or param.name == "seed", f"{param.opts} has no help"


@pytest.mark.parametrize("more", [[], ["--bids"]])
def test_the_descriptor_is_valid(more):
    assert "OK" in bosh("validate", *more, str(DESCRIPTOR))


@pytest.mark.parametrize("level", ["participant", "group"])
def test_the_simulated_command_line_is_understood(level, tmp_path, monkeypatch):
    """What bosh would run, given to the real command."""
    dataset = Dataset.create(tmp_path / "bids data").add_participant("01").add_participant("02")
    invocation = {
        "bids_dir": str(dataset.root),
        "output_dir_name": str(tmp_path / "out put"),
        "analysis_level": level,
        "participant_label": ["01", "02"],
        "session_id": ["a", "b"],
        "derivatives": [f"fmriprep={tmp_path}"],
        "nprocs": 2,
        "mem": "8G",
        "resolution": "0.8",
        "overwrite": True,
    }
    path = tmp_path / "invocation.json"
    path.write_text(json.dumps(invocation), encoding="utf-8")
    line = bosh("exec", "simulate", str(DESCRIPTOR), "-i", str(path)).splitlines()[-1]
    made, command = line.split("; ", 1)
    assert shlex.split(made) == ["mkdir", "-p", str(tmp_path / "out put")]
    name, *arguments = shlex.split(command)
    seen = []
    monkeypatch.setattr(app, "run", lambda config: seen.append(config) or 0)
    result = CliRunner().invoke(cli.main, arguments)
    assert (name, result.exit_code) == ("atlasgs", 0), result.output
    (config,) = seen
    assert (config.bids_dir, config.out_dir) == (dataset.root, tmp_path / "out put")
    assert (config.analysis_level, config.participant_labels) == (level, ("01", "02"))
    assert (config.session_ids, config.derivatives) == (("a", "b"), {"fmriprep": tmp_path})
    assert (config.n_procs, config.memory_mib, config.restoration.resolution) == (2, 8192, 0.8)
    assert config.overwrite

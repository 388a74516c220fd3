"""Where an option's value may come from, and what the options for clusters accept."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from atlasgs_bids.app import cli
from atlasgs_bids.app import run as app
from atlasgs_bids.restoration.settings import RestorationSettings
from tests.bids_datasets import Dataset


@pytest.fixture
def bids_dir(tmp_path):
    return Dataset.create(tmp_path / "bids").add_participant("01").root


@pytest.fixture
def invoke(monkeypatch, bids_dir, tmp_path):
    """Exit code, output and the RunConfig (None where refused) of a command line."""

    def invoked(*arguments, config=None, environment=None):
        seen = []
        monkeypatch.setattr(app, "run", lambda config: seen.append(config) or 0)
        if config is not None:
            path = tmp_path / "config.toml"
            path.write_text(config, encoding="utf-8")
            arguments = [*arguments, "--config-file", str(path)]
        positionals = [str(bids_dir), str(tmp_path / "out"), "participant"]
        result = CliRunner().invoke(cli.main, [*positionals, *arguments], env=environment)
        return result.exit_code, " ".join(result.output.split()), seen[0] if seen else None

    return invoked


def test_a_file_states_options_by_their_names(invoke, tmp_path):
    code, output, config = invoke(
        config=f"""
        participant-label = ["01", "sub-02"]
        session_id = "a b"
        device = "cpu"
        nprocs = 3
        omp-nthreads = 2
        mem = 8000
        resolution = 0.8
        tolerance = 1e-3
        overwrite = true
        verbose = 2
        derivatives = ["fmriprep={tmp_path}"]
        work-dir = "{tmp_path}/work"
        """
    )
    assert code == 0, output
    assert (config.participant_labels, config.session_ids) == (("01", "02"), ("a", "b"))
    restoration = config.restoration
    assert (restoration.device, config.n_procs, restoration.n_threads) == ("cpu", 3, 2)
    assert (config.memory_mib, restoration.resolution, config.overwrite) == (8000, 0.8, True)
    assert restoration.core.appearance.tolerance == 1e-3
    assert (config.verbosity, config.work_dir) == (2, tmp_path / "work")
    assert config.derivatives == {"fmriprep": tmp_path}


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(invoke):
    file, environment = (
        "nprocs = 2\nseed = 2\nmax-iterations = 2",
        {"ATLASGS_NPROCS": "3", "ATLASGS_SEED": "3"},
    )
    code, output, config = invoke("--nprocs", "4", config=file, environment=environment)
    assert code == 0, output
    assert (config.n_procs, config.restoration.core.seed) == (4, 3)
    assert config.restoration.core.appearance.max_iterations == 2


def test_every_kind_of_option_is_read_from_the_environment(invoke, tmp_path):
    (tmp_path / "config.toml").write_text("seed = 9")
    code, output, config = invoke(
        environment={
            "ATLASGS_PARTICIPANT_LABEL": "01 sub-02",
            "ATLASGS_OVERWRITE": "1",
            "ATLASGS_VERBOSE": "1",
            "ATLASGS_MEM": "2G",
            "ATLASGS_CONFIG_FILE": str(tmp_path / "config.toml"),
        }
    )
    assert code == 0, output
    assert (config.participant_labels, config.overwrite, config.verbosity) == (("01", "02"), True, 1)
    assert (config.memory_mib, config.restoration.core.seed) == (2048, 9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nproc = 2", "unknown option 'nproc', expected one of"),
        ("bids_dir = '/data'", "unknown option 'bids_dir'"),
        ("config-file = 'x.toml'", "unknown option 'config-file'"),
        ("version = true", "unknown option 'version'"),
        ("[device]\nname = 'cpu'", "device is a table, expected a value"),
        ("device = ['cpu']", "device is a list, expected one value"),
        ("device = ", "is not valid TOML"),
        ("nprocs = 0", "Invalid value for '--nprocs'"),
        ("resolution = 'small'", "neither iso nor anchor"),
    ],
)
def test_a_faulty_file_is_wrong_usage(invoke, content, message):
    code, output, config = invoke(config=content)
    assert (code, config) == (2, None)
    assert message in output


@pytest.mark.parametrize(
    ("given", "mib"),
    [
        ("8G", 8192),
        ("8GB", 8192),
        ("8gib", 8192),
        ("1.5 g", 1536),
        ("500", 500),
        ("500M", 500),
        ("2T", 2**21),
    ],
)
def test_memory_has_a_suffix_or_is_in_megabytes(invoke, given, mib):
    assert invoke("--mem", given)[2].memory_mib == mib


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mem", "much"], "expected a number with a suffix"),
        (["--mem", "0"], "expected a number with a suffix"),
        (["--mem", "-1"], "expected a number with a suffix"),
        (["--nprocs", "0"], "x>=1"),
        (["--omp-nthreads", "0"], "x>=1"),
        (["-d", "fmriprep"], "expected NAME=PATH"),
        (["-d", "fmriprep=/no/such/folder"], "fmriprep: /no/such/folder is no folder"),
        (["--reports-only", "--overwrite"], "--reports-only fits nothing"),
        (["--config-file", "/no/such/file"], "does not exist"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(invoke, options, message):
    code, output, config = invoke(*options)
    assert (code, config) == (2, None)
    assert message in output


def test_derivatives_are_a_list_of_named_folders(invoke, tmp_path):
    folders = [f"{name}={tmp_path}" for name in ("fmriprep", "smriprep")]
    expected = {"fmriprep": tmp_path, "smriprep": tmp_path}
    assert invoke("-d", *folders)[2].derivatives == expected
    assert invoke("-d", folders[0], "--derivatives", folders[1], "--notrack")[2].derivatives == expected


def test_an_index_inside_the_dataset_is_refused(bids_dir, tmp_path):
    arguments = [
        str(bids_dir),
        str(tmp_path / "out"),
        "participant",
        "--bids-database-dir",
        str(bids_dir / "db"),
    ]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    assert "BIDS database dir" in result.output


def test_help_comes_at_once():
    """The best of three, for the machine may be busy."""
    command = [Path(sys.executable).parent / "atlasgs", "--help"]
    seconds = []
    for _ in range(3):
        begin_s = time.monotonic()
        subprocess.run(command, capture_output=True, check=True)
        seconds.append(time.monotonic() - begin_s)
    assert min(seconds) < 0.5


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [
        ("auto", "cuda:0", "learned"),
        ("auto", "cpu", "graph"),
        ("graph", "cuda:0", "graph"),
        ("learned", "cpu", "learned"),
    ],
)
def test_the_prior_of_an_image_follows_the_device_unless_it_is_named(asked, device, expected):
    assert RestorationSettings(prior=asked, device=device).image_prior == expected

"""The command line: what becomes of each option, and exit code 2 for what cannot be honoured."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from atlasgs_bids import RunConfig, __version__
from atlasgs_bids.app import cli
from atlasgs_bids.app import run as app
from tests.bids_datasets import Dataset


@pytest.fixture
def bids_dir(tmp_path):
    return Dataset.create(tmp_path / "bids").add_participant("01").add_participant("02").root


@pytest.fixture
def parse(monkeypatch, bids_dir, tmp_path):
    """The RunConfig that ``run`` would get for given arguments."""

    def parsed(*options, before=()):
        seen = []
        monkeypatch.setattr(app, "run", lambda config: seen.append(config) or 0)
        positionals = [str(bids_dir), str(tmp_path / "out"), "participant"]
        result = CliRunner().invoke(cli.main, [*before, *positionals, *options])
        assert result.exit_code == 0, result.output
        (config,) = seen
        return config

    return parsed


@pytest.fixture
def invoke(bids_dir, tmp_path):
    """Exit code and output of a run that is refused or only planned."""

    def invoked(*arguments, out=None, level="participant"):
        out = tmp_path / "out" if out is None else out
        result = CliRunner().invoke(cli.main, [str(bids_dir), str(out), level, *arguments])
        return result.exit_code, result.output

    return invoked


def test_importing_the_command_line_is_cheap():
    heavy = ("torch", "bids", "nibabel", "nilearn", "SimpleITK", "matplotlib", "numba", "scipy", "pandas")
    script = f"import sys, atlasgs_bids.app.cli; print([name for name in {heavy!r} if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_defaults_are_those_of_the_settings(parse, bids_dir, tmp_path):
    assert parse() == RunConfig(bids_dir=bids_dir, out_dir=tmp_path / "out", analysis_level="participant")


def test_slice_thickness_for_all_and_by_kind(parse):
    config = parse("--slice-thickness", "5", "FLAIR=4", "--combine-stacks", "all")
    assert config.plan.slice_thickness_mm == {"": 5.0, "FLAIR": 4.0}
    assert (config.plan.given_thickness_mm("FLAIR"), config.plan.given_thickness_mm("T2w")) == (4.0, 5.0)
    assert config.plan.combine_stacks == "all"
    assert parse().plan.given_thickness_mm("FLAIR") is None


@pytest.mark.parametrize("value", ["thick", "bold=3", "FLAIR=", "-1", "0", "400", "FLAIR=nan"])
def test_a_slice_thickness_that_is_none(invoke, value):
    exit_code, output = invoke(f"--slice-thickness={value}")
    assert exit_code == 2
    assert "--slice-thickness" in output


def test_every_option_reaches_the_settings(parse, tmp_path):
    profile = tmp_path / "profile.txt"
    profile.write_text("-2 0\n0 1\n2 0\n")
    config = parse(
        *("--session-label", "ses-a", "b", "--skip-bids-validation", "-w", str(tmp_path / "work"), "-vv"),
        *(
            "--device",
            "cuda:1",
            "--overwrite",
            "--dry-run",
            "--registration",
            "header",
            "--resolution",
            "0.8",
        ),
        *("--slice-profile", str(profile), "--n-gaussians", "500", "--scaffold-steps", "3"),
        *("--regularization", "0.5", "--tolerance", "1e-3", "--max-iterations", "9", "--seed", "4"),
        *("--geometry", "offset"),
    )
    restoration = config.restoration
    assert (config.session_ids, config.skip_bids_validation) == (("a", "b"), True)
    assert (config.work_dir, config.verbosity, restoration.device) == (tmp_path / "work", 2, "cuda:1")
    assert (config.overwrite, config.dry_run, restoration.registration) == (True, True, "header")
    assert (restoration.resolution, config.slice_profile_file) == (0.8, profile)
    assert (restoration.core.scaffold.n_gaussians, restoration.core.scaffold.n_steps) == (500, 3)
    appearance = restoration.core.appearance
    assert (appearance.regularization, appearance.tolerance, appearance.max_iterations) == (0.5, 1e-3, 9)
    assert restoration.core.seed == 4
    assert restoration.core.geometry.mode == "offset"


@pytest.mark.parametrize(
    "options",
    [
        ["--participant-label", "01", "02"],
        ["--participant-label", "sub-01", "sub-02"],
        ["--participant-label", "01,02"],
        ["--participant-label", "01", "--participant-label", "02"],
        ["--participant-label=01", "--participant-label=02"],
        ["--participant_label", "01", "02"],
        ["--participant_label=01", "--participant-label", "02"],
        ["--participant-label", "01", "02", "01", "--dry-run"],
        ["-v", "--participant-label", "01", "02", "-v"],
    ],
)
def test_participants_are_given_in_any_way(parse, options):
    assert parse(*options).participant_labels == ("01", "02")


def test_a_list_before_the_positionals_ends_at_two_dashes(parse):
    assert parse(before=["--participant-label", "01", "02", "--"]).participant_labels == ("01", "02")
    assert parse(before=["--participant-label", "01", "-v"]).participant_labels == ("01",)
    assert parse(before=["--participant-label=01"]).participant_labels == ("01",)


def test_underscores_and_hyphens_are_the_same_in_every_long_option(parse, invoke, tmp_path):
    """As a flag, with a value, with a list, joined by a sign; the values stay as they are."""
    config = parse(
        *("--session_id", "ses-a", "b", "--skip_bids_validation", "--work_dir", str(tmp_path / "a_b")),
        *("--max_iterations=9", "--omp_nthreads", "2", "--slice_thickness", "5", "FLAIR=4", "--dry-run"),
    )
    assert (config.session_ids, config.skip_bids_validation) == (("a", "b"), True)
    assert (config.work_dir, config.restoration.core.appearance.max_iterations) == (tmp_path / "a_b", 9)
    assert (config.restoration.n_threads, config.plan.slice_thickness_mm) == (2, {"": 5.0, "FLAIR": 4.0})
    long_names = [name for param in cli.main.params for name in param.opts if name.startswith("--")]
    assert len(long_names) > 20
    for name in long_names:
        assert "No such option" not in invoke(name.replace("-", "_").replace("__", "--", 1), "--help")[1]
        assert name.count("_") == 0
    code, output = invoke("--participants_label", "01")
    assert (code, "No such option" in output) == (2, True)


def test_a_list_that_swallows_the_positionals_says_so(tmp_path):
    result = CliRunner().invoke(cli.main, ["--participant-label", "01", "bids", "out", "participant"])
    assert result.exit_code == 2
    assert "end the list with --" in result.output


def test_filters_are_read(parse, tmp_path):
    path = tmp_path / "filters.json"
    content = {"t1w": {"acquisition": "mprage", "run": None}, "flair": {"EchoTime": 0.1}}
    path.write_text(json.dumps(content))
    assert parse("--bids-filter-file", str(path)).bids_filters == content


def test_a_filter_file_of_fmriprep_serves_here_too(parse, invoke, tmp_path):
    """Its own default queries, and one for magnitude images alone: what is no input here is named once."""
    anatomical = {"datatype": "anat", "suffix": "T1w", "part": ["mag", None]}
    path = tmp_path / "filters.json"
    content = {
        "fmap": {"datatype": "fmap"},
        "bold": {"datatype": "func", "suffix": "bold", "an entity of theirs": 1},
        "sbref": {"datatype": "func", "suffix": "sbref"},
        "flair": {"datatype": "anat", "suffix": "FLAIR"},
        "t1w": anatomical,
        "roi": {"datatype": "anat", "suffix": "roi"},
    }
    path.write_text(json.dumps(content))
    code, output = invoke("--bids-filter-file", str(path), "--dry-run")
    assert code == 0, output
    assert output.count(f"{path}: fmap, bold, sbref, roi: no input of this command, ignored") == 1
    assert "sub-01_FLAIR.nii.gz" in output
    filters = parse("--bids-filter-file", str(path)).bids_filters
    assert filters == {"flair": content["flair"], "t1w": anatomical}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "expected {"),
        ('{"t1w": "mprage"}', "expected {"),
        ('{"bald": {}}', "unknown input 'bald', expected t1w, unit1, mp2rage, flair, t2w, pdw"),
        ('{"t1w": {"acq": "mprage"}}', "unknown entity 'acq'"),
    ],
)
def test_faulty_filters_are_refused(invoke, tmp_path, content, message):
    path = tmp_path / "filters.json"
    path.write_text(content)
    code, output = invoke("--bids-filter-file", str(path))
    assert code == 2
    assert message in " ".join(output.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resolution", "small"], "neither iso nor anchor"),
        (["--resolution", "0"], "expected 0.05 to 20"),
        (["--resolution", "nan"], "expected 0.05 to 20"),
        (["--slice-profile", "triangle"], "neither auto nor box nor gaussian nor a file"),
        (["--device", "gpu"], "expected auto, cpu, cuda or cuda:n"),
        (["--registration", "affine"], "affine"),
        (["--n-gaussians", "0"], "x>=1"),
        (["--tolerance", "1"], "0<x<1"),
        (["--regularization", "-1"], "x>0"),
        (["--participant-label", "a_b"], "'a_b' is no label"),
        (["--participant-label"], "requires an argument"),
        (
            ["--participant-label", "01", "03", "x"],
            "unknown participant labels: 03, x; the dataset has 01, 02",
        ),
        (["--session-id", "1"], "unknown session label: 1; the dataset has none"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_what_cannot_be_honoured_is_exit_code_2(invoke, tmp_path, options, message):
    code, output = invoke(*options)
    assert code == 2
    assert message in " ".join(output.split())
    assert not (tmp_path / "out").exists()


def test_a_cuda_device_that_is_not_there_is_named(invoke):
    import torch  # noqa: PLC0415 - only this test needs it

    absent = torch.cuda.device_count()
    code, output = invoke("--device", f"cuda:{absent}")
    assert code == 2
    assert f"--device cuda:{absent}" in output
    assert f"sees {absent} CUDA devices" in output


def test_a_faulty_profile_file_is_refused_before_anything_runs(invoke, tmp_path):
    (tmp_path / "profile.txt").write_text("1 2 3\n")
    code, output = invoke("--slice-profile", str(tmp_path / "profile.txt"))
    assert code == 2
    assert "expected two numbers" in output


@pytest.mark.parametrize("inside", [".", "results", "sub-01", "derivatives/../x"])
def test_results_inside_the_dataset_are_refused(invoke, bids_dir, inside):
    code, output = invoke("--dry-run", out=bids_dir / inside)
    assert code == 2
    assert "lies inside bids_dir" in output
    assert "derivatives/atlasgs" in output


def test_results_behind_a_link_into_the_dataset_are_refused(invoke, bids_dir, tmp_path):
    (tmp_path / "link").symlink_to(bids_dir / "sub-01")
    assert invoke("--dry-run", out=tmp_path / "link")[0] == 2


def test_the_datasets_derivatives_folder_is_allowed(invoke, parse, bids_dir):
    assert invoke("--dry-run", out=bids_dir / "derivatives" / "mine")[0] == 0
    assert invoke("--dry-run", out=bids_dir / "derivatives")[0] == 0
    assert not (bids_dir / "derivatives").exists()


def test_a_folder_called_derivatives_gets_the_apps_name(monkeypatch, bids_dir, tmp_path):
    seen = []
    monkeypatch.setattr(app, "run", lambda config: seen.append(config.out_dir) or 0)
    CliRunner().invoke(cli.main, [str(bids_dir), str(tmp_path / "derivatives"), "participant"])
    assert seen == [tmp_path / "derivatives" / "atlasgs"]


def test_a_work_dir_inside_the_dataset_is_refused(invoke, bids_dir):
    code, output = invoke("-w", str(bids_dir / "derivatives" / "work"))
    assert code == 2
    assert "work dir" in output


@pytest.mark.parametrize("content", [None, "{"])
def test_a_folder_that_is_no_dataset_is_refused(invoke, bids_dir, content):
    path = bids_dir / "dataset_description.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert invoke("--dry-run")[0] == 2
    code, output = invoke("--dry-run", "--skip-bids-validation")
    assert (code, "restore" in output) == (0, True)


def test_an_output_folder_of_another_pipeline_is_refused(invoke, tmp_path):
    Dataset.create(tmp_path / "out", GeneratedBy=[{"Name": "fMRIPrep"}])
    code, output = invoke()
    assert code == 2
    assert "fMRIPrep" in output


def test_a_dry_run_prints_the_plan_and_writes_nothing(invoke, tmp_path):
    code, output = invoke("--dry-run", "--participant-label", "02")
    assert code == 0
    assert "sub-02_FLAIR.nii.gz" in output
    assert "sub-01" not in output
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_who_would_fail(invoke, bids_dir):
    Dataset(bids_dir).path("02", "T1w").unlink()
    code, output = invoke("--dry-run")
    assert code == 1
    assert "found no T1w image" in output


def test_version():
    result = CliRunner().invoke(cli.main, ["--version"])
    assert result.output.strip() == f"atlasgs, version {__version__}"


def test_help_explains_where_lists_end():
    result = CliRunner().invoke(cli.main, ["-h"])
    assert result.exit_code == 0
    assert "a list of labels ends at the next option" in " ".join(result.output.split())

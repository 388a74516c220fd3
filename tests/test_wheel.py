"""The wheel holds what the package needs, and runs where there is nothing else."""

import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

from atlasgs_bids.version import __version__
from tests.bids_datasets import Dataset
from tests.runs import FAST

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SCRIPTS = PROJECT["scripts"]
README = (ROOT / "README.md").read_text("utf-8")
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "isal": "python-isal"}
"""Where conda-forge calls a package otherwise than PyPI does."""
INSTALL_TIMEOUT_S = 1800


def succeeded(*command, timeout=300, **options):
    ended = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        **options,
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what a release has: nothing that lies about here gets in."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "atlasgs_bids", source / "atlasgs_bids", ignore=ignored)
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index")
    succeeded(*build, "-q", "-w", folder, source)
    (path,) = folder.iterdir()
    return path


def test_the_wheel_holds_every_file_of_the_package(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path for path in (ROOT / "atlasgs_bids").rglob("*") if path.is_file()]
    here = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    assert names == here
    assert {name.rpartition(".")[2] for name in names} >= {"py", "typed", "css", "js", "gz", "txt"}
    assert wheel.name == f"atlasgs_bids-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment whose AtlasGS is the wheel's; the packages that it needs are lent by this one."""
    folder = tmp_path_factory.mktemp("environment")
    succeeded(sys.executable, "-m", "venv", "--without-pip", folder)
    install = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install")
    # What PYTHONPATH lends this process would pass for installed.
    succeeded(*install, "-q", "--no-deps", "--no-index", "--ignore-installed", wheel)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def run_in(folder, *command, cwd):
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(cwd), "PYTHONNOUSERSITE": "1"}
    return succeeded(*command, cwd=cwd, env=environment)


def test_every_command_starts_from_the_wheel(environment, tmp_path):
    code = "import atlasgs_bids; print(atlasgs_bids.__file__)"
    where = run_in(environment, environment / "bin" / "python", "-c", code, cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(environment)
    assert len(SCRIPTS) >= 5
    for name in SCRIPTS:
        assert f"Usage: {name} " in run_in(environment, environment / "bin" / name, "--help", cwd=tmp_path)


def test_the_containers_know_every_command():
    definition = (ROOT / "singularity.def").read_text("utf-8")
    install = (ROOT / "docs" / "install.md").read_text("utf-8")
    for name in SCRIPTS:
        assert name in definition, name
        assert name in install, name


def first_example():
    """The commands of README's "Use" after the installation, as it has them."""
    block = README.split("\n## Use\n\n")[1].split("\n\n")[0]
    commands = [shlex.split(line) for line in block.splitlines()]
    assert commands[0][:2] == ["pip", "install"]
    assert [command[0] for command in commands[1:]] == ["atlasgs", "atlasgs"]
    return commands[1:]


def test_the_readme_begins_with_commands_that_are_installed():
    assert {name for name, *_ in first_example()} <= set(SCRIPTS)


@pytest.mark.slow
def test_the_first_example_of_the_readme_runs_in_an_empty_environment(wheel, tmp_path):
    """Everything comes from the package index, at the versions that constraints.txt says."""
    folder = tmp_path / "environment"
    succeeded(sys.executable, "-m", "venv", folder)
    # Isolated: what PYTHONPATH lends this process would pass for installed.
    pip = (folder / "bin" / "python", "-I", "-m", "pip", "--disable-pip-version-check")
    probe = subprocess.run(
        [*map(str, pip), "download", "-q", "--no-deps", "-d", str(tmp_path / "probe"), "click"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if probe.returncode != 0:
        pytest.skip(f"no package index here: {probe.stderr.strip().splitlines()[-1]}")
    succeeded(*pip, "install", "-q", "-c", ROOT / "constraints.txt", wheel, timeout=INSTALL_TIMEOUT_S)
    succeeded(*pip, "check")
    dataset = Dataset.create(tmp_path / "bids").add_participant("01")
    places = {"BIDS_DIR": str(dataset.root), "OUT_DIR": str(tmp_path / "out")}
    for name, *arguments in first_example():
        quick = () if "group" in arguments else FAST  # a tiny head, quick and coarse
        placed = [places.get(argument, argument) for argument in arguments]
        run_in(folder, folder / "bin" / name, *placed, *quick, cwd=tmp_path)
    said = run_in(folder, folder / "bin" / "atlasgs-status", tmp_path / "out", cwd=tmp_path)
    assert said.splitlines()[-1] == "1 participants: 1 done, 0 failed, 0 running, 0 missing"
    assert (tmp_path / "out" / "group_FLAIR.tsv").exists()


@pytest.fixture(scope="module")
def recipe():
    return yaml.safe_load((ROOT / "container" / "conda" / "recipe.yaml").read_text("utf-8"))


def of_conda(requirement):
    """A requirement of pyproject.toml as conda has it: ``torch>=2.6`` is ``pytorch >=2.6``."""
    name, bounds = re.fullmatch(r"([\w.-]+)(.*)", requirement.partition(";")[0].strip()).groups()
    return f"{CONDA_NAMES.get(name, name.lower())} {bounds}"


def test_the_conda_recipe_asks_for_what_the_project_asks_for(recipe):
    run = [line for line in recipe["requirements"]["run"] if not line.startswith(("python ", "__"))]
    assert sorted(run) == sorted(of_conda(requirement) for requirement in PROJECT["dependencies"])
    extras = {
        of_conda(requirement)
        for name, requirements in PROJECT["optional-dependencies"].items()
        if name not in ("docs", "test")
        for requirement in requirements
    }
    assert set(recipe["requirements"]["run_constraints"]) == extras


def test_the_conda_recipe_has_the_version_and_every_command(recipe):
    assert recipe["context"]["version"] == __version__
    entries = dict(entry.split(" = ") for entry in recipe["build"]["python"]["entry_points"])
    assert entries == SCRIPTS
    tried = [line.split()[0] for test in recipe["tests"] for line in test.get("script", [])]
    assert sorted(tried) == sorted(SCRIPTS)
    assert recipe["about"]["license"] == PROJECT["license"]
    assert recipe["about"]["summary"] == PROJECT["description"]

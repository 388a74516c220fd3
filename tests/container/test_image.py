"""The Dockerfile's image as people run it: any user, no network, nothing writable but the mounts."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.bids_datasets import Dataset
from tests.container.conftest import ROOT, succeeded
from tests.runs import FAST
from tests.validation import validator_errors

from make_dataset import SUBJECTS, make_dataset

pytestmark = pytest.mark.container

MAX_IMAGE_BYTES = 1.6e9
DEMO_MM = int(os.environ.get("DEMO_MM", "4"))
"""Coarse for the sake of time; DEMO_MM=2 is the demo as `make demo` runs it."""


def test_the_cpu_image_is_small(image, report):
    size = int(succeeded("podman", "image", "inspect", "--format={{.Size}}", image.image))
    report(f"image size {size / 1e9:.2f} GB")
    assert size <= MAX_IMAGE_BYTES


def test_it_is_no_root_and_says_what_it_is(image):
    user, entry, labels = succeeded(
        "podman", "image", "inspect", "--format={{.User}}\n{{.Config.Entrypoint}}\n{{.Labels}}", image.image
    ).splitlines()
    assert (user, entry) == ("1000:1000", "[atlasgs]")
    assert "org.opencontainers.image.title:AtlasGS" in labels


def test_the_version_comes_quickly(image, report):
    begin_s = time.monotonic()
    ended = image.run("--version")
    report(f"cold start of --version {time.monotonic() - begin_s:.2f} s")
    assert re.fullmatch(r"atlasgs, version \S+\n", ended.stdout), ended.stderr


def test_the_tested_versions_are_installed(image):
    """The pins decide, not the newest release of the day of the build."""
    script = (
        "from importlib.metadata import distributions as all_of_them\n"
        "print('\\n'.join(f'{each.name}=={each.version}' for each in all_of_them()))"
    )
    lines = succeeded(*image.command("-c", script, options=["--entrypoint=python"])).splitlines()
    installed = dict(re.sub(r"[-_.]+", "-", line).lower().split("==") for line in lines)
    pins = [
        line.split(" ;")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    ]
    wanted = dict(re.sub(r"[-_.]+", "-", pin).lower().split("==") for pin in pins)
    differing = {
        name: installed[name]
        for name in installed.keys() & wanted.keys()
        if installed[name].split("+")[0] != wanted[name]
    }
    assert len(installed.keys() & wanted.keys()) > 40
    assert differing == {}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's second participant, FLAIR and T2w: series would take many minutes more."""
    root = tmp_path_factory.mktemp("demo")
    make_dataset(root / "bids", root / "truth", DEMO_MM, subjects=SUBJECTS[1:])
    return root / "bids"


def test_the_demo_gives_the_same_in_the_container_and_outside(image, demo, writable, report, tmp_path):
    native_dir, out_dir = tmp_path / "native", writable("out")
    for parent in demo.parents:
        if parent.name.startswith(("pytest-", "demo")):
            parent.chmod(0o755)
    mounts = (f"{demo}:/data:ro", f"{out_dir}:/out")
    level = ("participant", "--device", "cpu", "--skip-bids-validation")
    seconds = {}
    begin_s = time.monotonic()
    ended = image.run("/data", "/out", *level, mounts=mounts)
    seconds["container"] = time.monotonic() - begin_s
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "1 of 1 participants done"
    begin_s = time.monotonic()
    atlasgs = Path(sys.executable).parent / "atlasgs"
    succeeded(atlasgs, demo, native_dir, *level)
    seconds["outside"] = time.monotonic() - begin_s
    assert image.run("/data", "/out", "group", mounts=mounts).returncode == 0
    succeeded(atlasgs, demo, native_dir, "group")

    assert names(out_dir) == names(native_dir)
    worst = 0.0
    for path in native_dir.rglob("*.nii.gz"):
        expected = nib.load(path).get_fdata()
        found = nib.load(out_dir / path.relative_to(native_dir)).get_fdata()
        worst = max(worst, float(np.abs(found - expected).max() / max(1, np.ptp(expected))))
    report(
        f"demo at {DEMO_MM} mm: {seconds['container']:.1f} s in the container, "
        f"{seconds['outside']:.1f} s outside; largest difference {worst:.1e} of the range"
    )
    assert worst < 1e-4
    assert {path.stat().st_uid for path in out_dir.rglob("*")} == {1000}
    assert validator_errors(out_dir) == []


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    root.parent.chmod(0o755)
    root.chmod(0o755)
    return Dataset.create(root / "bids").add_participant("01").add_participant("02").root


def test_any_user_without_a_home_in_parallel(image, tiny, writable):
    out_dir = writable("out", user=54321)
    ended = image.run(
        "/data", "/out", "participant", *FAST, "--nprocs", "2",
        user="54321:54321",
        mounts=(f"{tiny}:/data:ro", f"{out_dir}:/out"),
        options=("--env=HOME=/nonexistent",),
    )  # fmt: skip
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "2 of 2 participants done"), ended.stderr
    assert "Warning" not in ended.stderr
    assert {path.stat().st_uid for path in out_dir.rglob("*")} == {54321}


def test_without_any_temporary_directory_the_work_dir_serves(image, tiny, writable):
    """As `docker run --read-only`, which makes no /tmp."""
    out_dir, work_dir = writable("out"), writable("work")
    run = ("/data", "/out", "participant", *FAST, "--participant-label", "01")
    mounts = (f"{tiny}:/data:ro", f"{out_dir}:/out", f"{work_dir}:/work")
    bare = ("--read-only-tmpfs=false", "--workdir=/")
    ended = image.run(*run, mounts=mounts, options=bare)
    assert ended.returncode == 2, ended.stderr
    assert "pass --work-dir" in ended.stderr
    ended = image.run(*run, "--work-dir", "/work", mounts=mounts, options=bare)
    assert ended.returncode == 0, ended.stderr
    assert list((work_dir / "numba").rglob("*.nbc"))


def test_a_stop_of_the_container_ends_the_run_in_order(image, tiny, writable):
    """SIGTERM, to a process that is the container's first and has no default for it."""
    out_dir = writable("out")
    slow = ("--n-gaussians", "1500", "--scaffold-steps", "4000")
    command = image.command(
        "/data", "/out", "participant", *FAST, *slow, mounts=(f"{tiny}:/data:ro", f"{out_dir}:/out")
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline_s = time.monotonic() + 120
        while not (out_dir / "sub-01" / ".tmp-lock").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 130, log
    assert "interrupted" in log
    assert list(out_dir.rglob(".tmp-*")) == []

"""What the container tests need: tools, a base image, images. Each absence is a printed reason.

Only what this machine lacks is a reason to skip. Where a probe builds and runs, the project's images have to.
"""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BASE_IMAGE = "localhost/python:3.11-slim"
IMAGE = "localhost/atlasgs:test"
DEFINITION_IMAGE = "localhost/atlasgs-definition:test"
STORAGE = Path("/var/lib/containers")
LEAST_FREE_BYTES = 8e9
TIMEOUT_S = 900


def missing(*tools):
    """Why containers or clusters cannot be tested here; None: they can."""
    if os.geteuid() != 0:
        return "not root"
    absent = [tool for tool in tools if shutil.which(tool) is None]
    return f"{', '.join(absent)} cannot be found" if absent else None


def finished(*command, **options):
    """A command that ended, output and all."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        **options,
    )


def succeeded(*command, **options):
    ended = finished(*command, **options)
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout


def skip_unless_it_works(reason, *command):
    ended = finished(*command)
    if ended.returncode != 0:
        lines = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        pytest.skip(f"{reason}: {' | '.join(lines[-3:])}")


@dataclass(frozen=True)
class Podman:
    """Runs of an image: no network, nothing pulled, the file system read-only."""

    image: str

    def command(self, *arguments, user="1000:1000", mounts=(), options=()):
        shared = [part for mount in mounts for part in ("-v", str(mount))]
        return [
            "podman", "run", "--rm", "--pull=never", "--no-healthcheck", "--network=none", "--read-only",
            f"--user={user}", *shared, *options, self.image, *map(str, arguments),
        ]  # fmt: skip

    def run(self, *arguments, **options):
        return finished(*self.command(*arguments, **options))


@pytest.fixture(scope="session")
def report(pytestconfig):
    """Prints a figure of the run, whatever pytest captures."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(text):
        with capture.global_and_fixture_disabled():
            print(f"\n[container] {text}", flush=True)

    return say


@pytest.fixture(scope="session", autouse=True)
def podman_settings():
    os.environ["CONTAINERS_CONF"] = str(HERE / "containers.conf")


@pytest.fixture(scope="session")
def base_image(report):
    reason = missing("buildah", "podman", "runc", "debootstrap")
    if reason:
        pytest.skip(f"no containers here: {reason}")
    free_bytes = shutil.disk_usage(STORAGE if STORAGE.exists() else "/").free
    if free_bytes < LEAST_FREE_BYTES:
        pytest.skip(
            f"no containers here: {free_bytes / 1e9:.1f} GB of disk, {LEAST_FREE_BYTES / 1e9:.0f} wanted"
        )
    if finished("buildah", "inspect", "--type=image", BASE_IMAGE).returncode != 0:
        begin_s = time.monotonic()
        skip_unless_it_works("no base image can be made here", HERE / "base_image.sh", BASE_IMAGE)
        report(f"base image made in {time.monotonic() - begin_s:.0f} s")
    skip_unless_it_works("no image can be built and run here", HERE / "probe.sh", BASE_IMAGE)
    return BASE_IMAGE


@pytest.fixture(scope="session")
def image(request, report):
    """The image under test: TEST_IMAGE where it is set, else one that is built."""
    if "TEST_IMAGE" in os.environ:
        yield Podman(os.environ["TEST_IMAGE"])
        return
    base_image = request.getfixturevalue("base_image")
    begin_s = time.monotonic()
    succeeded(HERE / "build_image.sh", IMAGE, ROOT, base_image)
    report(f"Dockerfile built in {time.monotonic() - begin_s:.0f} s")
    yield Podman(IMAGE)
    finished("podman", "image", "prune", "--force")


@pytest.fixture(scope="session")
def definition_image(base_image, report, tmp_path_factory):
    begin_s = time.monotonic()
    mounts = succeeded(HERE / "lend.sh", tmp_path_factory.mktemp("lent")).split()
    build = (sys.executable, HERE / "singularity.py", ROOT / "singularity.def", DEFINITION_IMAGE)
    log = succeeded(*build, base_image, *mounts)
    report(f"singularity.def: %post and %test in {time.monotonic() - begin_s:.0f} s")
    return Podman(DEFINITION_IMAGE), log


@pytest.fixture
def writable(tmp_path):
    """A function that makes a folder which a container's user may write to."""

    def make(name, user=1000):
        folder = tmp_path / name
        folder.mkdir()
        os.chown(folder, user, user)
        return folder

    # Whoever runs in the container has to reach the folders below.
    for parent in (tmp_path, *tmp_path.parents):
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    return make

"""Files that belong to somebody else: what this user may not read fails alone, through the real command."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.bids_datasets import Dataset, sidecar_of
from tests.runs import TIMEOUT_S, command

AS_NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")

pytestmark = pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None,
    reason="root may read everything, and has no setpriv",
)


@pytest.fixture
def dataset():
    """Two participants, in a folder that every user may enter: pytest's own are for their owner alone."""
    folder = Path(tempfile.mkdtemp(prefix="atlasgs-unreadable-"))
    folder.chmod(0o755)
    dataset = Dataset.create(folder / "bids").add_participant("01", "FLAIR", "T2w").add_participant("02")
    yield dataset
    for path in [dataset.root, *dataset.root.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


def dry_run(dataset, *options):
    """Exit code, plan and log of a dry run of a user without special rights (root may read everything)."""
    started = command(dataset.root, dataset.root.parent / "out", "--dry-run", *options)
    as_other = AS_NOBODY if os.geteuid() == 0 else ()
    environment = {**os.environ, "HOME": "/nonexistent", "PYTHONPATH": str(Path(__file__).parents[2])}
    if subprocess.run(
        [*as_other, started[0], "-c", "import atlasgs_bids"], check=False, env=environment
    ).returncode:
        pytest.skip("no other user may start this Python")
    finished = subprocess.run(
        [*as_other, *started], capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment
    )
    assert "Traceback" not in finished.stderr, finished.stderr
    return finished.returncode, {" ".join(row.split()) for row in rows(finished.stdout)}


def rows(plan):
    """The rows of a plan's table, each as one line however it was wrapped."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in plan.splitlines() if "│" in line]
    whole: list[list[str]] = []
    for cells in lines:
        if cells[2]:
            whole.append(cells)
        else:
            whole[-1] = [f"{before} {after}" for before, after in zip(whole[-1], cells, strict=True)]
    return [" | ".join(cells) for cells in whole]


def has(found, *parts):
    return any(all(part in row for part in parts) for row in found)


def restored(found):
    return sorted(row.split(" | ")[1].strip() for row in found if "| restore |" in row)


@pytest.mark.parametrize("what", ["image", "sidecar", "link"])
def test_an_image_that_cannot_be_read_fails_alone(dataset, what):
    path = dataset.path("01", "T2w")
    if what == "link":
        store = dataset.root.parent / "store"
        store.mkdir()
        path.rename(store / "object")
        path.symlink_to(store / "object")
        store.chmod(0)
    else:
        (path if what == "image" else sidecar_of(path)).chmod(0)
    code, found = dry_run(dataset)
    if what == "link":
        store.chmod(0o755)
    assert code == 1
    name = "sub-01_T2w.json" if what == "sidecar" else "sub-01_T2w.nii.gz"
    assert has(found, "FAIL", "T2w", f"{name} cannot be read (Permission denied)", "chmod"), found
    assert restored(found) == ["sub-01_FLAIR.nii.gz", "sub-02_FLAIR.nii.gz"]


@pytest.mark.parametrize("mode", [0, 0o444])
def test_a_participant_that_cannot_be_read_fails_alone(dataset, mode):
    (dataset.root / "sub-02").chmod(mode)
    code, found = dry_run(dataset)
    assert code == 1
    assert has(found, "sub-02", "FAIL", "sub-02 cannot be read (Permission denied)", "chmod"), found
    assert restored(found) == ["sub-01_FLAIR.nii.gz", "sub-01_T2w.nii.gz"]


def test_a_link_to_a_participant_that_cannot_be_seen_fails_alone(dataset):
    store = dataset.root.parent / "store"
    store.mkdir()
    (dataset.root / "sub-02").rename(store / "sub-02")
    (dataset.root / "sub-02").symlink_to(store / "sub-02")
    store.chmod(0)
    code, found = dry_run(dataset)
    store.chmod(0o755)
    assert code == 1
    assert has(found, "sub-02", "FAIL", "sub-02 cannot be read (Permission denied)"), found
    assert restored(found) == ["sub-01_FLAIR.nii.gz", "sub-01_T2w.nii.gz"]


def test_a_session_or_a_datatype_that_cannot_be_read_fails_alone(dataset):
    for session in ("a", "b"):
        dataset.add_participant("03", "FLAIR", session=session)
    (dataset.root / "sub-03" / "ses-b").chmod(0)
    (dataset.root / "sub-01" / "perf").mkdir(mode=0)
    code, found = dry_run(dataset)
    assert code == 1
    assert has(found, "sub-03 ses-b", "FAIL", "ses-b cannot be read (Permission denied)"), found
    assert has(found, "sub-01", "FAIL", "perf cannot be read (Permission denied)"), found
    assert restored(found) == [
        "sub-01_FLAIR.nii.gz", "sub-01_T2w.nii.gz", "sub-02_FLAIR.nii.gz", "sub-03_ses-a_FLAIR.nii.gz"
    ]  # fmt: skip


def test_sessions_are_asked_for_beside_a_participant_that_cannot_be_read(dataset):
    dataset.add_participant("03", "FLAIR", session="a")
    (dataset.root / "sub-02").chmod(0)
    code, found = dry_run(dataset, "--session-id", "a")
    assert code == 1
    assert has(found, "sub-02", "FAIL", "cannot be read"), found
    assert restored(found) == ["sub-03_ses-a_FLAIR.nii.gz"]

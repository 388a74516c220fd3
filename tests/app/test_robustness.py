"""What goes wrong in real data, through the real command: each trap fails alone, with its own message."""

import hashlib
import json
import signal
import stat
import subprocess
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.bids_datasets import THICK_MM, Dataset, head, sidecar_of
from tests.runs import TIMEOUT_S, atlasgs, command, finished, outputs


def state(folder):
    """Name, kind and content of everything below a folder."""
    return {
        path.relative_to(folder): (
            path.readlink()
            if path.is_symlink()
            else hashlib.sha256(path.read_bytes()).hexdigest()
            if path.is_file()
            else "folder"
        )
        for path in folder.rglob("*")
    }


def make_read_only(folder):
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))


def rewrite_forms(path, change):
    """Save an image again with a qform that differs from its sform; ``change`` maps one to the other."""
    image = nib.load(path)
    image = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
    image.set_sform(image.affine, code=1)
    image.set_qform(change(image.get_sform()), code=1)
    nib.save(image, path)


def truncate(path):
    """Cut a gz file in the middle: its header still loads."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_nan(share):
    data, _ = head("FLAIR", THICK_MM)
    data[: round(share * data.shape[0])] = np.nan
    return data


def shifted(affine):
    return affine + np.array([[0, 0, 0, 4.0], *np.zeros((3, 4))])


def mirrored(affine):
    return affine @ np.diag([-1.0, 1, 1, 1])


EXPECTED_FAILURES = {
    "sub-02": "found no T1w image",
    "sub-03": "thick slices, voxels of 3 x 3 x 9 mm",
    "sub-04 FLAIR": "datalad get",
    "sub-05 FLAIR": "truncated",
    "sub-06 T2w": "every voxel is NaN",
    "sub-07 FLAIR": "every voxel is 5",
    "sub-08 T2w": "handedness",
    "sub-10": "expected one 3-D volume",
    "sub-11 FLAIR": "sub-11_FLAIR.json is not valid JSON",
    "sub-12": "truncated",
}
EXPECTED_RESULTS = [("01", "FLAIR"), ("04", "T2w"), ("06", "FLAIR"), ("08", "FLAIR"), ("09", "FLAIR")]


@pytest.fixture(scope="module")
def traps(tmp_path_factory):
    """A dataset in a folder with spaces, one trap for each participant; sub-01 has none."""
    dataset = Dataset.create(tmp_path_factory.mktemp("robust") / "my bids data")
    dataset.add_participant("01", "FLAIR")
    dataset.add("02", "FLAIR")
    dataset.add("03", "T1w", voxel_mm=THICK_MM)
    dataset.add("03", "FLAIR")
    dataset.add_participant("04", "FLAIR", "T2w")
    broken = dataset.path("04", "FLAIR")
    broken.unlink()
    broken.symlink_to("../../.git/annex/objects/absent")
    dataset.add_participant("05", "FLAIR")
    truncate(dataset.path("05", "FLAIR"))
    dataset.add_participant("06")
    dataset.add("06", "FLAIR", data=with_nan(0.3))
    dataset.add("06", "T2w", data=with_nan(1.0))
    dataset.add_participant("07")
    dataset.add("07", "FLAIR", data=np.full((24, 24, 8), 5, np.float32))
    dataset.add_participant("08", "FLAIR", "T2w")
    rewrite_forms(dataset.path("08", "FLAIR"), shifted)
    rewrite_forms(dataset.path("08", "T2w"), mirrored)
    t1w, _ = head("T1w")
    dataset.add("09", "T1w", data=t1w[..., None])
    dataset.add("09", "FLAIR")
    dataset.add("10", "T1w", data=np.stack([t1w, t1w], axis=-1))
    dataset.add("10", "FLAIR")
    dataset.add_participant("11", "FLAIR")
    sidecar_of(dataset.path("11", "FLAIR")).write_text("{'EchoTime': 0.1}")
    dataset.add_participant("12", "FLAIR")
    truncate(dataset.path("12", "T1w"))
    make_read_only(dataset.root)
    return dataset.root


@pytest.fixture(scope="module")
def trapped(traps, tmp_path_factory):
    """The one run over all the traps: bids_dir, out_dir, exit code, last line, log."""
    out_dir = tmp_path_factory.mktemp("results") / "my results"
    before = state(traps)
    code, last_line, log = atlasgs(traps, out_dir)
    assert state(traps) == before, "the dataset is only ever read"
    return out_dir, code, last_line, log


def crash_files(out_dir):
    """Content of the crash files, by what failed."""
    return {
        path.name.split("-", 2)[2].rsplit("-", 1)[0].replace("_", " "): path.read_text(encoding="utf-8")
        for path in (out_dir / "logs").glob("crash-*.txt")
    }


def test_failures_end_with_exit_code_1_and_a_last_line(trapped):
    _, code, last_line, log = trapped
    assert code == 1, log
    assert last_line.startswith("2 of 12 participants done; failed: sub-02: found no T1w image"), log


@pytest.mark.parametrize(("failed", "message"), EXPECTED_FAILURES.items())
def test_each_trap_has_its_message_and_crash_file(trapped, failed, message):
    out_dir, _, _, log = trapped
    found = {label: text for label, text in crash_files(out_dir).items() if label.startswith(failed)}
    assert found, f"no crash file for {failed}; log:\n{log}"
    for label, text in found.items():
        assert message in text
        assert any(f"{label}: " in line and message in line for line in log.splitlines())


def test_nothing_else_failed(trapped):
    out_dir, _, _, _ = trapped
    labels = crash_files(out_dir)
    unexpected = [label for label in labels if not label.startswith(tuple(EXPECTED_FAILURES))]
    assert unexpected == []


@pytest.mark.parametrize(("participant", "suffix"), EXPECTED_RESULTS)
def test_what_can_be_restored_is_restored(trapped, traps, participant, suffix):
    out_dir, _, _, log = trapped
    paths = outputs(out_dir, participant, suffix)
    assert paths.finished, log
    for path in (paths.sr, paths.simulated, paths.residual, paths.fov_mask):
        assert np.isfinite(nib.load(path).get_fdata()).all()
    assert nib.load(paths.sr).shape == (24, 24, 24)
    native = nib.load(traps / f"sub-{participant}" / "anat" / f"sub-{participant}_{suffix}.nii.gz")
    np.testing.assert_allclose(nib.load(paths.simulated).affine, native.affine, atol=1e-4)
    assert paths.figure.exists()
    assert paths.xfm.exists()


def test_a_small_conflict_of_the_forms_is_a_warning(trapped):
    _, _, _, log = trapped
    assert any("sub-08: FLAIR: sform" in line and "4.0 mm" in line for line in log.splitlines())


def test_no_temporary_file_is_left(trapped):
    out_dir, _, _, _ = trapped
    assert list(out_dir.rglob(".tmp-*")) == []


def test_only_the_selected_participants_count(trapped, traps, tmp_path):
    """A finished target is skipped, so this run ends well at once and rewrites nothing."""
    out_dir, _, _, _ = trapped
    before = {path: path.stat().st_mtime_ns for path in (out_dir / "sub-01").rglob("*.*")}
    code, last_line, log = atlasgs(traps, out_dir, "--participant-label", "01", "sub-09")
    assert (code, last_line) == (0, "2 of 2 participants done"), log
    assert "sub-01 FLAIR: finished by an earlier run" in log
    assert {path: path.stat().st_mtime_ns for path in (out_dir / "sub-01").rglob("*.*")} == before


def test_a_failed_target_is_tried_again(trapped, traps):
    out_dir, _, _, _ = trapped
    code, last_line, _ = atlasgs(traps, out_dir, "--participant-label", "05")
    assert code == 1
    assert last_line.startswith("0 of 1 participants done; failed: sub-05 FLAIR: ")


def test_overwrite_does_a_finished_target_again(trapped, traps):
    out_dir, _, _, _ = trapped
    paths = outputs(out_dir, "01", "FLAIR")
    before_ns = paths.metrics_tsv.stat().st_mtime_ns
    first = nib.load(paths.sr).get_fdata()
    code, _, log = atlasgs(traps, out_dir, "--participant-label", "01", "--overwrite")
    assert code == 0, log
    assert paths.metrics_tsv.stat().st_mtime_ns > before_ns
    np.testing.assert_allclose(nib.load(paths.sr).get_fdata(), first, rtol=1e-3, atol=0.1)


def test_the_group_names_who_has_no_results(trapped, traps):
    out_dir, _, _, _ = trapped
    ended = finished("atlasgs_bids.app.cli", traps, out_dir, "group")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == (
        "5 of 12 participants in group_*.tsv; no results of "
        "sub-02, sub-03, sub-05, sub-07, sub-10, sub-11, sub-12"
    )


def wait_for_an_image(process, folder):
    """Wait until an image has its final name, and see it while it is written, should it be written there.

    A temporary file is no reason to stop waiting: there is nothing yet that could be half written.
    """
    deadline_s = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline_s:
        if any(folder.rglob("sub-*.nii.gz")):
            return
        time.sleep(0.0005)
    pytest.fail(f"no image in {folder}; exit code {process.poll()}")


def whole_files(out_dir):
    """Names of all files of participants under their final names, each read to its end."""
    names = set()
    for path in (path for path in out_dir.rglob("sub-*") if path.is_file()):
        names.add(path.name)
        if path.name.endswith(".nii.gz"):
            nib.load(path).get_fdata()
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                assert all(archive[name].size for name in archive.files)
        elif path.suffix == ".json":
            assert json.loads(path.read_text(encoding="utf-8"))
        else:
            assert path.stat().st_size > 0
    return names


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_stopped_run_leaves_nothing_half_written_and_the_next_completes(tmp_path, sent, code):
    dataset = Dataset.create(tmp_path / "bids").add_participant("01", "FLAIR", "T2w")
    out_dir = tmp_path / "out"
    started = command(dataset.root, out_dir)
    with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_an_image(process, out_dir / "sub-01")
        process.send_signal(sent)
        _, log = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code, log
    assert {"sub-01_desc-anchor_T1w.nii.gz", "sub-01_desc-anchor_T1w.json"} <= whole_files(out_dir)
    if sent == signal.SIGINT:
        assert list(out_dir.rglob(".tmp-*")) == []
        assert "interrupted" in log
    assert not outputs(out_dir, "01", "T2w").finished
    returncode, last_line, log = atlasgs(dataset.root, out_dir)
    assert (returncode, last_line) == (0, "1 of 1 participants done"), log
    assert outputs(out_dir, "01", "FLAIR").finished
    assert outputs(out_dir, "01", "T2w").finished
    assert list(out_dir.rglob(".tmp-*")) == []


def test_a_session_without_t1w_uses_another_ones(tmp_path):
    """Sessions through the whole run; the second has a target only."""
    dataset = Dataset.create(tmp_path / "bids")
    dataset.add_participant("01", "FLAIR", session="a")
    dataset.add("01", "FLAIR", session="b", entities="acq-axial")
    code, last_line, log = atlasgs(dataset.root, tmp_path / "out", "--session-id", "b")
    assert (code, last_line) == (0, "1 of 1 participants done"), log
    assert "no usable T1w in this session" in log
    folder = tmp_path / "out" / "sub-01" / "ses-b" / "anat"
    result = folder / "sub-01_ses-b_acq-axial_space-T1w_res-iso_desc-sr_FLAIR.nii.gz"
    assert nib.load(result).shape == (24, 24, 24)
    assert not (tmp_path / "out" / "sub-01" / "ses-a").exists()


def test_a_participant_without_targets_is_done_and_named(tmp_path):
    dataset = Dataset.create(tmp_path / "bids")
    dataset.add("01", "T1w")
    dataset.add("01", "FLAIR", voxel_mm=(3, 3, 3))
    code, last_line, log = atlasgs(dataset.root, tmp_path / "out")
    assert (code, last_line) == (0, "1 of 1 participants done (nothing to restore for sub-01)"), log
    assert "skipping sub-01_FLAIR.nii.gz: slice spacing" in log


def test_an_output_folder_that_cannot_be_made_is_exit_code_2(tmp_path):
    dataset = Dataset.create(tmp_path / "bids").add_participant("01")
    (tmp_path / "file").touch()
    code, _, log = atlasgs(dataset.root, Path(tmp_path / "file" / "out"))
    assert code == 2
    assert "cannot be written to" in log

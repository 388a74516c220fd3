"""The command, as real processes: tables and figures, exit codes, interrupted and continued."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from atlasgs_bids.imaging.foreground import foreground_mask
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.runtime.files import load_tsv
from atlasgs_bids.study.results.cells import CellKey, Cells
from tests.bids_datasets import Dataset, head
from tests.study.phantom import TIMEOUT_S, atlasgs_study, command, isotropic_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return isotropic_dataset(tmp_path_factory.mktemp("study") / "bids", ("01", "02"), n_voxels=24)


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """Exit code, last line, log and folder of a study of two participants."""
    out_dir = tmp_path_factory.mktemp("finished") / "out"
    methods = ("--methods", "cubic", "graph", "eclare", "--factors", "2", "3", "--nprocs", "2")
    return (*atlasgs_study(dataset.root, out_dir, *methods), out_dir)


def test_help_loads_nothing_heavy():
    code = "import sys\nfrom atlasgs_bids.study.cli import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'nibabel', 'numpy', 'scipy', 'bids') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--factors" in shown
    assert shown.splitlines()[-1] == "[]"


def test_all_cells_are_done_and_what_cannot_run_is_said(finished):
    exit_code, last_line, log, out_dir = finished
    assert (exit_code, last_line) == (0, "8 cells done, 4 not run, 0 failed"), log
    scores = load_tsv(out_dir / "scores.tsv")
    done = [row for row in scores if row["status"] == "done"]
    assert {(row["participant_id"], row["factor"], row["method"], row["region"]) for row in done} == {
        (f"sub-0{i}", f, m, r)
        for i in (1, 2) for f in "23" for m in ("cubic", "graph") for r in ("mask", "lesion")
    }  # fmt: skip
    not_run = [row for row in scores if row["status"] == "not run"]
    assert len(not_run) == 4
    assert all("run-eclare" in row["reason"] for row in not_run)
    assert "not run: eclare" in (out_dir / "tables.md").read_text(encoding="utf-8")


def test_every_column_is_explained(finished):
    for name in ("scores", "summary", "tests"):
        columns = load_tsv(finished[3] / f"{name}.tsv")[0]
        explained = json.loads((finished[3] / f"{name}.json").read_text(encoding="utf-8"))
        assert list(columns) == list(explained)
        assert all(entry["Description"] for entry in explained.values())


def test_scores_make_sense(finished):
    for row in load_tsv(finished[3] / "scores.tsv"):
        if row["status"] != "done":
            continue
        assert float(row["seconds"]) > 0
        assert float(row["peak_memory"]) > 50
        assert row["peak_gpu_memory"] == "n/a"
        if row["region"] == "mask":
            assert 0 < float(row["ssim_volume"]) < 1
            assert float(row["consistency_rms"]) > 0
        else:
            assert 0 < float(row["lesion_contrast"]) < 1.2


def test_two_subjects_are_the_units(finished):
    rows = [
        r for r in load_tsv(finished[3] / "summary.tsv") if r["metric"] == "psnr" and r["region"] == "mask"
    ]
    assert {(row["unit"], row["n"]) for row in rows} == {("subjects", "2")}
    by_method = {(row["method"], row["factor"]): float(row["mean"]) for row in rows}
    assert by_method["graph", "3"] > by_method["cubic", "3"] + 3


def test_tables_in_latex_and_figures_are_there(finished):
    latex = (finished[3] / "tables.tex").read_text(encoding="utf-8")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 6
    names = {path.name for path in (finished[3] / "figures").iterdir()}
    assert names == {
        "psnr_FLAIR.png",
        *(f"cuts_sub-0{i}_FLAIR_x{f}.png" for i in (1, 2) for f in (2, 3)),
    }


def test_a_second_run_computes_nothing(finished, dataset):
    out_dir = finished[3]
    before = {p: p.stat().st_mtime_ns for p in (out_dir / "cells").glob("*_cubic.*")}
    options = ("--methods", "cubic", "--factors", "2", "3")
    exit_code, last_line, _ = atlasgs_study(dataset.root, out_dir, *options)
    assert (exit_code, last_line) == (0, "4 cells done, 0 not run, 0 failed")
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_cells_of_another_simulation_do_not_mix(finished, dataset):
    exit_code, _, log = atlasgs_study(dataset.root, finished[3], "--noise", "2")
    assert exit_code == 2
    assert "another noise_percent" in log


def test_a_method_has_a_row_for_each_calibration(dataset, tmp_path):
    """Both told the truth and left to find it; a study of the one goes on with the other."""
    options = ("--participant-label", "01", "--methods", "cubic", "spline", "--factors", "3")
    assert atlasgs_study(dataset.root, tmp_path, *options)[1] == "2 cells done, 0 not run, 0 failed"
    more = (*options, "--calibration", "known", "defaults")
    assert atlasgs_study(dataset.root, tmp_path, *more)[1] == "4 cells done, 0 not run, 0 failed"
    rows = [row for row in load_tsv(tmp_path / "scores.tsv") if row["region"] == "mask"]
    assert [row["method"] for row in rows] == ["cubic", "cubic-default", "spline", "spline-default"]
    errors_mm = {row["method"]: float(row["position_error"]) for row in rows}
    assert errors_mm["spline"] == 0
    assert 0 < errors_mm["spline-default"] < 1
    assert 0.2 < float(rows[0]["sharpness"]) < 1
    for row in rows:
        assert 10 < float(row["oblique_30"]) < 40


def test_killed_and_continued(dataset, tmp_path):
    """SIGKILL after the first cells; the second run leaves them as they are and does the rest."""
    out_dir = tmp_path / "out"
    options = ("--participant-label", "01", "--methods", "cubic", "graph", "--factors", "2", "3", "4")
    process = subprocess.Popen(command(dataset.root, out_dir, *options), stderr=subprocess.DEVNULL)
    cells = Cells(out_dir)
    until = time.monotonic() + TIMEOUT_S
    while len([cell for cell in cells if cell.done]) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = {cell.key.stem: (cells.folder / f"{cell.key.stem}.json").stat().st_mtime_ns for cell in cells}
    assert 3 <= len(first) < 6
    assert not (out_dir / "scores.tsv").exists()
    exit_code, last_line, _ = atlasgs_study(dataset.root, out_dir, *options)
    assert (exit_code, last_line) == (0, "6 cells done, 0 not run, 0 failed")
    for stem, changed in first.items():
        assert (cells.folder / f"{stem}.json").stat().st_mtime_ns == changed
    assert len(load_tsv(out_dir / "scores.tsv")) == 12


def test_a_damaged_cell_counts_as_none(tmp_path):
    cells, key = Cells(tmp_path), CellKey("01", "a", "FLAIR", 3, "cubic")
    cells.save(key, {"status": "done", "reason": None})
    assert cells.load(key).done
    path = cells.folder / f"{key.stem}.json"
    path.write_text(path.read_text(encoding="utf-8")[:20], encoding="utf-8")
    assert cells.load(key) is None
    assert list(cells) == []


def test_what_was_not_run_or_failed_never_hides_a_finished_cell(tmp_path):
    cells, key = Cells(tmp_path), CellKey("01", None, "FLAIR", 3, "paper")
    cells.save(key, {"status": "not run", "reason": "no GPU"})
    cells.save(key, {"status": "done"})
    cells.save(key, {"status": "not run", "reason": "no GPU"})
    assert cells.load(key).done


def test_thick_targets_off_grid_targets_noise_and_motion(tmp_path):
    """A FLAIR on a turned grid becomes the truth on the T1w's; a T2w of thick slices is none."""
    dataset = Dataset.create(tmp_path / "bids")
    data, affine = head("T1w", (3.0,) * 3)
    dataset.add("01", "T1w", voxel_mm=(3.0,) * 3, data=data, world_from_voxel=affine)
    data, affine = head("FLAIR", (3.0,) * 3, seed=1)
    # The same image with its third axis first: slices are then cut along the T1w's third axis.
    turned = dataset.add(
        "01", "FLAIR", data=np.moveaxis(data, 2, 0), world_from_voxel=affine[:, [2, 0, 1, 3]],
        voxel_mm=(3.0,) * 3,
    )  # fmt: skip
    image = nib.load(turned)
    image.header.set_dim_info(slice=0)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), turned)
    dataset.add("01", "T2w")
    options = ("--methods", "cubic", "--factors", "3", "--targets", "FLAIR", "T2w", "--noise", "3")
    out_dir = tmp_path / "out"
    exit_code, last_line, log = atlasgs_study(dataset.root, out_dir, *options, "--motion", "1.5", "2")
    assert (exit_code, last_line) == (0, "1 cells done, 0 not run, 0 failed"), log
    assert "T2w.nii.gz: voxels of 3 x 3 x 9 mm" in log
    (cell,) = Cells(out_dir)
    # Slices of the head along the T1w's third axis, of which there are 8 of 3 voxels.
    mask = foreground_mask(load_volume(dataset.path("01", "T1w")))
    per_slice = mask.reshape(24, 24, 8, 3).sum(axis=(0, 1, 3))
    assert cell.content["regions"]["mask"]["units"]["n_voxels"] == per_slice[per_slice > 0].tolist()


def test_a_participant_without_t1w_fails_alone(tmp_path):
    dataset = isotropic_dataset(tmp_path / "bids", ("01", "02"), n_voxels=16)
    dataset.path("01", "T1w").unlink()
    options = ("--methods", "cubic", "--factors", "2")
    exit_code, last_line, log = atlasgs_study(dataset.root, tmp_path / "out", *options)
    assert exit_code == 1
    assert last_line.startswith("1 cells done, 0 not run, 1 failed: sub-01:")
    (line,) = [line for line in log.splitlines() if "ERROR" in line]
    assert line.endswith("(details: logs/sub-01.txt)")
    assert "Traceback" in (tmp_path / "out" / "logs" / "sub-01.txt").read_text()


@pytest.mark.parametrize(
    "options",
    [
        ("--methods", "magic"),
        ("--factors", "1"),
        ("--axis", "3"),
        ("--calibration", "magic"),
        ("--in-plane", "0"),
    ],
)
def test_wrong_usage(dataset, tmp_path, options):
    assert atlasgs_study(dataset.root, tmp_path / "out", *options)[0] == 2


def test_out_dir_inside_the_dataset_is_refused(dataset):
    exit_code, _, log = atlasgs_study(dataset.root, dataset.root / "study")
    assert exit_code == 2
    assert "inside bids_dir" in log


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()


def command_line(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@contextmanager
def at_its_first_cells(dataset, out_dir, *options):
    """A study of two processes when they have begun, and their numbers."""
    process = subprocess.Popen(
        command(dataset.root, out_dir, *options, "--nprocs", "2"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + TIMEOUT_S
    while not (out_dir / "shared").exists() and time.monotonic() < until:
        time.sleep(0.05)
    (server,) = [child for child in children(process.pid) if b"forkserver" in command_line(child)]
    try:
        yield process, children(server)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_process_that_the_system_kills_takes_its_own_cell_along(dataset, tmp_path):
    out_dir, options = tmp_path / "out", ("--methods", "graph", "--factors", "2", "3")
    with at_its_first_cells(dataset, out_dir, *options) as (process, workers):
        assert len(workers) == 2
        os.kill(int(workers[0]), signal.SIGKILL)
        stdout, log = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1, log
    assert stdout.splitlines()[-1].startswith("3 cells done, 0 not run, 1 failed")
    (failed,) = [cell for cell in Cells(out_dir) if not cell.done]
    assert "ended from outside" in failed.content["reason"]
    exit_code, last_line, _ = atlasgs_study(dataset.root, out_dir, *options)
    assert (exit_code, last_line) == (0, "4 cells done, 0 not run, 0 failed")


def test_a_scheduler_that_ends_a_study_does_not_wait_for_its_cells(dataset, tmp_path):
    """SIGTERM while cells would go on for hours: code 130 at once, and no process is left."""
    options = ("--methods", "inr", "--factors", "2", "3", "--inr-steps", "1000000")
    with at_its_first_cells(dataset, tmp_path / "out", *options) as (process, workers):
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in log
    assert workers
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)

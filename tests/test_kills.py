"""Killed between any two changes to the results, a run leaves what is true; the next one completes it."""

import gzip
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from atlasgs_bids.bids.derivatives import anchor_outputs, companion_path, json_path
from tests.bids_datasets import THICK_MM, Dataset, head
from tests.runs import command, outputs

SCRIPT = """
import json, os, signal, sys
import atlasgs_bids.subject, gsplat.exporter, matplotlib.backends.backend_agg, torch
torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()
from atlasgs_bids.cli import main

def watch(results, kill_before, log):
    n_seen = 0
    def hook(event, arguments):
        nonlocal n_seen
        if event not in ("os.rename", "os.remove"):
            return
        path = os.fspath(arguments[1] if event == "os.rename" else arguments[0])
        absent = event == "os.remove" and not os.path.exists(path)
        if absent or not path.startswith(results) or "/.tmp-" in path:
            return
        if n_seen == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        n_seen += 1
        print(event[3:], os.path.basename(path), file=log, flush=True)
    return hook

for line in sys.stdin:
    out_dir, kill_before, options = json.loads(line)
    child = os.fork()
    if child == 0:
        sys.argv[2] = out_dir
        sys.argv += options
        with open(out_dir + ".log", "w") as log, open(out_dir + ".err", "w") as error:
            os.dup2(error.fileno(), 1)
            os.dup2(error.fileno(), 2)
            sys.addaudithook(watch(out_dir + "/sub-01/", kill_before, log))
            main(prog_name="atlasgs")
    print(os.waitpid(child, 0)[1], flush=True)
"""
"""Each run in a process forked from one that has loaded the libraries. Python tells an audit hook of a change
right before it is made: there, SIGKILL ends the process, without chance and without waiting."""


@pytest.fixture(scope="module")
def bids_dir(tmp_path_factory):
    dataset = Dataset.create(tmp_path_factory.mktemp("kills") / "bids").add_participant("01")
    data, affine = head("T2w", THICK_MM)
    series = np.stack([data, 0.5 * data], axis=-1)
    dataset.add_diffusion("01", series, affine, np.array([0.0, 1000]), np.array([[0, 0, 0], [0, 0, 1.0]]))
    return dataset.root


@pytest.fixture(scope="module")
def run(bids_dir):
    """A run into a folder, with options, that SIGKILL ends after so many changes; None: it ends well."""
    arguments = [sys.executable, "-c", SCRIPT, *command(bids_dir, "out")[3:]]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run_in_fork(out_dir, kill_before=None, *options):
            process.stdin.write(json.dumps([str(out_dir), kill_before, options]) + "\n")
            process.stdin.flush()
            status, log = process.stdout.readline(), Path(f"{out_dir}.err").read_text()
            assert int(status) == (0 if kill_before is None else signal.SIGKILL), log

        yield run_in_fork
        process.stdin.close()


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    """A whole run, and the changes that it made, in order."""
    out_dir = tmp_path_factory.mktemp("undisturbed") / "out"
    run(out_dir)
    return out_dir, out_dir.with_suffix(".log").read_text().splitlines()


def names(out_dir):
    return {path.relative_to(out_dir).as_posix() for path in out_dir.rglob("*") if path.is_file()}


def after(changes, *wanted):
    """How many changes there were when a change with one of these endings had just been made."""
    return [n for n, change in enumerate(changes, 1) if change.endswith(wanted) and n < len(changes)]


def check_sidecars(out_dir):
    for path in (out_dir / "sub-01").rglob("sub-*"):
        if path.name.endswith((".nii.gz", ".npz", ".ply", "_xfm.txt", "_metrics.tsv")):
            assert json_path(path).exists(), f"{path.name} stands without a sidecar"
        if path.name.endswith("_dwi.nii.gz"):
            assert companion_path(path, "dwi", ".bvec").exists(), f"{path.name} stands without directions"


def test_no_image_ever_stands_without_its_sidecar(run, undisturbed, tmp_path):
    whole, changes = undisturbed
    chosen = ("anchor_T1w.nii.gz", "sr_FLAIR.nii.gz", "mod-FLAIR_space-T1w_desc-atlasgs_scaffold.npz")
    moments = after(changes, *chosen, "FLAIRfov_mask.nii.gz", "residual_dwi.nii.gz")
    assert len(moments) == 5
    folders = [tmp_path / f"out-{n}" for n in moments]
    for folder, n in zip(folders, moments, strict=True):
        run(folder, n)
        check_sidecars(folder)
    for folder in (folders[1], folders[-1]):
        run(folder)
        assert names(folder) == names(whole), folder.name


def content(path):
    return gzip.decompress(path.read_bytes())


def test_no_image_ever_stands_beside_the_sidecar_of_another_one(run, undisturbed, tmp_path):
    """What is done again, otherwise: old pairs, then none, then new ones; never finished in between."""
    whole, _ = undisturbed
    changed = ["--overwrite", "--slice-profile", "gaussian"]
    shutil.copytree(whole, tmp_path / "new")
    run(tmp_path / "new", None, *changed)
    changes = (tmp_path / "new.log").read_text().splitlines()
    moments = [2, *after(changes, "rename sub-01_space-T1w_res-iso_desc-sr_FLAIR.json", "desc-sr_dwi.nii.gz")]
    assert len(moments) == 4
    folders = [tmp_path / f"out-{n}" for n in moments]
    seen = set()
    for folder, n in zip(folders, moments, strict=True):
        shutil.copytree(whole, folder)
        run(folder, n, *changed)
        check_sidecars(folder)
        for suffix, datatype in (("FLAIR", "anat"), ("dwi", "dwi")):
            paths = outputs(folder, "01", suffix, datatype)
            assert not paths.finished or suffix == "FLAIR"
            if paths.sr.exists():
                profile = json.loads(paths.sr_json.read_text())["SliceProfile"]
                of_that = whole if profile == "box" else tmp_path / "new"
                assert content(paths.sr) == content(outputs(of_that, "01", suffix, datatype).sr), folder.name
                seen.add((suffix, profile))
            else:
                seen.add((suffix, None))
    assert seen == {(suffix, found) for suffix in ("FLAIR", "dwi") for found in ("box", "gaussian", None)}
    run(folders[2], None, *changed[1:])
    assert names(folders[2]) == names(whole)
    assert content(outputs(folders[2], "01", "FLAIR").sr) == content(
        outputs(tmp_path / "new", "01", "FLAIR").sr
    )


def test_the_ply_is_that_of_the_npz_after_a_kill_between_the_two(run, undisturbed, tmp_path):
    whole, changes = undisturbed
    out_dir = tmp_path / "out"
    shutil.copytree(whole, out_dir)
    ply, kept = (anchor_outputs(folder, "01", None).scaffold_ply for folder in (out_dir, whole))
    (moment,) = after(changes, "atlasgs_scaffold.ply")
    removed = ["metrics of the FLAIR", "metrics of the DWI", "npz"]
    run(out_dir, moment + len(removed), "--overwrite", "--scaffold-steps", "3")
    assert ply.read_bytes() != kept.read_bytes()
    run(out_dir)
    assert ply.read_bytes() == kept.read_bytes()

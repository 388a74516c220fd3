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

from atlasgs_bids.bids.outputs.names import anchor_outputs, companion_path, json_path
from tests.bids_datasets import THICK_MM, Dataset, head
from tests.runs import command, outputs

SCRIPT = """
import json, os, signal, sys
import atlasgs_bids.app.session, gsplat.exporter, matplotlib.backends.backend_agg, torch
torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()
from atlasgs_bids.app.cli import main

def watch(results, last_change):
    latest = None
    def hook(event, arguments):
        nonlocal latest
        if event not in ("os.rename", "os.remove"):
            return
        path = os.fspath(arguments[1] if event == "os.rename" else arguments[0])
        absent = event == "os.remove" and not os.path.exists(path)
        if absent or not path.startswith(results) or "/.tmp-" in path:
            return
        if latest == last_change:
            os.kill(os.getpid(), signal.SIGKILL)
        latest = f"{event[3:]} {os.path.basename(path)}"
    return hook

for line in sys.stdin:
    out_dir, last_change, options = json.loads(line)
    child = os.fork()
    if child == 0:
        sys.argv[2] = out_dir
        sys.argv += options
        with open(out_dir + ".log", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        if last_change is not None:
            sys.addaudithook(watch(out_dir + "/sub-01/", last_change))
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
    """A run into a folder, with options, that SIGKILL ends before the change after one; None: ends well."""
    arguments = [sys.executable, "-c", SCRIPT, *command(bids_dir, "out")[3:]]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run_in_fork(out_dir, last_change, *options):
            process.stdin.write(json.dumps([str(out_dir), last_change, options]) + "\n")
            process.stdin.flush()
            status, log = process.stdout.readline(), Path(f"{out_dir}.log").read_text()
            assert int(status) == (0 if last_change is None else signal.SIGKILL), log

        yield run_in_fork
        process.stdin.close()


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    """The results of a whole run."""
    out_dir = tmp_path_factory.mktemp("undisturbed") / "out"
    run(out_dir, None)
    return out_dir


def names(out_dir):
    return {path.relative_to(out_dir).as_posix() for path in out_dir.rglob("*") if path.is_file()}


def check_sidecars(out_dir):
    for path in (out_dir / "sub-01").rglob("sub-*"):
        if path.name.endswith((".nii.gz", ".npz", ".ply", "_xfm.txt", "_metrics.tsv")):
            assert json_path(path).exists(), f"{path.name} stands without a sidecar"
        if path.name.endswith("_dwi.nii.gz"):
            assert companion_path(path, "dwi", ".bvec").exists(), f"{path.name} stands without directions"


def test_no_image_ever_stands_without_its_sidecar(run, undisturbed, tmp_path):
    for name in (
        "sub-01_desc-anchor_T1w.nii.gz",
        "sub-01_space-T1w_res-iso_desc-sr_FLAIR.nii.gz",
        "sub-01_mod-FLAIR_space-T1w_desc-atlasgs_scaffold.npz",
        "sub-01_space-T1w_res-iso_desc-FLAIRfov_mask.nii.gz",
        "sub-01_desc-residual_dwi.nii.gz",
    ):
        run(tmp_path / name, f"rename {name}")
        assert any(path.name == name for path in (tmp_path / name).rglob("*"))
        check_sidecars(tmp_path / name)
    for name in ("sub-01_space-T1w_res-iso_desc-sr_FLAIR.nii.gz", "sub-01_desc-residual_dwi.nii.gz"):
        run(tmp_path / name, None)
        assert names(tmp_path / name) == names(undisturbed)


def content(path):
    return gzip.decompress(path.read_bytes())


def test_no_image_ever_stands_beside_the_sidecar_of_another_one(run, undisturbed, tmp_path):
    """What is done again, otherwise: old pairs, then none, then new ones; never finished in between."""
    options = ("--slice-profile", "gaussian")
    new = tmp_path / "new"
    shutil.copytree(undisturbed, new)
    run(new, None, "--overwrite", *options)
    of_profile = {"auto": undisturbed, "gaussian": new}
    seen = set()
    for last_change in (
        "remove sub-01_mod-dwi_space-T1w_res-iso_desc-sr_metrics.tsv",
        "rename sub-01_space-T1w_res-iso_desc-sr_FLAIR.json",
        "remove sub-01_space-T1w_res-iso_desc-sr_dwi.nii.gz",
        "rename sub-01_space-T1w_res-iso_desc-sr_dwi.nii.gz",
    ):
        folder = tmp_path / last_change
        shutil.copytree(undisturbed, folder)
        run(folder, last_change, "--overwrite", *options)
        check_sidecars(folder)
        for suffix, datatype in (("FLAIR", "anat"), ("dwi", "dwi")):
            paths, profile = outputs(folder, "01", suffix, datatype), None
            assert paths.finished == (suffix == "FLAIR" and last_change.endswith("dwi.nii.gz"))
            if paths.sr.exists():
                profile = json.loads(paths.sr_json.read_text())["SliceProfile"]
                expected = outputs(of_profile[profile], "01", suffix, datatype).sr
                assert content(paths.sr) == content(expected), last_change
            seen.add((suffix, profile))
    assert seen == {(suffix, found) for suffix in ("FLAIR", "dwi") for found in ("auto", "gaussian", None)}
    run(folder, None, *options)
    assert names(folder) == names(new)


def test_the_ply_is_that_of_the_npz_after_a_kill_between_the_two(run, undisturbed, tmp_path):
    out_dir = tmp_path / "out"
    shutil.copytree(undisturbed, out_dir)
    ply, kept = (anchor_outputs(folder, "01", None).scaffold_ply for folder in (out_dir, undisturbed))
    run(out_dir, f"rename {ply.name}", "--overwrite", "--scaffold-steps", "3")
    assert ply.read_bytes() != kept.read_bytes()
    run(out_dir, None)
    assert ply.read_bytes() == kept.read_bytes()

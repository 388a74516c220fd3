"""What a rerun says of finished targets that it would make otherwise: real runs, one after the other."""

import gzip
import json
import os
import shutil

import numpy as np
import pytest

from atlasgs_bids.app.provenance import content_digest
from tests.bids_datasets import Dataset, sidecar_of
from tests.runs import atlasgs, outputs

KEPT = "kept; --overwrite does it again"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A dataset with a FLAIR and a T2w, and its results."""
    root = tmp_path_factory.mktemp("provenance")
    Dataset.create(root / "bids").add_participant("01", "FLAIR", "T2w")
    (root / "profile.txt").write_text("-4 1\n0 2\n4 1\n")
    code, _, log = atlasgs(root / "bids", root / "out", "--slice-profile", root / "profile.txt")
    assert code == 0, log
    return root


def rerun(root, *options):
    """What a run over finished results says of each target, by label."""
    before = {path: path.stat().st_mtime_ns for path in (root / "out" / "sub-01").rglob("*.*")}
    arguments = ("--slice-profile", root / "profile.txt", *options)
    code, last_line, log = atlasgs(root / "bids", root / "out", *arguments)
    assert (code, last_line) == (0, "1 of 1 participants done"), log
    assert {path: path.stat().st_mtime_ns for path in before} == before
    lines = [line.split(None, 1)[1] for line in log.splitlines() if ": finished by" in line]
    return {line.split()[2].rstrip(":"): line for line in lines}


@pytest.fixture
def copy(finished, tmp_path):
    """The same after the dataset and its results were copied: all times of the files are others."""
    for name in ("bids", "out"):
        shutil.copytree(finished / name, tmp_path / name, copy_function=shutil.copy)
    shutil.copy(finished / "profile.txt", tmp_path / "profile.txt")
    for path in (tmp_path / "bids").rglob("*"):
        os.utime(path, (1e9, 1e9))
    return tmp_path


def test_likewise_in_another_folder_there_is_nothing_to_say(copy):
    said = rerun(copy, "-v", "--device", "auto", "--combine-stacks", "none")
    usual = "finished by an earlier run; --overwrite does it again"
    assert said == {name: f"INFO    sub-01 {name}: {usual}" for name in ("FLAIR", "T2w")}


def test_other_options_are_named_one_by_one(copy):
    (copy / "profile.txt").write_text("-4 1\n0 3\n4 1\n")
    said = rerun(copy, "--prior", "learned", "--fast", "--slice-thickness", "FLAIR=5", "--seed", "3")
    start = "finished by an earlier run with --prior auto (now learned), --fast off (now on), "
    assert said["FLAIR"].startswith(f"WARNING sub-01 FLAIR: {start}--slice-profile profile.txt (")
    assert said["FLAIR"].endswith(f", --slice-thickness not given (now 5.0), --seed 0 (now 3); {KEPT}")
    assert "--slice-thickness" not in said["T2w"]
    assert said["T2w"].endswith(f", --seed 0 (now 3); {KEPT}")


def test_other_inputs_are_named_by_target(copy):
    flair, t2w = (copy / "bids/sub-01/anat" / f"sub-01_{suffix}.nii.gz" for suffix in ("FLAIR", "T2w"))
    content = bytearray(gzip.decompress(flair.read_bytes()))
    content[-1] ^= 1
    flair.write_bytes(gzip.compress(bytes(content)))
    sidecar = json.loads(sidecar_of(t2w).read_text())
    sidecar_of(t2w).write_text(json.dumps({**sidecar, "EchoTime": 0.1}))
    # An option that only chooses images is named where the inputs differ, and not otherwise.
    said = rerun(copy, "--combine-stacks", "all")
    combined = "with --combine-stacks orthogonal (now all), from another version of"
    assert said == {
        "FLAIR": f"WARNING sub-01 FLAIR: finished by an earlier run {combined} sub-01_FLAIR.nii.gz; {KEPT}",
        "T2w": f"WARNING sub-01 T2w: finished by an earlier run {combined} the metadata of "
        f"sub-01_T2w.nii.gz; {KEPT}",
    }


def test_another_anchor_and_a_target_that_is_new(copy):
    """The finished one of a session of which another one is done now."""
    anatomy = copy / "bids/sub-01/anat"
    for extension in (".nii.gz", ".json"):
        (anatomy / f"sub-01_T1w{extension}").rename(anatomy / f"sub-01_acq-mprage_T1w{extension}")
    outputs(copy / "out", "01", "T2w").metrics_tsv.unlink()
    code, _, log = atlasgs(copy / "bids", copy / "out", "--slice-profile", copy / "profile.txt")
    assert code == 0, log
    (line,) = [line for line in log.splitlines() if "finished by an earlier run" in line]
    wanted = f"run without sub-01_acq-mprage_T1w.nii.gz, with sub-01_T1w.nii.gz; {KEPT}"
    assert line.endswith(wanted)
    assert "sub-01 FLAIR: " in line
    assert outputs(copy / "out", "01", "T2w").finished


def test_results_of_another_version(copy):
    for suffix, change in (("FLAIR", {"version": "0.0.1"}), ("T2w", None)):
        path = outputs(copy / "out", "01", suffix).sr_json
        content = json.loads(path.read_text())
        if change is None:  # as it was before there were such fields
            del content["Settings"], content["InputFingerprints"]
        else:
            content["Settings"] |= change
        path.write_text(json.dumps(content))
    said = rerun(copy, "--seed", "3")
    assert said["FLAIR"].startswith("WARNING sub-01 FLAIR: finished by an earlier run of AtlasGS 0.0.1 (now ")
    assert said["FLAIR"].endswith(f"), with --seed 0 (now 3); {KEPT}")
    assert said["T2w"] == "INFO    sub-01 T2w: finished by an earlier run; --overwrite does it again"


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_one_bit_in_the_middle_of_a_large_file_makes_it_another_one(tmp_path, name):
    content = bytearray(np.random.default_rng(0).bytes(2**20))
    digests = []
    for _ in range(2):
        packed = gzip.compress(bytes(content), mtime=0) if name.endswith(".gz") else bytes(content)
        (tmp_path / name).write_bytes(packed)
        digests.append(content_digest(tmp_path / name))
        content[2**19] ^= 1
    assert digests[0] != digests[1]

"""Several GPUs: participants are spread over them, and which one it was leaves no trace in an image."""

import csv
import gzip
import json

import numpy as np
import pytest

from tests.bids_datasets import THICK_MM, Dataset, head
from tests.runs import atlasgs, outputs

QUICK = ("--fast", "--omp-nthreads", "2")
"""As many threads in each run: how many there are may show in the last bit."""
PARTICIPANTS = tuple(f"{number:02}" for number in range(1, 9))


def images(out_dir, participants):
    """Content of every participant's image; the learned prior must have made it."""
    contents = []
    for participant in participants:
        files = outputs(out_dir, participant, "FLAIR")
        assert json.loads(files.sr_json.read_text())["Prior"] == "learned"
        contents.append(gzip.decompress(files.sr.read_bytes()))
    return contents


def device_of(out_dir, participant):
    (path,) = (out_dir / f"sub-{participant}" / "anat").glob("*_metrics.tsv")
    with path.open(newline="") as file:
        return next(csv.DictReader(file, delimiter="\t"))["device"]


@pytest.mark.gpu
def test_every_gpu_does_its_share_and_the_same(two_gpus, tmp_path):
    """The participants have the same scans, so all of them have the same result, to the last byte."""
    dataset = Dataset.create(tmp_path / "bids")
    for participant in PARTICIPANTS:
        dataset.add_participant(participant)
    spread = tmp_path / "spread"
    code, last_line, log = atlasgs(dataset.root, spread, "--device", "cuda", "--nprocs", "6", *QUICK)
    assert (code, last_line) == (0, "8 of 8 participants done"), log
    assert {device_of(spread, participant) for participant in PARTICIPANTS} == set(two_gpus)
    contents = images(spread, PARTICIPANTS)
    for device in two_gpus:
        out_dir = tmp_path / device.replace(":", "")
        code, _, log = atlasgs(dataset.root, out_dir, "--device", device, "--participant-label", "01", *QUICK)
        assert code == 0, log
        assert device_of(out_dir, "01") == device
        contents += images(out_dir, ["01"])
    assert len(set(contents)) == 1
    assert list((spread / "logs").glob("crash-*")) == []


@pytest.mark.gpu
def test_targets_that_learn_beside_each_other_are_as_alone(tmp_path):
    """To the last byte; one that lies outside the T1w fails by itself."""
    both, far = Dataset.create(tmp_path / "both").add_participant("01", "FLAIR", "T2w"), np.eye(4)
    data, affine = head("FLAIR", THICK_MM)
    far[:3, 3] = 1000
    both.add("01", "FLAIR", entities="acq-far", data=data, world_from_voxel=far @ affine)
    options = ("--device", "cuda", "--registration", "header", *QUICK)
    code, _, log = atlasgs(both.root, tmp_path / "out", *options)
    assert (code, "sub-01 acq-far_FLAIR: " in log) == (1, True), log
    assert "FLAIR and T2w: learning" in log
    for suffix in ("FLAIR", "T2w"):
        alone = Dataset.create(tmp_path / suffix).add_participant("01", suffix)
        code, _, log = atlasgs(alone.root, tmp_path / f"out-{suffix}", *options)
        assert code == 0, log
        files = [outputs(tmp_path / folder, "01", suffix) for folder in ("out", f"out-{suffix}")]
        for image in ("sr", "srstd"):
            first, second = (gzip.decompress(getattr(own, image).read_bytes()) for own in files)
            assert first == second

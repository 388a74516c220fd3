"""Runs whose anchor is no T1w: names, references, words and the methods text follow it."""

import json
import re

import numpy as np
import pytest

from atlasgs_bids import run
from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.outcomes import status_of
from atlasgs_bids.bids.outputs.names import target_outputs
from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings, ScaffoldSettings
from atlasgs_bids.restoration.settings import RestorationSettings
from tests.bids_datasets import Dataset, head
from tests.validation import validator_errors

ISOTROPIC = (3.0, 3.0, 3.0)
CORE = CoreSettings(
    scaffold=ScaffoldSettings(n_gaussians=3000, n_steps=3),
    appearance=AppearanceSettings(regularization=0.1, max_iterations=10),
)
SETTINGS = RestorationSettings(registration="header", core=CORE)


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    """01: an isotropic FLAIR and a thick T2w; 02: an MP2RAGE and a thick FLAIR. No T1w anywhere."""
    root = tmp_path_factory.mktemp("anchors")
    dataset = Dataset.create(root / "bids")
    dataset.add("01", "FLAIR", voxel_mm=ISOTROPIC)
    dataset.add("01", "T2w")
    bright, affine = head("T1w")
    noise = np.random.default_rng(0).uniform(0, 900, bright.shape)
    unit1 = np.where(bright > 100, bright, noise).astype(np.float32)
    dataset.add("02", "UNIT1", voxel_mm=ISOTROPIC, data=unit1, world_from_voxel=affine)
    second, _ = head("PDw")
    dataset.add("02", "MP2RAGE", entities="inv-2", voxel_mm=ISOTROPIC, data=second, world_from_voxel=affine)
    dataset.add("02", "FLAIR")
    out_dir = root / "out"
    config = RunConfig(root / "bids", out_dir, "participant", restoration=SETTINGS, skip_bids_validation=True)
    return out_dir, run(config), run(RunConfig(root / "bids", out_dir, "group"))


def test_the_runs_end_well_and_the_results_are_valid(restored):
    out_dir, *exit_codes = restored
    assert exit_codes == [0, 0]
    assert validator_errors(out_dir) == []
    found = status_of(out_dir, None, ()).outcomes
    assert [(outcome.label, outcome.state) for outcome in found] == [
        ("sub-01 T2w", "done"), ("sub-02 FLAIR", "done")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("participant", "anchor", "target", "sources"),
    [
        ("01", "FLAIR", "T2w", ["FLAIR"]),
        ("02", "UNIT1", "FLAIR", ["UNIT1", "inv-2_MP2RAGE"]),
    ],
)
def test_names_and_references_follow_the_anchor(restored, participant, anchor, target, sources):
    out_dir, *_ = restored
    stem = f"sub-{participant}"
    names = {path.name for path in (out_dir / stem).rglob("*") if path.is_file()}
    assert not {name for name in names if "T1w" in name}
    assert {
        f"{stem}_desc-anchor_{anchor}.nii.gz",
        f"{stem}_space-{anchor}_desc-atlasgs_scaffold.npz",
        f"{stem}_mod-{target}_space-{anchor}_desc-atlasgs_scaffold.npz",
        f"{stem}_from-{target}_to-{anchor}_mode-image_xfm.txt",
        f"{stem}_space-{anchor}_res-iso_desc-{target}fov_mask.nii.gz",
        f"{stem}_space-{anchor}_res-iso_desc-{target}trusted_mask.nii.gz",
    } <= names
    outputs = target_outputs(
        out_dir, {"subject": participant, "suffix": target, "datatype": "anat"}, space=anchor
    )
    sidecar = json.loads(outputs.sr_json.read_text())
    assert sidecar["SpatialReference"] == f"bids::{stem}/anat/{stem}_desc-anchor_{anchor}.nii.gz"
    assert sidecar["Settings"]["anchor"] == "auto"
    used = json.loads((outputs.sr.parent / f"{stem}_desc-anchor_{anchor}.json").read_text())["Sources"]
    assert used == [f"bids:raw:{stem}/anat/{stem}_{name}.nii.gz" for name in sources]
    prints = {entry["URI"] for entry in sidecar["InputFingerprints"]}
    assert set(used) <= prints
    # The same head at the same place, brighter than nothing: the anchor guided it.
    assert outputs.sr.exists()
    assert outputs.figure.exists()


@pytest.mark.parametrize(("participant", "anchor"), [("01", "FLAIR"), ("02", "UNIT1")])
def test_pages_speak_of_the_anchor(restored, participant, anchor):
    out_dir, *_ = restored
    page = (out_dir / f"sub-{participant}.html").read_text()
    reason = "no usable T1w"
    assert reason in page
    # Images are in base64, which may hold any word.
    assert not re.search(r"(?<![\w+/])T1w(?![\w+/])", page.replace(reason, ""))
    assert f"in the space of the same participant&#39;s {anchor} image" in page
    assert f"{anchor}, position found" in page


def test_the_methods_text_of_all_names_both(restored):
    text = (restored[0] / "logs" / "CITATION.md").read_text()
    assert "participant's FLAIR (1), UNIT1 (1) image" in text
    assert "similar amplitudes, the more so the more alike the anchor is there" in " ".join(text.split())

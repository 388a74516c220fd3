"""Anchors across sessions, and what other pipelines left; plans, and one run of the real command."""

import json
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import SimpleITK

from atlasgs_bids import run
from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings, ScaffoldSettings
from atlasgs_bids.errors import InputError
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.files import load_tsv
from tests.bids_datasets import Dataset, head
from tests.plans import plan, t1w, target
from tests.validation import validator_errors

CORE = CoreSettings(
    scaffold=ScaffoldSettings(n_gaussians=3000, n_steps=3),
    appearance=AppearanceSettings(regularization=0.1, max_iterations=10),
)
QUICK = {
    "restoration": RestorationSettings(registration="header", core=CORE),
    "skip_bids_validation": True,
}
SHIFT_MM = 2.5


def test_one_anchor_for_all_sessions():
    anchors = [t1w("ses-a"), t1w("ses-b", (2, 2, 2))]
    result = plan(anchors, [target("ses-a")], session="a", anchor_session="b")
    assert result.anchor.entities["session"] == "b"
    assert result.other_anchor.entities["session"] == "a"
    assert result.warnings == ()
    # Without it each session has its own, and is compared with the first other one.
    own = plan(anchors, [target("ses-b")], session="b")
    assert (own.anchor.entities["session"], own.other_anchor.entities["session"]) == ("b", "a")


def test_nothing_to_compare_with():
    assert plan([t1w("ses-a")], [target("ses-a")], session="a").other_anchor is None
    assert plan([t1w(), t1w("run-2")], [target()]).other_anchor is None


def test_an_anchor_session_without_a_usable_t1w():
    with pytest.raises(InputError, match=r"in ses-c \(--anchor-session\)"):
        plan([t1w("ses-a")], [target("ses-a")], session="a", anchor_session="c")


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    """Two sessions, the second with another lesion-free T1w; fMRIPrep's results with a transform of FLAIR."""
    root = tmp_path_factory.mktemp("sessions")
    dataset = Dataset.create(root / "bids")
    dataset.add_participant("01", session="a").add_participant("01", session="b")
    noisy, affine = head("T1w", seed=5)
    dataset.add("01", "T1w", session="b", data=0.5 * noisy + 20, world_from_voxel=affine)
    fmriprep = Dataset.create(root / "fmriprep", DatasetType="derivative", GeneratedBy=[{"Name": "fMRIPrep"}])
    preprocessed = fmriprep.add("02", "T1w", entities="desc-preproc")
    data, affine = head("T1w")
    mask = np.float32(data > 100)
    fmriprep.add("02", "mask", entities="desc-brain", data=mask, world_from_voxel=affine, voxel_mm=(3, 3, 3))
    transform = SimpleITK.TranslationTransform(3, (-SHIFT_MM, 0.0, 0.0))  # LPS: 2.5 mm to the right in RAS
    path = preprocessed.with_name("sub-02_from-FLAIR_to-T1w_mode-image_xfm.txt")
    SimpleITK.WriteTransform(transform, str(path))
    dataset.add_participant("02", "FLAIR", "T2w")
    config = RunConfig(
        root / "bids", root / "out", "participant", derivatives={"fmriprep": root / "fmriprep"}, **QUICK
    )
    return root / "out", run(config)


def test_the_run_ends_well(restored):
    out_dir, exit_code = restored
    assert exit_code == 0
    assert validator_errors(out_dir) == []


def test_the_scaffold_of_one_session_explains_the_other(restored):
    out_dir, _ = restored
    for own, other in (("a", "b"), ("b", "a")):
        path = out_dir / f"sub-01/ses-{own}/anat/sub-01_ses-{own}_mod-T1w_desc-longitudinal_metrics.tsv"
        (row,) = load_tsv(path)
        assert row["other_image"] == f"sub-01_ses-{other}_T1w.nii.gz"
        # The same head with half the contrast: noise (12 of about 250) is all that differs.
        assert float(row["explained_variance"]) > 0.9
        assert set(row) == set(json.loads(path.with_suffix(".json").read_text()))


def test_the_preprocessed_t1w_its_mask_and_its_transform_are_used(restored):
    out_dir, _ = restored
    folder = out_dir / "sub-02" / "anat"
    anchor = json.loads((folder / "sub-02_desc-anchor_T1w.json").read_text())
    assert anchor["Sources"] == ["bids:fmriprep:sub-02/anat/sub-02_desc-preproc_T1w.nii.gz"]
    assert anchor["Description"].startswith("The anchor: preprocessed")
    description = json.loads((out_dir / "dataset_description.json").read_text())
    assert description["DatasetLinks"] == {"raw": ANY, "fmriprep": ANY}
    rows = {
        suffix: load_tsv(folder / f"sub-02_mod-{suffix}_space-T1w_res-iso_desc-sr_metrics.tsv")[0]
        for suffix in ("FLAIR", "T2w")
    }
    assert rows["FLAIR"]["registration_method"] == "derivative"
    assert float(rows["FLAIR"]["registration_displacement"]) == pytest.approx(SHIFT_MM)
    assert rows["T2w"]["registration_method"] == "header"


def test_a_scaffold_that_was_written_is_taken_and_belongs_to_one_head(restored, tmp_path):
    out_dir, _ = restored
    scaffold = out_dir / "sub-02" / "anat" / "sub-02_space-T1w_desc-atlasgs_scaffold.ply"
    bids_dir = out_dir.parent / "bids"
    config = RunConfig(bids_dir, tmp_path / "out", "participant", scaffold=scaffold, **QUICK)
    assert run(config) == 2
    one = RunConfig(
        bids_dir, tmp_path / "out", "participant", participant_labels=("02",), scaffold=scaffold, **QUICK
    )
    assert run(one) == 0
    sidecar = tmp_path / "out" / "sub-02" / "anat" / "sub-02_space-T1w_desc-atlasgs_scaffold.json"
    assert json.loads(sidecar.read_text())["NumberOfGaussians"] <= CORE.scaffold.n_gaussians
    (row,) = load_tsv(Path(sidecar.with_name("sub-02_mod-FLAIR_space-T1w_res-iso_desc-sr_metrics.tsv")))
    assert float(row["seconds_scaffold"]) < 60

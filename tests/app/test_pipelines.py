"""fMRIPrep's and ASLPrep's results as they name them today: one run of the app on what they left.

The scans of sub-01 lie elsewhere than their headers say; only the transforms know where.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.bids.inputs.discover import discover_participant
from atlasgs_bids.bids.plan.session import plan_subject
from atlasgs_bids.bids.plan.table import plan_rows
from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings, ScaffoldSettings
from atlasgs_bids.imaging.itk import itk_affine, itk_rigid
from atlasgs_bids.imaging.registration.itk_files import read_itk_transform
from atlasgs_bids.restoration.settings import RestorationSettings
from tests.bids_datasets import THICK_MM, Dataset, head
from tests.imaging.phantom import rigid
from tests.runs import run_logged
from tests.validation import validator_errors

CORE = CoreSettings(
    scaffold=ScaffoldSettings(n_gaussians=3000, n_steps=3),
    appearance=AppearanceSettings(regularization=0.1, max_iterations=10),
)
FLAIR_FROM_T1W = rigid([3, -6, 8], [6, -4, 5], np.zeros(3))
ASLREF_FROM_T1W = rigid([-5, 4, 2], [-4, 7, 3], np.zeros(3))
CONTEXT = ("m0scan", "control", "label", "cbf")
TO_T1W = "to-T1w_mode-image"


@dataclass(frozen=True)
class Restored:
    config: RunConfig
    out_dir: Path
    exit_code: int
    log: str

    def path(self, name, datatype="anat"):
        return self.out_dir / "sub-01" / datatype / f"sub-01_{name}"


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    dataset = Dataset.create(root / "bids")
    for participant in ("01", "02"):
        dataset.add(participant, "T1w")
        series = np.stack([head("PDw", THICK_MM, seed)[0] for seed in range(len(CONTEXT))], axis=-1)
        dataset.add_labelling(participant, series, head("PDw", THICK_MM)[1], CONTEXT)
    data, affine = head("FLAIR", THICK_MM)
    dataset.add("01", "FLAIR", data=data, world_from_voxel=FLAIR_FROM_T1W @ affine)
    dataset.add("01", "T2w")
    dataset.add("02", "FLAIR")
    fmriprep(root / "fmriprep")
    aslprep(root / "aslprep")
    config = RunConfig(
        root / "bids",
        root / "out",
        "participant",
        derivatives={"fmriprep": root / "fmriprep", "aslprep": root / "aslprep"},
        targets_from="aslprep",
        restoration=RestorationSettings(
            device="cpu",
            registration="header",
            slice_profile="box",
            estimate_uncertainty=False,
            core=CORE,
        ),
        skip_bids_validation=True,
        viewer=False,
    )
    code, log = run_logged(config, root / "log.txt")
    return Restored(config, root / "out", code, log)


def fmriprep(root):
    made = Dataset.create(root, DatasetType="derivative", GeneratedBy=[{"Name": "fMRIPrep"}])
    anat = made.add("01", "T1w", entities="desc-preproc").parent
    data, affine = head("T1w")
    mask = np.float32(data > 100)
    made.add("01", "mask", entities="desc-brain", data=mask, world_from_voxel=affine, voxel_mm=(3, 3, 3))
    SimpleITK.WriteTransform(itk_affine(np.eye(4)), str(anat / f"sub-01_from-orig_{TO_T1W}_xfm.txt"))
    # Composites as ANTs writes them: one to a template, one that goes the wrong way, one that bends.
    SimpleITK.WriteTransform(bent(np.eye(4)), str(anat / f"sub-01_from-MNI152NLin2009cAsym_{TO_T1W}_xfm.h5"))
    half = rigid([0, 2, 0], [5, 0, 0], np.zeros(3))
    backwards = SimpleITK.CompositeTransform(
        [itk_affine(half), itk_affine(np.linalg.inv(FLAIR_FROM_T1W @ half))]
    )
    SimpleITK.WriteTransform(backwards, str(anat / "sub-01_from-T1w_to-FLAIR_mode-image_xfm.h5"))
    SimpleITK.WriteTransform(bent(FLAIR_FROM_T1W), str(anat / f"sub-01_from-T2w_{TO_T1W}_xfm.h5"))


def bent(affine):
    field = SimpleITK.Image([4, 4, 4], SimpleITK.sitkVectorFloat64, 3)
    return SimpleITK.CompositeTransform([itk_affine(affine), SimpleITK.DisplacementFieldTransform(field)])


def aslprep(root):
    """Without a T1w of its own, as with ``--derivatives`` of fMRIPrep, and without an aslcontext."""
    made = Dataset.create(root, DatasetType="derivative", GeneratedBy=[{"Name": "ASLPrep"}])
    object.__setattr__(made, "sidecar_defaults", {"SliceTimingCorrected": True})
    image, affine = head("PDw", THICK_MM)
    series = np.stack([image, image, image - 20], axis=-1)
    moved = ASLREF_FROM_T1W @ affine
    perf = made.add("01", "asl", entities="desc-preproc", data=series, world_from_voxel=moved).parent
    transform = itk_rigid(ASLREF_FROM_T1W, np.array([3.0, -2.0, 5.0]))
    SimpleITK.WriteTransform(transform, str(perf / f"sub-01_from-aslref_{TO_T1W}_desc-coreg_xfm.txt"))
    made.add("02", "asl", entities="space-T1w_desc-preproc", data=series, world_from_voxel=affine)


def test_what_can_be_made_is_valid_and_what_failed_is_told(restored):
    assert restored.exit_code == 1
    assert validator_errors(restored.out_dir) == []


def test_the_plan_names_the_transforms(restored):
    config = restored.config
    (inputs,) = discover_participant(
        config.bids_dir, "01", derivatives=config.derivatives, targets_from=config.targets_from
    )
    rows = plan_rows(plan_subject(inputs, config.plan, config.naming))
    details = {name: text for role, name, text in rows if role == "restore"}
    assert f"position by sub-01_from-T2w_{TO_T1W}_xfm.h5" in details["sub-01_T2w.nii.gz"]
    asl = details["sub-01_desc-preproc_asl.nii.gz"]
    assert f"position by sub-01_from-aslref_{TO_T1W}_desc-coreg_xfm.txt" in asl


def test_a_composite_that_goes_the_wrong_way_is_gone_backwards(restored):
    found = read_itk_transform(restored.path(f"from-FLAIR_{TO_T1W}_xfm.txt"))
    np.testing.assert_allclose(found, FLAIR_FROM_T1W, atol=1e-6)
    image = nib.load(restored.path("space-T1w_res-iso_desc-sr_FLAIR.nii.gz"))
    truth, affine = head("FLAIR")
    np.testing.assert_allclose(image.affine, affine, atol=1e-3)
    inside = truth > 100
    # 0.58 with slices of 9 mm and few steps; -0.24 where the headers or the map itself put them.
    assert np.corrcoef(image.get_fdata()[inside], truth[inside])[0, 1] > 0.5
    sidecar = json.loads(restored.path("space-T1w_res-iso_desc-sr_FLAIR.json").read_text())
    uris = [entry["URI"] for entry in sidecar["InputFingerprints"]]
    assert "bids:fmriprep:sub-01/anat/sub-01_from-T1w_to-FLAIR_mode-image_xfm.h5" in uris
    assert "bids:fmriprep:sub-01/anat/sub-01_desc-brain_mask.nii.gz" in uris


def test_the_preprocessed_series_is_restored_where_aslprep_has_it(restored):
    found = read_itk_transform(restored.path(f"from-asl_{TO_T1W}_xfm.txt", "perf"))
    np.testing.assert_allclose(found, ASLREF_FROM_T1W, atol=1e-6)
    sidecar = json.loads(restored.path("space-T1w_res-iso_desc-sr_asl.json", "perf").read_text())
    assert sidecar["Sources"][0] == "bids:aslprep:sub-01/perf/sub-01_desc-preproc_asl.nii.gz"
    assert sidecar["PostLabelingDelay"] == 1.8, "the raw series says it"
    context = restored.path("space-T1w_res-iso_desc-sr_aslcontext.tsv", "perf").read_text().split()
    assert tuple(context[1:]) == CONTEXT[:3], "ASLPrep drops volumes that are no control, label or M0"
    assert nib.load(restored.path("space-T1w_res-iso_desc-sr_asl.nii.gz", "perf")).shape[3] == 3


def test_a_field_that_ends_before_the_head_fails_its_target_alone(restored):
    assert "from-T2w_to-T1w_mode-image_xfm.h5: of 100.0% of the head in the slices" in restored.log
    assert not restored.path("space-T1w_res-iso_desc-sr_T2w.nii.gz").exists()


def test_a_participant_without_the_series_fails_for_it_alone(restored):
    assert "--targets-from aslprep has only sub-02_space-T1w_desc-preproc_asl.nii.gz" in restored.log
    assert "--output-spaces asl" in restored.log
    perf = restored.out_dir / "sub-02" / "perf"
    assert not perf.exists() or not list(perf.glob("*_asl.nii.gz"))
    assert (restored.out_dir / "sub-02/anat/sub-02_space-T1w_res-iso_desc-sr_FLAIR.nii.gz").exists()

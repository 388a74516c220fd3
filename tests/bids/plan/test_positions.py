"""The way from a target to the anchor through files named as other pipelines name them."""

from pathlib import Path

import pytest

from atlasgs_bids.bids.entities import parse_entities
from atlasgs_bids.bids.images import ImageFile
from atlasgs_bids.bids.inputs.transforms import find_transforms
from atlasgs_bids.bids.plan.positions import find_position

FMRIPREP = """
sub-01/anat/sub-01_from-orig_to-T1w_mode-image_xfm.txt
sub-01/anat/sub-01_from-MNI152NLin2009cAsym_to-T1w_mode-image_xfm.h5
sub-01/anat/sub-01_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5
sub-01/anat/sub-01_from-T1w_to-fsnative_mode-image_xfm.txt
sub-01/func/sub-01_task-rest_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt
sub-01/func/sub-01_task-rest_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt
"""
ASLPREP = """
sub-01/perf/sub-01_from-orig_to-aslref_mode-image_desc-hmc_xfm.txt
sub-01/perf/sub-01_from-aslref_to-T1w_mode-image_desc-coreg_xfm.txt
sub-01/perf/sub-01_from-aslref_to-T1w_mode-image_desc-coreg_xfm.json
sub-01/perf/sub-01_from-m0scan_to-aslref_mode-image_xfm.txt
sub-01/perf/sub-01_from-aslref_to-auto00000_mode-image_xfm.txt
"""
QSIPREP = """
sub-01/anat/sub-01_from-orig_to-anat_mode-image_xfm.mat
sub-01/anat/sub-01_from-anat_to-ACPC_mode-image_xfm.mat
sub-01/anat/sub-01_from-ACPC_to-anat_mode-image_xfm.mat
sub-01/anat/sub-01_from-ACPC_to-MNI152NLin2009cAsym_mode-image_xfm.h5
sub-01/dwi/sub-01_acq-A_from-distortiongroup_to-ACPC_mode-image_desc-coreg_xfm.mat
sub-01/dwi/sub-01_acq-A_from-ACPC_to-distortiongroup_mode-image_desc-coreg_xfm.mat
"""
QSIPREP_SUBJECT = """
sub-01/anat/sub-01_from-orig_to-anat_mode-image_xfm.mat
sub-01/anat/sub-01_from-anat_to-ACPC_mode-image_xfm.mat
sub-01/dwi/sub-01_acq-A_from-distortiongroup_to-subject_mode-image_desc-coreg_xfm.mat
sub-01/dwi/sub-01_from-subject_to-ACPC_mode-image_desc-coreg_xfm.mat
"""


def image(path):
    return ImageFile(Path(path), parse_entities(Path(path)), {}, None, None)


RAW = image("/bids/sub-01/anat/sub-01_T1w.nii.gz")
DWI = image("/bids/sub-01/dwi/sub-01_acq-A_dwi.nii.gz")
ASL = image("/bids/sub-01/perf/sub-01_asl.nii.gz")
M0 = image("/bids/sub-01/perf/sub-01_m0scan.nii.gz")


@pytest.fixture
def tree(tmp_path):
    """Folders with empty files of these names -> their transforms and preprocessed T1w."""

    def make(**names):
        for pipeline, text in names.items():
            for name in text.split():
                path = tmp_path / pipeline / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        roots = {pipeline: tmp_path / pipeline for pipeline in names}
        return find_transforms(roots, "01"), {name: ready(root) for name, root in roots.items()}

    return make


def ready(root, name="sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"):
    return image(root / name)


def way(anchor, target, transforms, preprocessed=()):
    """The files' names without what they share, < before one that is gone backwards, and the warnings."""
    found = find_position(anchor, target, transforms, list(preprocessed))
    steps = [("<" if step.inverted else "") + step.path.name.split("_mode")[0] for step in found.steps]
    return [step.replace("sub-01_", "") for step in steps], found.warnings


def test_aslprep_on_its_own_t1w(tree):
    transforms, t1w = tree(aslprep=ASLPREP)
    anchor = t1w["aslprep"]
    assert way(anchor, ASL, transforms, [anchor]) == (["from-aslref_to-T1w"], ())
    assert way(anchor, M0, transforms, [anchor])[0] == ["from-m0scan_to-aslref", "from-aslref_to-T1w"]
    assert way(anchor, DWI, transforms, [anchor]) == ([], ())


def test_aslprep_on_the_t1w_that_fmriprep_made_ready(tree):
    transforms, t1w = tree(fmriprep=FMRIPREP, aslprep=ASLPREP)
    assert way(t1w["fmriprep"], ASL, transforms, [t1w["fmriprep"]]) == (["from-aslref_to-T1w"], ())


def test_transforms_to_a_t1w_that_is_not_given_are_named(tree):
    transforms, _ = tree(aslprep=ASLPREP)
    steps, (warning,) = way(RAW, ASL, transforms)
    assert steps == []
    assert "sub-01_from-aslref_to-T1w_mode-image_desc-coreg_xfm.txt leads to a T1w that is not the" in warning
    assert "with -d, before the others" in warning


def test_another_pipelines_t1w_is_reached_through_the_raw_one(tree):
    """Both say where the raw T1w lies."""
    own = "sub-01/anat/sub-01_from-orig_to-T1w_mode-image_xfm.txt"
    transforms, t1w = tree(fmriprep=FMRIPREP, aslprep=ASLPREP + own)
    steps, _ = way(t1w["fmriprep"], ASL, transforms, t1w.values())
    assert steps == ["from-aslref_to-T1w", "<from-orig_to-T1w", "from-orig_to-T1w"]


def test_qsiprep_leads_from_acpc_to_the_raw_t1w(tree):
    transforms, _ = tree(qsiprep=QSIPREP)
    steps = ["acq-A_from-distortiongroup_to-ACPC", "from-ACPC_to-anat", "<from-orig_to-anat"]
    assert way(RAW, DWI, transforms) == (steps, ())
    other = image("/bids/sub-01/dwi/sub-01_acq-B_dwi.nii.gz")
    assert way(RAW, other, transforms) == ([], ())


def test_an_anchor_that_is_no_t1w_is_not_taken_for_one(tree):
    transforms, _ = tree(qsiprep=QSIPREP)
    assert way(image("/bids/sub-01/anat/sub-01_FLAIR.nii.gz"), DWI, transforms) == ([], ())


def test_qsiprep_with_a_template_of_all_b0(tree):
    transforms, _ = tree(qsiprep=QSIPREP_SUBJECT)
    steps = [
        "acq-A_from-distortiongroup_to-subject",
        "from-subject_to-ACPC",
        "<from-anat_to-ACPC",
        "<from-orig_to-anat",
    ]
    assert way(RAW, DWI, transforms) == (steps, ())


def test_qsiprep_beside_the_t1w_of_fmriprep(tree):
    transforms, t1w = tree(fmriprep=FMRIPREP, qsiprep=QSIPREP)
    steps, _ = way(t1w["fmriprep"], DWI, transforms, [t1w["fmriprep"]])
    assert steps[-2:] == ["<from-orig_to-anat", "from-orig_to-T1w"]


def test_a_transform_that_goes_the_wrong_way_is_gone_backwards(tree):
    transforms, t1w = tree(own="sub-01/perf/sub-01_from-T1w_to-aslref_mode-image_xfm.h5")
    assert way(t1w["own"], ASL, transforms, t1w.values())[0] == ["<from-T1w_to-aslref"]


def test_a_field_may_be_an_image_and_comes_after_an_affine_of_its_name(tree):
    name = "sub-01/perf/sub-01_from-aslref_to-T1w_mode-image_xfm"
    transforms, t1w = tree(own=f"{name}.nii.gz")
    (step,) = find_position(t1w["own"], ASL, transforms, list(t1w.values())).steps
    assert step.path.name.endswith("_xfm.nii.gz")
    transforms, t1w = tree(own=f"{name}.nii.gz {name}.txt {name}.h5")
    (step,) = find_position(t1w["own"], ASL, transforms, list(t1w.values())).steps
    assert step.path.suffix == ".txt"


def test_the_most_specific_file_that_applies_counts(tree):
    names = "".join(
        f"sub-01/anat/sub-01{part}_from-FLAIR_to-T1w_mode-image_xfm.txt\n"
        for part in ("", "_acq-A", "_run-2")
    )
    transforms, t1w = tree(own=names)
    flair = image("/bids/sub-01/anat/sub-01_acq-A_FLAIR.nii.gz")
    sagittal = image("/bids/sub-01/anat/sub-01_acq-B_FLAIR.nii.gz")
    assert way(t1w["own"], sagittal, transforms)[0] == ["from-FLAIR_to-T1w"]
    assert way(t1w["own"], flair, transforms)[0] == ["acq-A_from-FLAIR_to-T1w"]


def test_the_t1w_of_another_session_is_another_t1w(tree):
    """sMRIPrep with one anatomical reference for each session."""
    of_session = "sub-01/ses-{0}/perf/sub-01_ses-{0}_from-aslref_to-T1w_mode-image_desc-coreg_xfm.txt\n"
    transforms, _ = tree(aslprep=of_session.format("a") + of_session.format("b"))
    root = transforms[0].root
    a, b = (ready(root, f"sub-01/ses-{s}/anat/sub-01_ses-{s}_desc-preproc_T1w.nii.gz") for s in "ab")
    target = image("/bids/sub-01/ses-b/perf/sub-01_ses-b_asl.nii.gz")
    assert way(b, target, transforms, [a, b])[0] == ["ses-b_from-aslref_to-T1w"]
    assert way(a, target, transforms, [a, b])[0] == []
    # With one reference for the participant the files lie as before, and lead to it.
    shared = ready(root)
    assert way(shared, target, transforms, [shared])[0] == ["ses-b_from-aslref_to-T1w"]

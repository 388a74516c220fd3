"""The plan of one session, from headers alone."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from atlasgs_bids.bids.inputs.discover import SubjectInputs
from atlasgs_bids.bids.plan.session import plan_subject
from atlasgs_bids.bids.plan.settings import PlanSettings
from atlasgs_bids.bids.plan.table import plan_table
from atlasgs_bids.errors import InputError
from tests.bids_datasets import affine_of
from tests.plans import NAMING, image, plan, t1w, target


def with_forms(file, **forms):
    return replace(file, header=replace(file.header, **forms))


def test_a_thick_target_is_restored():
    result = plan([t1w()], [target()])
    assert result.anchor.path.name == "sub-01_T1w.nii.gz"
    assert result.anchor_reason == "the only usable T1w, 3 x 3 x 3 mm"
    (flair,) = result.targets
    assert flair.label == "FLAIR"
    assert (flair.geometry.axis, flair.geometry.spacing_mm, flair.geometry.thickness_mm) == (2, 9.0, 9.0)
    assert (result.skipped, result.warnings, result.failures, result.label) == ((), (), (), "sub-01")


@pytest.mark.parametrize(
    ("anchors", "chosen", "reason"),
    [
        # Thick ones are never taken, however small their voxels.
        ([t1w("acq-a", (0.5, 0.5, 5)), t1w("acq-b")], "acq-b", "the only usable"),
        # Isotropic before small.
        ([t1w("acq-a", (1, 1, 2)), t1w("acq-b", (3, 3, 3))], "acq-b", "isotropic of 2"),
        ([t1w("acq-a"), t1w("acq-b", (2, 2, 2)), t1w("acq-c")], "acq-b", "the smallest voxels of 3"),
        ([t1w("ce-gad_run-1"), t1w("run-2")], "run-2", "without contrast agent of 2"),
        ([t1w("run-10"), t1w("run-2")], "run-2", "the first run of 2"),
        ([t1w("run-5F"), t1w("run-10"), t1w("run-5A")], "run-5A", "the first run of 3"),
        ([t1w("run-A"), t1w("run-2")], "run-2", "the first run of 2"),
        ([t1w("run-1"), t1w()], "", "the first run of 2"),
        ([t1w("acq-b"), t1w("acq-a")], "acq-a", "the first by name of 2"),
        # The last bits of an affine do not overrule the order of the runs.
        ([t1w("run-1", (3, 3, 3)), t1w("run-2", (3, 3, 2.9999999))], "run-1", "the first run of 2"),
    ],
)
def test_the_anchor_is_chosen_by_the_rule_and_not_by_the_order(anchors, chosen, reason):
    for order in (anchors, anchors[::-1]):
        result = plan(order, [target()])
        assert result.anchor.path.name == "_".join(filter(None, ["sub-01", chosen, "T1w.nii.gz"]))
        assert result.anchor_reason.startswith(reason)


@pytest.mark.parametrize(
    ("anchors", "message"),
    [
        ([], "found no T1w image"),
        ([t1w(voxel_mm=(3, 3, 9))], "thick slices, voxels of 3 x 3 x 9 mm"),
        ([t1w(shape=(24, 24, 24, 2))], "expected one 3-D volume"),
        ([t1w(shape=(24, 24, 1))], "expected one 3-D volume"),
        ([t1w("part-phase")], "no magnitude image"),
        ([t1w("desc-preproc")], "a derivative"),
        ([t1w(problem="sub-01_T1w.nii.gz is a broken link")], "broken link"),
    ],
)
def test_without_a_usable_anchor_the_session_is_refused(anchors, message):
    with pytest.raises(InputError, match=message):
        plan(anchors, [target()])


def test_a_problem_of_the_index_is_the_participants():
    with pytest.raises(InputError, match="the index broke"):
        plan_subject(SubjectInputs("01", None, (), (), (), "the index broke"), PlanSettings(), NAMING)


def test_a_4d_t1w_with_one_volume_is_an_anchor():
    assert plan([t1w(shape=(24, 24, 24, 1))], [target()]).anchor.header.shape == (24, 24, 24, 1)


def test_an_anisotropic_anchor_is_taken_with_a_warning():
    (warning,) = plan([t1w(voxel_mm=(2, 2, 4))], [target()]).warnings
    assert "expected isotropic" in warning


def test_unused_t1w_images_of_the_session_are_listed():
    result = plan([t1w(), t1w("acq-thick", (3, 3, 12))], [target()])
    ((path, reason),) = result.skipped
    assert path.name == "sub-01_acq-thick_T1w.nii.gz"
    assert "thick slices" in reason


def test_a_session_without_t1w_uses_the_first_session_that_has_one():
    anchors = [t1w("ses-c", (1, 1, 1)), t1w("ses-b", (2, 2, 2)), t1w("ses-a", (3, 3, 12))]
    result = plan(anchors, [target("ses-d")], session="d")
    assert result.anchor.entities["session"] == "b"
    assert result.label == "sub-01 ses-d"
    assert "ses-b" in result.warnings[0]
    # Its own T1w comes first, even where another session's is better.
    assert plan(anchors, [target("ses-b")], session="b").anchor.entities["session"] == "b"


@pytest.mark.parametrize(
    ("voxel_mm", "anchor_mm", "restored"),
    [
        ((3, 3, 9), 3, True),
        ((1, 1, 1.5), 1, True),  # exactly the limit
        ((1, 1, 1.49), 1, False),
        ((3, 3, 3), 2, True),  # isotropic, but coarse beside the anchor
        ((1, 1, 1), 1, False),
        ((9, 3, 3), 3, True),  # sagittal stack
        ((2, 3, 4), 3, False),  # 1.33 times the larger in-plane side
    ],
)
def test_targets_are_what_has_thick_slices(voxel_mm, anchor_mm, restored):
    result = plan([t1w(voxel_mm=(anchor_mm,) * 3)], [target(voxel_mm=voxel_mm)])
    assert bool(result.targets) == restored
    assert bool(result.skipped) != restored
    if not restored:
        assert "slice spacing" in result.skipped[0][1]


def test_labels_tell_targets_apart():
    targets = [target("acq-axial", "T2w"), target("run-2", "T2w"), target()]
    assert [t.label for t in plan([t1w()], targets).targets] == ["acq-axial_T2w", "run-2_T2w", "FLAIR"]


def test_unusable_targets_fail_alone():
    targets = [
        target(problem="sub-01_FLAIR.nii.gz is a broken link"),
        target(suffix="PDw", shape=(24, 24, 8, 5)),
        target("acq-one", "T2w", shape=(24, 24, 1)),
        target("acq-fine", "T2w"),
    ]
    result = plan([t1w()], targets)
    assert [t.label for t in result.targets] == ["acq-fine_T2w"]
    failures = dict(result.failures)
    assert "broken link" in failures["FLAIR"]
    assert "expected one 3-D volume" in failures["PDw"]
    assert "at least 2" in failures["acq-one_T2w"]


def test_phase_derivatives_and_duplicates_are_skipped():
    twin = target()
    twin = replace(twin, path=twin.path.with_name("sub-01_FLAIR.nii"))
    targets = [target(), twin, target("part-phase"), target("desc-sr")]
    result = plan([t1w()], targets)
    assert [t.label for t in result.targets] == ["FLAIR"]
    reasons = {path.name: reason for path, reason in result.skipped}
    assert "same name" in reasons["sub-01_FLAIR.nii"]
    assert "magnitude" in reasons["sub-01_part-phase_FLAIR.nii.gz"]
    assert "derivative" in reasons["sub-01_desc-sr_FLAIR.nii.gz"]


def test_forms_that_differ_a_little_are_a_warning():
    def moved_qform(file):
        qform = file.header.qform.copy()
        qform[0, 3] += 4
        return with_forms(file, qform=qform)

    result = plan([t1w()], [moved_qform(target())])
    (warning,) = result.warnings
    assert warning.startswith("FLAIR: ")
    assert "4.0 mm" in warning
    assert "the sform is used" in warning
    (warning,) = plan([moved_qform(t1w())], [target()]).warnings
    assert warning.startswith("sub-01_T1w.nii.gz: ")


def test_forms_of_opposite_handedness_are_refused():
    def mirrored(file):
        return with_forms(file, qform=file.header.qform @ np.diag([-1, 1, 1, 1]))

    ((label, message),) = plan([t1w()], [mirrored(target())]).failures
    assert label == "FLAIR"
    assert "handedness" in message
    with pytest.raises(InputError, match="handedness"):
        plan([mirrored(t1w())], [target()])


def test_warnings_of_the_geometry_name_the_target():
    (warning,) = plan([t1w()], [target(sidecar={})]).warnings
    assert warning.startswith("FLAIR: no SliceThickness")


def mask(name="sub-01_desc-brain_mask", **more):
    return image(name, folder="bids/derivatives/fmriprep/sub-01/anat", **more)


def test_a_brain_mask_that_fits_is_used():
    same_grid, finer = mask(), mask(voxel_mm=(2.0, 2.0, 2.0))
    assert plan([t1w()], [target()], [same_grid]).brain_mask is same_grid
    assert plan([t1w()], [target()], [finer]).brain_mask is finer
    assert plan([t1w("run-1")], [target()], [same_grid]).brain_mask is same_grid


@pytest.mark.parametrize(
    ("masks", "warned"),
    [
        ([mask("sub-01_run-2_desc-brain_mask")], False),  # of another T1w
        ([mask("sub-01_ses-1_desc-brain_mask")], False),
        ([mask(shape=(10, 24, 24))], True),
        ([mask(problem="broken link")], True),
    ],
)
def test_a_brain_mask_that_does_not_fit_is_not_used(masks, warned):
    result = plan([t1w("run-1")], [target()], masks)
    assert result.brain_mask is None
    assert any("not used" in text for text in result.warnings) == warned


def test_an_output_grid_that_no_machine_holds_is_refused():
    assert plan([t1w()], [target()], resolution=0.5).targets
    with pytest.raises(InputError, match="choose larger voxels"):
        plan([t1w(shape=(256, 256, 256))], [target()], resolution=0.05)


def test_the_table_names_every_image_and_its_role():
    targets = [
        target(),
        target(suffix="T2w", voxel_mm=(3, 3, 3)),
        target(suffix="PDw", problem="[link] broken"),
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(plan_table([plan([t1w()], targets, [mask()])], [("sub-02", "found no T1w image")]))
    rows = console.export_text().splitlines()

    def row(*words):
        return any(all(word in line for word in words) for line in rows)

    assert row("sub-01", "sub-01_T1w.nii.gz", "anchor", "the only usable T1w")
    assert row("sub-01_desc-brain_mask.nii.gz", "brain mask")
    assert row("sub-01_FLAIR.nii.gz", "restore", "slices every 9 mm")
    assert row("sub-01_T2w.nii.gz", "skip", "below 1.5 times")
    assert row("PDw", "FAIL", "[link] broken")
    assert row("sub-02", "FAIL", "found no T1w image")


@pytest.mark.parametrize("stated", [5, {"a": 1}, ["bids::x", 5, None], True])
def test_an_intention_of_any_kind_is_no_trouble(stated):
    m0 = image("sub-01_m0scan", (3, 3, 9), folder="bids/sub-01/perf", sidecar={"IntendedFor": stated})
    asl = image("sub-01_asl", (3, 3, 9), folder="bids/sub-01/perf", shape=(24, 24, 8, 2))
    result = plan([t1w()], [replace(asl, asl_context=("control", "label")), m0, target()])
    assert {target.label for target in result.targets} == {"asl", "m0scan", "FLAIR"}
    assert result.failures == ()


def test_every_failure_names_its_file():
    wrong = with_forms(target(), sform=affine_of((3, 3, 9), (24, 24, 8)) @ np.diag([-1.0, 1, 1, 1]))
    ((_, message),) = plan([t1w()], [wrong]).failures
    assert message.startswith(
        "sub-01_FLAIR.nii.gz: sform (code 1) and qform (code 1) have opposite handedness"
    )


def test_what_is_ignored_or_cannot_be_looked_into_is_in_the_plan():
    path = Path("bids/sub-01/anat/sub-01_T2w.nii.gz")
    inputs = SubjectInputs("01", None, (t1w(),), (target(),), (), None)
    inputs = replace(
        inputs, ignored=(path,), failures=(("perf", "folder perf cannot be read"),), warnings=("!",)
    )
    result = plan_subject(inputs, PlanSettings(), NAMING)
    assert result.skipped == ((path, ".bidsignore"),)
    assert result.failures == (("perf", "folder perf cannot be read"),)
    assert result.warnings == ("!",)
    assert [target.label for target in result.targets] == ["FLAIR"]


def test_without_an_anchor_the_ignored_and_the_unreadable_are_named():
    inputs = SubjectInputs("01", None, (), (target(),), (), None)
    inputs = replace(inputs, ignored=(t1w().path,), failures=(("anat", "folder anat cannot be read"),))
    with pytest.raises(
        InputError, match=r"sub-01_T1w.nii.gz: ignored \(.bidsignore\); folder anat cannot be"
    ):
        plan_subject(inputs, PlanSettings(), NAMING)


def test_a_preprocessed_t1w_that_is_no_volume_is_not_used():
    made = t1w("desc-preproc", shape=(24, 24, 24, 2))
    inputs = SubjectInputs("01", None, (t1w(),), (target(),), (), None, preprocessed=(made,))
    result = plan_subject(inputs, PlanSettings(), NAMING)
    assert result.anchor.path.name == "sub-01_T1w.nii.gz"
    (warning,) = result.warnings
    assert "sub-01_desc-preproc_T1w.nii.gz: shape (24, 24, 24, 2)" in warning

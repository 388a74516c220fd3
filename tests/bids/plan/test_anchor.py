"""Which image is the anchor, from headers alone."""

import pytest

from atlasgs_bids.bids.inputs.discover import SubjectInputs
from atlasgs_bids.bids.plan.session import plan_subject
from atlasgs_bids.bids.plan.settings import PlanSettings
from atlasgs_bids.errors import InputError
from tests.plans import NAMING, image, plan, t1w, target

FINE = (3.0, 3.0, 3.0)
THICK = (3.0, 3.0, 9.0)


def named(suffix, entities="", voxel_mm=FINE, **more):
    return image("_".join(filter(None, ["sub-01", entities, suffix])), voxel_mm, **more)


def session(*images, inversions=(), label=None, **settings):
    """The plan of a session of these images, as they are discovered: an anchor may be a target as well."""
    targets = [i for i in images if i.entities["suffix"] not in ("T1w", "UNIT1")]
    own = [i for i in targets if i.entities.get("session") == label]
    anchors = [i for i in images if i.entities["suffix"] in ("T1w", "UNIT1", "T2w", "FLAIR")]
    inputs = SubjectInputs("01", label, tuple(anchors), tuple(own), (), None, inversions=tuple(inversions))
    return plan_subject(inputs, PlanSettings(**settings), NAMING)


@pytest.mark.parametrize(
    ("images", "chosen", "reason"),
    [
        (
            ("T1w", "UNIT1", "T2w", "FLAIR"),
            "T1w",
            "the only usable T1w, 3 x 3 x 3 mm; before UNIT1, T2w, FLAIR",
        ),
        (("UNIT1", "T2w", "FLAIR"), "UNIT1", "no usable T1w; before T2w, FLAIR"),
        (("FLAIR", "T2w"), "T2w", "no usable T1w, UNIT1; before FLAIR"),
        (("FLAIR",), "FLAIR", "the only usable FLAIR, 3 x 3 x 3 mm; no usable T1w, UNIT1, T2w"),
    ],
)
def test_auto_takes_the_first_kind_and_says_why(images, chosen, reason):
    for order in (images, images[::-1]):
        result = session(*map(named, order), target("acq-thick", "PDw"))
        assert (result.space, result.anchor.path.name) == (chosen, f"sub-01_{chosen}.nii.gz")
        assert reason in result.anchor_reason
        # Neither the anchor nor another isotropic scan is a target.
        assert [own.label for own in result.targets] == ["acq-thick_PDw"]
        assert result.anchor.path not in {path for path, _ in result.skipped}


def test_an_isotropic_flair_comes_before_a_t1w_of_long_voxels():
    long_t1w = named("T1w", voxel_mm=(3, 3, 6))
    assert session(long_t1w, named("FLAIR")).space == "FLAIR"
    assert "more isotropic than the T1w" in session(long_t1w, named("FLAIR")).anchor_reason
    # Nothing but it: as good as there is.
    assert session(long_t1w, target("acq-thick")).space == "T1w"
    # Slices that were interpolated keep their thickness in the sidecar.
    interpolated = named("T1w", sidecar={"SliceThickness": 9.0})
    assert session(interpolated, named("FLAIR")).space == "FLAIR"
    (warning,) = session(interpolated, target("acq-thick")).warnings
    assert "(from slices of 9)" in warning


@pytest.mark.parametrize("more", [{"voxel_mm": THICK}, {"voxel_mm": (3, 3, 6)}, {"shape": (24, 24, 12)}])
def test_auto_takes_no_thick_or_slab_flair(more):
    with pytest.raises(InputError, match=r"found no T1w image; expected a T1w .* \(or an isotropic UNIT1"):
        session(named("FLAIR", **more))


def test_a_t1w_that_cannot_be_read_is_not_passed_over():
    broken = named("T1w", problem="sub-01_T1w.nii.gz is a broken link; fetch its content (`datalad get`)")
    with pytest.raises(InputError, match=r"broken link; fetch its content .* or --anchor"):
        session(broken, named("FLAIR"))
    assert session(broken, named("FLAIR"), anchor="FLAIR").space == "FLAIR"
    assert session(broken, named("T1w", "run-2"), named("FLAIR")).space == "T1w"
    # Of a T2w nobody knows whether it is one: it fails as a target.
    result = session(named("T2w", problem="a broken link"), named("FLAIR"))
    assert (result.space, [label for label, _ in result.failures]) == ("FLAIR", ["T2w"])


def test_the_kind_that_is_asked_for_is_taken_or_missed():
    result = session(named("T1w"), named("T2w"), named("FLAIR"), anchor="FLAIR")
    assert (result.space, result.anchor_reason) == ("FLAIR", "the only usable FLAIR, 3 x 3 x 3 mm (--anchor)")
    assert {path.name for path, _ in result.skipped} == {"sub-01_T1w.nii.gz", "sub-01_T2w.nii.gz"}
    with pytest.raises(InputError, match="found no T2w image; expected a T2w"):
        session(named("T1w"), anchor="T2w")


def test_a_thick_scan_of_the_anchors_kind_and_a_thick_t1w_are_restored():
    thick = [named("T1w", voxel_mm=THICK), named("FLAIR", "acq-thick", THICK)]
    result = session(named("FLAIR"), *thick)
    assert {own.label for own in result.targets} == {"T1w", "acq-thick_FLAIR"}
    assert result.skipped == ()
    # Where a T1w is the anchor another T1w is none of the app's.
    assert session(named("T1w", "acq-a"), named("T1w", "acq-b", THICK)).targets == ()


def test_one_kind_for_all_sessions_comes_before_the_own_session():
    result = session(named("T1w", "ses-a"), named("FLAIR", "ses-b"), named("FLAIR", "ses-c"), label="b")
    assert result.anchor.path.name == "sub-01_ses-a_T1w.nii.gz"
    assert "no usable T1w in this session" in result.warnings[0]
    own = session(
        named("T1w", "ses-a"), named("FLAIR", "ses-b"), named("FLAIR", "ses-c"), label="b", anchor="FLAIR"
    )
    assert own.anchor.path.name == "sub-01_ses-b_FLAIR.nii.gz"
    assert own.other_anchor.path.name == "sub-01_ses-c_FLAIR.nii.gz"
    other = session(
        named("FLAIR", "ses-a"), named("FLAIR", "ses-b"), label="b", anchor="FLAIR", anchor_session="a"
    )
    assert other.anchor.path.name == "sub-01_ses-a_FLAIR.nii.gz"
    assert [path.name for path, _ in other.skipped] == ["sub-01_ses-b_FLAIR.nii.gz"]


def test_the_second_inversion_of_the_same_unit1_shows_its_head():
    unit1 = named("UNIT1", "acq-a_run-1")
    names = ["acq-a_run-1_inv-1", "acq-a_run-2_inv-2", "acq-a_run-1_inv-2_part-phase"]
    wrong = [named("MP2RAGE", entities) for entities in names]
    assert session(unit1, inversions=wrong).magnitude is None
    for entities in ("acq-a_run-1_inv-2", "acq-a_run-1_inv-2_part-mag", "acq-a_run-1_inv-02"):
        right = named("MP2RAGE", entities)
        assert session(unit1, inversions=[*wrong, right]).magnitude == right
        assert session(named("T1w"), unit1, inversions=[right]).magnitude is None
    elsewhere = named("MP2RAGE", "acq-a_run-1_inv-2", (2, 2, 2))
    result = session(unit1, inversions=[elsewhere])
    assert result.magnitude is None
    assert "not on the grid of the UNIT1; it is not used" in result.warnings[-1]


def test_a_brain_mask_in_the_space_of_the_t1w_is_none_of_a_flairs():
    mask = image("sub-01_desc-brain_mask", folder="derivatives/fmriprep/sub-01/anat")
    assert plan([t1w()], [target()], [mask]).brain_mask == mask
    assert plan([named("FLAIR")], [target("acq-thick")], [mask]).brain_mask is None

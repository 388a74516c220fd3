"""Implanted lesions, and scores that see what the slices do not: of the truth, and of wrong images of it."""

import math

import numpy as np
import pytest

from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.study.results.lesion_cells import cells_of, lesion_table
from atlasgs_bids.study.results.lesion_scores import NullSpace, score_lesions
from atlasgs_bids.study.simulation.degrade import Degradation
from atlasgs_bids.study.simulation.lesions import KINDS, SHOWN_NOWHERE
from tests.lesions import (
    AXIS,
    DEGRADATION,
    FACTOR,
    NULL_SPACE,
    SHAPE,
    implanted,
    missed,
    scored,
    with_null_parts,
)


def _cubic(image: np.ndarray) -> np.ndarray:
    slices, affine = DEGRADATION.slices(image, np.eye(4))
    return resample(Volume(slices, affine), Volume(image, np.eye(4)).grid, np.eye(4), order=3)


@pytest.fixture(scope="module")
def head():
    return implanted()


@pytest.fixture(scope="module")
def cubic(head):
    return scored(head, _cubic(head.target), _cubic(head.healthy.target))


@pytest.mark.parametrize("kind", ["paper", "box", "gaussian"])
@pytest.mark.parametrize("axis", [0, 2])
def test_the_null_space_is_what_a_pseudoinverse_leaves(kind: str, axis: int) -> None:
    rng = np.random.default_rng(0)
    shape = [4, 5, 6]
    shape[axis] = 31
    image = rng.standard_normal(shape).astype(np.float32)
    lines = Degradation(kind, 0, 4)
    weights = lines.slices(np.eye(31)[:, None, :], np.eye(4))[0][:, 0].astype(np.float64)
    rest = np.eye(31) - np.linalg.pinv(weights) @ weights
    expected = np.moveaxis(np.tensordot(rest, image, axes=([1], [axis])), 0, axis)
    null_space = NullSpace(Degradation(kind, axis, 4), 31)
    found = null_space.part(image)
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(Degradation(kind, axis, 4).slices(found, np.eye(4))[0]).max() < 1e-4
    slices = Degradation(kind, axis, 4).slices(image, np.eye(4))[0]
    assert np.abs(null_space.slices(image) - slices).max() < 1e-5


def test_a_lesion_is_where_and_what_its_kind_says(head) -> None:
    assert {own.kind for own in head.lesions} == set(KINDS)
    in_anchor, in_target = head.anchor - head.healthy.anchor, head.target - head.healthy.target
    for lesion, own in zip(head.lesions, head.own, strict=True):
        slices = (lesion.centre[AXIS] + 0.5) / FACTOR - 0.5
        assert slices - math.floor(slices) == pytest.approx(lesion.phase)
        kind, box, ball = KINDS[lesion.kind], lesion.box(SHAPE), lesion.ball(SHAPE)
        assert not kind.in_target or np.abs(in_target[box] - own)[ball].max() < 0.02 * np.abs(own).max()
        assert (np.abs(in_target[box])[ball].max() > 100) == kind.in_target
        in_both = {"opposite", "rim", "cavity", "periventricular"}
        assert (np.abs(in_anchor[box])[ball].max() > 100) == (lesion.kind in {"decoy", *in_both})
        if lesion.kind not in {"periventricular", "cavity", "rim"}:
            n_voxels = (np.abs(own) > 0.5 * np.abs(own).max()).sum()
            assert 2 * (3 * n_voxels / (4 * math.pi)) ** (1 / 3) == pytest.approx(
                lesion.diameter_mm, rel=0.12
            )


def test_a_periventricular_lesion_spares_the_ventricle(head) -> None:
    (first, *_) = (i for i, own in enumerate(head.lesions) if own.kind == "periventricular")
    lesion, own = head.lesions[first], np.abs(head.own[first])
    inside = lesion.ball(SHAPE) & head.healthy.fluid[lesion.box(SHAPE)]
    beside = lesion.ball(SHAPE) & ~head.healthy.fluid[lesion.box(SHAPE)]
    assert inside.any()
    assert own[inside].mean() < 0.3 * own[beside].mean()


def test_the_truth_has_no_error(head, cubic) -> None:
    for score in scored(head, head.target, head.healthy.target):
        shown = KINDS[score.lesion.kind].in_target
        assert score.error < 1e-3
        assert score.own_error < 0.02
        assert score.kept == pytest.approx(float(shown), abs=0.02)
        assert score.peak == pytest.approx(float(shown), abs=0.15)  # others are near
        assert score.volume == pytest.approx(float(shown), abs=0.01)
        assert math.isnan(score.end_error_mm) if not shown else score.end_error_mm < 0.01
    assert missed(head, head.target, head.healthy.target, cubic) == {}


def test_an_end_that_is_moved_is_measured(head) -> None:
    moved = head.healthy.target + np.roll(head.target - head.healthy.target, 1, axis=AXIS)
    ends = [s.end_error_mm for s in scored(head, moved, head.healthy.target) if s.lesion.kind == "target"]
    assert ends == pytest.approx([1.0] * len(ends), abs=0.2)


def test_what_is_flagged_is_counted_in_the_ball(head) -> None:
    n_slices = SHAPE[AXIS] // FACTOR
    everywhere = np.ones((*SHAPE[:2], n_slices), dtype=bool)
    for flags, share in ((everywhere, 1.0), (~everywhere, 0.0)):
        scores = score_lesions(head, head.target, head.healthy.target, NULL_SPACE, flags)
        assert {score.flagged for score in scores} == {share}


WRONG = {
    "lesions erased": lambda own: 0.0 if own.kind in SHOWN_NOWHERE else -1.0,
    "lesions doubled": lambda own: 0.0 if own.kind in SHOWN_NOWHERE else 1.0,
    "decoys drawn in": lambda own: 1.0 if own.kind == "decoy" else 0.0,
    "fakes where nothing is": lambda own: 1.0 if own.kind == "control" else 0.0,
}
"""Images that explain the slices as the truth does: how much of each lesion's null space is added to it."""


@pytest.mark.parametrize("name", WRONG)
def test_an_image_that_is_wrong_between_the_slices_fails(name: str, head, cubic) -> None:
    wrong = with_null_parts(head, head.target, WRONG[name])
    slices, _ = DEGRADATION.slices(wrong - head.target, np.eye(4))
    assert np.abs(slices).max() < 1e-3 * head.target.max()  # no slice can tell
    found = missed(head, wrong, head.healthy.target, cubic)
    bars = {"own_error", "kept"} if name.startswith("lesions") else {"drawn", "kept"}
    assert bars <= found.keys()
    kinds = {said.split(" of ")[0].split(":")[0] for bar in bars for said in found[bar]}
    assert kinds == {"decoy"} if "decoys" in name else {"control"} if "fakes" in name else len(kinds) > 4


def test_a_fake_that_is_always_drawn_is_seen_in_the_leak(head, cubic) -> None:
    """Also where the head without lesions has it: no difference of two images shows that."""
    always = [
        with_null_parts(head, image, WRONG["decoys drawn in"]) for image in (head.target, head.healthy.target)
    ]
    decoys = [own for own in scored(head, *always) if own.lesion.kind == "decoy"]
    assert [own.leak for own in decoys] == pytest.approx([1.0] * len(decoys), abs=0.1)
    assert [own.kept for own in decoys] == pytest.approx([0.0] * len(decoys), abs=0.1)
    assert list(missed(head, *always, cubic)) == ["leak"]


def test_a_table_has_every_kind_and_size(head, cubic) -> None:
    cells = cells_of({"cubic": cubic})
    assert sum(cell.n for cell in cells) == len(head.lesions)
    text = lesion_table(cells)
    for kind in KINDS:
        assert f"| {kind} |" in text

"""What becomes of lesions, on phantoms at ×5 with 1 % noise, through the door of all that ships.

Scored in the null space (study/results/lesion_scores.py): what the slices fix anyway no image gets wrong.
Each bar is failed by an image that is wrong in its way: made from the result here, from the truth in
tests/study/test_lesion_scores.py. Positions and profile are told; benchmarks/lesions.py has them found.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.priors.learned.prepare import prepare
from atlasgs_bids.core.priors.learned.prior import Stack, _restore_along, predict, train_prior
from atlasgs_bids.core.settings import LEARNED_CPU, CoreSettings
from atlasgs_bids.imaging.interpolated import mean_interpolated
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.result import TargetResult
from atlasgs_bids.restoration.scaffold import SessionScaffold, scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.results.lesion_scores import LesionScore, score_lesions
from atlasgs_bids.study.simulation.lesions import KINDS, SHOWN_NOWHERE, Lesion
from atlasgs_bids.study.simulation.phantom import (
    Structure,
    leaked_contrast,
    make_phantom,
    own_part,
    seen_beyond,
)
from atlasgs_bids.study.simulation.stack import simulated_stack
from tests.helpers import of_cells
from tests.lesions import DEGRADATION, NULL_SPACE, implanted, missed, scored, with_null_parts

SHAPE, FACTOR = (48, 48, 40), 5
SLICE_AXIS = 2
DECOY = Structure((33.2, 32.7, 21.8), 5.0)
SMALL = dataclasses.replace(
    LEARNED_CPU, width=16, n_blocks=2, n_first_steps=60, n_cycles=2, n_cycle_steps=150, batch_voxels=6000
)
PRIORS = ("graph", "learned")


@functools.cache
def _images(with_lesions: bool) -> tuple[np.ndarray, np.ndarray]:
    """Anchor and target."""
    head = implanted()
    return (head.anchor, head.target) if with_lesions else (head.healthy.anchor, head.healthy.target)


def _made_scaffold(anchor: np.ndarray) -> SessionScaffold:
    t1w, brain = (seen_beyond(image) for image in (anchor, np.ones(anchor.shape, np.float32)))
    return scaffold_of(anchor_of(t1w, brain), RestorationSettings(device="cpu"), Progress.quiet())


@functools.cache
def _scaffold(with_lesions: bool) -> SessionScaffold:
    return _made_scaffold(_images(with_lesions)[0])


def _restore(target: np.ndarray, scaffold: SessionScaffold, prior: str) -> TargetResult:
    """Every step from images to the image; the noise is always the same."""
    rng = np.random.default_rng(7)
    n_slices = target.shape[SLICE_AXIS] // FACTOR
    noise = 0.01 * target.max() * rng.standard_normal((*target.shape[:2], n_slices))
    stack = simulated_stack(Volume(target, np.eye(4)), DEGRADATION, noise.astype(np.float32))
    settings = RestorationSettings(
        device="cpu",
        prior=prior,
        estimate_uncertainty=False,  # the image does not depend on it
        core=CoreSettings(learned=SMALL),
    )
    return stack.restored(scaffold, settings)


@functools.cache
def _restored(with_lesions: bool, prior: str) -> TargetResult:
    return _restore(_images(with_lesions)[1], _scaffold(with_lesions), prior)


@functools.cache
def _image(with_lesions: bool, prior: str) -> np.ndarray:
    """Of the prior, or cubic interpolation of the same slices."""
    if prior != "cubic":
        return own_part(_restored(with_lesions, prior).sr)
    restored = _restored(with_lesions, "graph")
    return own_part(mean_interpolated([own.interpolable for own in restored.stacks], restored.grid))


@functools.cache
def _scores(prior: str) -> list[LesionScore]:
    return scored(implanted(), _image(True, prior), _image(False, prior))


def _missed(image: np.ndarray, without: np.ndarray) -> dict[str, list[str]]:
    return missed(implanted(), image, without, _scores("cubic"))


BARS = ("error", "own_error", "volume_bias", "drawn", "kept", "leak")
KNOWN = {
    "graph": {
        "error": "target of 4 mm: 0.93, cubic 0.88; target of 8 mm: 0.75, 0.74; dark of 12 mm: 0.74, 0.70",
        "own_error": "target of 4 mm: 0.93, cubic 0.91; target of 6 mm: 0.88, 0.83; target of 8 mm: 0.73, "
        "0.72; rim of 8 mm: 0.59, 0.47; dark of 8 mm: 0.80, 0.74; dark of 12 mm: 0.73, 0.72; "
        "microbleed of 4 mm: 0.93, 0.92",
    },
    "learned": {
        "error": "rim of 8 mm: 0.77, cubic 0.60",
        "own_error": "rim of 8 mm: 0.72, cubic 0.47",
        "drawn": "decoy: 0.49 on average, expected 0.2; of 4 and 8 mm: 0.76 and 0.53, expected 0.4; by "
        "a network of 16 channels and 360 steps",
        "kept": "decoy: 0.24, expected 0.2",
    },
}
"""Where the program misses a bar, and by how much (decision 26)."""
UNSETTLED = {
    "error": ["target of 4 mm", "opposite of 6 mm", "opposite of 12 mm", "rim of 12 mm", "dark of 12 mm"],
    "own_error": ["target of 6 mm", "rim of 12 mm", "dark of 12 mm", "microbleed of 4 mm"],
    "volume_bias": ["dark of 12 mm"],
}
"""Of learned, asserted neither way: trained on two threads instead of one, a network as small as this moves a
cell by up to 0.15, these from one side of cubic's to the other or close to it."""


def _known(said: str, prior: str, bar: str) -> bool:
    """Whether it is about a cell that is known to miss the bar; a decoy is, of any size."""
    cell = "decoy" if said.startswith("decoy") else said.partition(":")[0]
    return cell in KNOWN[prior].get(bar, "")


def _found(prior: str, bar: str) -> list[str]:
    unsettled = UNSETTLED.get(bar, []) if prior == "learned" else []
    found = _missed(_image(True, prior), _image(False, prior)).get(bar, [])
    return [said for said in found if said.partition(":")[0] not in unsettled]


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("bar", BARS)
def test_what_ships_meets_the_bar(bar: str, prior: str) -> None:
    assert [said for said in _found(prior, bar) if not _known(said, prior, bar)] == []


@pytest.mark.parametrize(
    ("prior", "bar"),
    [
        pytest.param(prior, bar, marks=pytest.mark.xfail(raises=AssertionError, reason=said, strict=True))
        for prior, bars in KNOWN.items()
        for bar, said in bars.items()
    ],
)
def test_what_is_known_to_miss_the_bar_meets_it(prior: str, bar: str) -> None:
    assert [said for said in _found(prior, bar) if _known(said, prior, bar)] == []


def _with_all_lesions(prior: str, times: float) -> np.ndarray:
    """The result, with so much of each lesion's null space in it."""
    kept = {score.lesion: score.kept for score in _scores(prior)}
    return _wrong(prior, lambda own: 0.0 if own.kind in SHOWN_NOWHERE else times - kept[own])


def _wrong(prior: str, share: Callable[[Lesion], float]) -> np.ndarray:
    return with_null_parts(implanted(), _image(True, prior), share)


def _with_fakes(prior: str) -> np.ndarray:
    """Bright balls where there is nothing, such as no slice has seen either."""
    head, image = implanted(), _image(True, prior).copy()
    for lesion, own in zip(head.lesions, head.own, strict=True):
        if lesion.kind == "control":
            image[lesion.box(image.shape)] += own
    return image


LARGE = {"target", "opposite", "rim", "dark", "periventricular"}
"""Kinds of which some are larger than a slice: of smaller ones cubic interpolation has nothing either."""
WRONG = {
    "erased": (lambda prior: _with_all_lesions(prior, 0.0), LARGE),
    "doubled": (lambda prior: _with_all_lesions(prior, 2.0), {*LARGE, "cavity", "microbleed"}),
    "drawn in": (lambda prior: _wrong(prior, lambda own: float(own.kind == "decoy")), {"decoy"}),
    "with fakes": (_with_fakes, {"control"}),
}
"""Results made wrong, and the kinds that have to say so."""


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", WRONG)
def test_a_result_that_is_made_wrong_fails(name: str, prior: str) -> None:
    make, kinds = WRONG[name]
    found = _missed(make(prior), _image(False, prior))
    bars = ["kept", "own_error"] if name in {"erased", "doubled"} else ["kept", "drawn"]
    for bar in bars:
        said = " ".join(found.get(bar, []))
        assert [kind for kind in sorted(kinds) if kind not in said] == []


def test_a_lesion_is_no_better_for_what_the_slices_fix() -> None:
    """The spline that knows no T1w has what the slices fix, and does not pass for a restoration by that."""
    head = implanted()
    images = [
        head.target - NULL_SPACE.part(head.target),
        head.healthy.target - NULL_SPACE.part(head.healthy.target),
    ]
    kept = {score.lesion.kind: score.kept for score in scored(head, *images)}
    assert max(abs(value) for value in kept.values()) < 0.02
    assert {"own_error", "kept"} <= _missed(*images).keys()


def _disagrees(with_lesions: bool, prior: str) -> float:
    return _restored(with_lesions, prior).prior_disagrees


def test_disagreement_is_seen_where_there_is_some() -> None:
    assert _disagrees(False, "learned") < 1.5e-3
    assert _disagrees(True, "learned") > 2e-3
    assert _anchor_gain(_restored(False, "learned")) > 0.5  # the app warns below 0.2
    graph = _restored(False, "graph")
    assert graph.appearance.follows_anchor
    assert graph.prior_disagrees < 5e-4


def test_the_learned_prior_disagrees_at_decoys_and_not_at_lesions() -> None:
    """Two of four decoys (decision 26)."""
    (stack,) = _restored(True, "learned").stacks
    images = _image(True, "learned"), _image(False, "learned")
    scores = score_lesions(implanted(), *images, NULL_SPACE, stack.disagrees)
    flagged = {kind: [own.flagged for own in scores if own.lesion.kind == kind] for kind in KINDS}
    assert max(flagged["decoy"]) > 0.2
    for kind in ("target", "opposite", "dark", "control"):
        assert max(flagged[kind]) < 0.05


def _anchor_gain(restored: TargetResult) -> float:
    (stack,) = restored.stacks
    assert stack.anchor_gain is not None
    return stack.anchor_gain


@pytest.mark.parametrize(
    ("contrast", "prior"),
    [
        ("FLAIR", "graph"),
        ("T2w", "graph"),
        pytest.param("FLAIR", "learned", marks=pytest.mark.slow),
        pytest.param("T2w", "learned", marks=pytest.mark.slow),
    ],
)
def test_an_anchor_of_noise_does_no_harm(contrast: str, prior: str) -> None:
    seed = {"FLAIR": 0, "T2w": 1}[contrast]
    truth = make_phantom(seed, contrast, SHAPE).truth
    noise = np.random.default_rng(seed).uniform(100, 900, SHAPE).astype(np.float32)
    restored = _restore(truth, _made_scaffold(noise), prior)
    cubic = mean_interpolated([stack.interpolable for stack in restored.stacks], restored.grid)
    everywhere = np.ones(SHAPE, dtype=bool)
    result_db, cubic_db = (psnr_db(truth, own_part(image), everywhere) for image in (restored.sr, cubic))
    assert result_db > cubic_db - 0.3
    if prior == "graph":
        assert not restored.appearance.follows_anchor
    else:
        assert _anchor_gain(restored) < 0.1


def _stack(truth: np.ndarray, anchor: np.ndarray) -> Stack:
    box = np.array([-0.5, 0.5]) * FACTOR, np.array([0.0, 1.0])
    shape = (SHAPE[0], SHAPE[1], SHAPE[2] // FACTOR)
    sampling = slice_sampling(shape, (1.0, 1.0, float(FACTOR)), SLICE_AXIS, box, 1.0)
    acquisition = AcquisitionOperator(sampling, "cpu")
    slices = acquisition.forward(torch.from_numpy(truth))
    return Stack(of_cells(slices, SLICE_AXIS, acquisition), torch.from_numpy(anchor))


def test_a_network_that_never_saw_them_apart_is_held_back() -> None:
    """Trained where the anchor explains all of the target, asked where the anchor shows something more."""
    phantom = make_phantom(0, "T2w", SHAPE, shared_texture=1.0, decoy=DECOY)
    alike, apart = (_stack(phantom.truth, each) for each in (phantom.plain_anchor, phantom.anchor))
    prior = train_prior([alike], SMALL, 0)
    told, asked = predict(prior, alike), predict(prior, apart)
    assert told.evidence is not None
    assert asked.evidence is not None
    assert prior.along_slices is not None
    data = prepare(apart, 0.0, torch.Generator())
    network = prior.along_slices.network
    unweighed, _ = _restore_along(network, data, data.interpolated, SLICE_AXIS, data.plane_axes)
    leak, weighed_leak = (
        leaked_contrast(phantom, image.numpy())
        for image in (unweighed * data.scale + data.offset, asked.image)
    )
    assert abs(weighed_leak) < 0.5 * abs(leak)
    assert float(told.evidence.contradicted.mean()) < 5e-4
    assert float(asked.evidence.contradicted.mean()) > 2e-3

"""Safety of lesions: what one of the images shows alone, through the whole solve, on phantoms at ×5.

A lesion in the target alone is to keep 90 % of its contrast and its volume within 10 %; what the anchor alone
shows may leak 5 % of its contrast; an anchor of noise may cost 0.3 dB against cubic interpolation; and where
slices and prior disagree, a number says so.
"""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.priors.learned.prepare import prepare
from atlasgs_bids.core.priors.learned.prior import Stack, _restore_along, predict, train_prior
from atlasgs_bids.core.settings import LEARNED_CPU, CoreSettings
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.result import TargetResult, mean_interpolated
from atlasgs_bids.restoration.scaffold import SessionScaffold, scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.simulation.degrade import Degradation
from atlasgs_bids.study.simulation.phantom import (
    Phantom,
    Structure,
    kept_contrast,
    kept_volume,
    leaked_contrast,
    make_phantom,
    own_part,
    seen_beyond,
)
from atlasgs_bids.study.simulation.stack import simulated_stack
from tests.helpers import of_cells

SHAPE, FACTOR = (48, 48, 40), 5
SLICE_AXIS = 2
LESION, DECOY = Structure((14.3, 15.6, 18.4), 6.0), Structure((33.2, 32.7, 21.8), 5.0)
"""12 and 10 voxels across, neither on the grid of the voxels nor on that of the slices."""
SMALL = dataclasses.replace(
    LEARNED_CPU, width=16, n_blocks=2, n_first_steps=60, n_cycles=2, n_cycle_steps=150, batch_voxels=6000
)
SLOW = pytest.mark.slow


@functools.cache
def _phantom(contrast: str, kind: str) -> Phantom:
    seed = {"FLAIR": 0, "T2w": 1}[contrast]
    if kind == "both":
        return make_phantom(seed, contrast, SHAPE, lesion=LESION, decoy=DECOY)
    phantom = make_phantom(seed, contrast, SHAPE)
    if kind == "noise":
        noise = np.random.default_rng(seed).uniform(100, 900, SHAPE).astype(np.float32)
        return dataclasses.replace(phantom, anchor=noise)
    assert kind == "ordinary"
    return phantom


@functools.cache
def _scaffold(contrast: str, kind: str) -> SessionScaffold:
    t1w, brain = (
        seen_beyond(image) for image in (_phantom(contrast, kind).anchor, np.ones(SHAPE, np.float32))
    )
    return scaffold_of(anchor_of(t1w, brain), RestorationSettings(device="cpu"), Progress.quiet())


@functools.cache
def _restored(contrast: str, kind: str, prior: str) -> TargetResult:
    """What ships: every step from images to the image, positions from the headers."""
    phantom = _phantom(contrast, kind)
    rng = np.random.default_rng(7)
    noise = 0.01 * phantom.truth.max() * rng.standard_normal((*SHAPE[:2], SHAPE[2] // FACTOR))
    stack = simulated_stack(
        Volume(phantom.truth, np.eye(4)), Degradation("paper", SLICE_AXIS, FACTOR), noise.astype(np.float32)
    )
    settings = RestorationSettings(
        device="cpu",
        prior=prior,
        estimate_uncertainty=False,  # the image does not depend on it
        core=CoreSettings(learned=SMALL),
    )
    return stack.restored(_scaffold(contrast, kind), settings)


def _image(restored: TargetResult) -> np.ndarray:
    return own_part(restored.sr)


BOTH = [
    ("FLAIR", "graph"),
    ("T2w", "graph"),
    ("FLAIR", "learned"),
    pytest.param("T2w", "learned", marks=SLOW),
]


@pytest.mark.parametrize(("contrast", "prior"), BOTH)
def test_a_lesion_that_only_the_target_shows_keeps_contrast_and_volume(contrast: str, prior: str) -> None:
    phantom, restored = _phantom(contrast, "both"), _restored(contrast, "both", prior)
    assert kept_contrast(phantom, _image(restored)) >= 0.9
    assert 0.9 <= kept_volume(phantom, _image(restored)) <= 1.1


@pytest.mark.parametrize(("contrast", "prior"), BOTH)
def test_a_structure_that_only_the_anchor_shows_stays_there(contrast: str, prior: str) -> None:
    phantom, restored = _phantom(contrast, "both"), _restored(contrast, "both", prior)
    assert abs(leaked_contrast(phantom, _image(restored))) <= 0.05


@pytest.mark.parametrize(
    ("contrast", "prior"),
    [
        ("FLAIR", "graph"),
        ("T2w", "graph"),
        pytest.param("FLAIR", "learned", marks=SLOW),
        pytest.param("T2w", "learned", marks=SLOW),
    ],
)
def test_an_anchor_of_noise_does_no_harm(contrast: str, prior: str) -> None:
    phantom, restored = _phantom(contrast, "noise"), _restored(contrast, "noise", prior)
    cubic = mean_interpolated([stack.interpolable for stack in restored.stacks], restored.grid)
    everywhere = np.ones(SHAPE, dtype=bool)
    result_db, cubic_db = (
        psnr_db(phantom.truth, image, everywhere) for image in (_image(restored), own_part(cubic))
    )
    assert result_db > cubic_db - 0.3
    if prior == "graph":
        assert not restored.appearance.follows_anchor
    else:
        assert _anchor_gain(restored) < 0.1


def _anchor_gain(restored: TargetResult) -> float:
    (stack,) = restored.stacks
    assert stack.anchor_gain is not None
    return stack.anchor_gain


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


def test_disagreement_is_seen_where_there_is_some() -> None:
    ordinary = _restored("FLAIR", "ordinary", "learned")
    assert ordinary.prior_disagrees < 1.5e-3
    assert _restored("FLAIR", "both", "learned").prior_disagrees > 1e-2
    assert _anchor_gain(ordinary) > 0.5  # the app warns below 0.2
    graph = _restored("FLAIR", "ordinary", "graph")
    assert graph.appearance.follows_anchor
    assert graph.prior_disagrees < 5e-4

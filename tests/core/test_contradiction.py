"""What slices contradict, on phantoms with one lesion, through the real acquisition."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from scipy import ndimage

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.contradiction import contradiction_of, mapped_anchor, without_small
from atlasgs_bids.core.local_error import HeldOut
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.study.simulation.phantom import LESION, TARGETS, Structure, make_phantom
from tests.helpers import of_cells

SHAPE, FACTOR = (64, 64, 60), 5
PLACE = Structure((32.0, 32.0, 32.0), 5.0)
WHITE_VOX = 10.0


@functools.cache
def _phantom(decoy: bool, contrast: str = "T2w"):
    """White matter around the place of the lesion; with a decoy there, or without."""
    return make_phantom(
        1, contrast, SHAPE, decoy=PLACE if decoy else None,
        plain=[Structure(PLACE.centre, PLACE.radius + WHITE_VOX)],
    )  # fmt: skip


def _observed(truth: np.ndarray, noise: float = 5.0) -> LatticeObservation:
    box = np.array([-0.5, 0.5]) * FACTOR, np.array([0.0, 1.0])
    native = (*SHAPE[:2], SHAPE[2] // FACTOR)
    acquisition = AcquisitionOperator(slice_sampling(native, (1.0, 1.0, float(FACTOR)), 2, box, 1.0), "cpu")
    slices = acquisition.forward(torch.from_numpy(truth))
    slices = slices + noise * torch.randn(slices.shape, generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(of_cells(slices, 2, acquisition), noise_sd=noise)


def _held_out(observed: LatticeObservation, errs_mm: float = 0.0) -> HeldOut:
    """Slices that others foretell but for their noise; ``errs_mm``: not in a ball of so much more radius."""
    error = observed.noise_sd * torch.randn(observed.slices.shape, generator=torch.Generator().manual_seed(1))
    if errs_mm:
        ball = torch.from_numpy(Structure(PLACE.centre, errs_mm).fraction(SHAPE))
        error = error - 300 * observed.acquisition.forward(ball)
    seen = torch.ones_like(observed.slices, dtype=torch.bool)
    sd = torch.full_like(error, observed.noise_sd)
    return HeldOut(error, sd, torch.full_like(error, 100.0), seen, 2)


def _found(truth, image, anchor, errs_mm: float = 0.0) -> torch.Tensor:
    observed = _observed(truth)
    image, anchor = (torch.from_numpy(np.ascontiguousarray(own)) for own in (image, anchor))
    return contradiction_of(observed, image, anchor, _held_out(observed, errs_mm))


def _here(found: torch.Tensor) -> torch.Tensor:
    """In the columns of the lesion, and elsewhere."""
    ball = np.zeros(SHAPE, bool)
    ball[PLACE.shell(SHAPE, 0, PLACE.radius + 1)] = True
    seen = torch.from_numpy(ball.reshape(*SHAPE[:2], -1, FACTOR).any(3))
    return seen & (found > 0)


def _lesion(contrast: str = "T2w") -> np.ndarray:
    return (LESION[contrast] - TARGETS[contrast][2]) * PLACE.fraction(SHAPE)


@pytest.mark.parametrize("contrast", ["FLAIR", "T2w"])
def test_nothing_is_flagged_where_nothing_is_wrong(contrast: str) -> None:
    phantom = _phantom(False, contrast)
    found = _found(phantom.truth, phantom.truth, phantom.anchor)
    assert int((found > 0).sum()) == 0


@pytest.mark.parametrize("contrast", ["FLAIR", "T2w"])
def test_a_decoy_is_flagged_where_it_is(contrast: str) -> None:
    phantom = _phantom(True, contrast)
    found = _found(phantom.truth, phantom.truth, phantom.anchor)
    assert int(_here(found).sum()) > 20
    # It is the decoy's border that is missing, so the flags reach a window's width beyond.
    away = ndimage.binary_dilation(_here(found).numpy(), iterations=5)
    assert int((found.numpy()[~away] > 0).sum()) == 0
    # Its amount is the contrast that the target would have there, in its own intensities.
    assert 0.1 < float(found.max()) / abs(phantom.decoy_contrast) < 1.0


def test_a_lesion_that_both_have_is_no_contradiction() -> None:
    phantom = _phantom(True)
    truth = phantom.truth + _lesion()
    found = _found(truth, truth, phantom.anchor)
    assert int(_here(found).sum()) == 0


def test_a_lesion_that_is_erased_from_the_image_is_flagged() -> None:
    phantom = _phantom(False)
    truth = phantom.truth + _lesion()
    erased = _found(truth, phantom.truth, phantom.anchor)
    assert int(_here(erased).sum()) > 50
    assert float(erased.max()) == pytest.approx(float(_lesion().max()), rel=0.3)
    drawn = _found(phantom.truth, truth, phantom.anchor)
    assert int(_here(drawn).sum()) > 50


def test_without_noise_a_residual_of_nothing_is_no_contradiction() -> None:
    phantom = _phantom(False)
    observed = _observed(phantom.truth, noise=0.0)
    held_out = _held_out(_observed(phantom.truth))
    for share, is_flagged in ((0.003, False), (0.2, True)):
        image = torch.from_numpy((phantom.truth + share * _lesion()).astype(np.float32))
        found = contradiction_of(observed, image, torch.from_numpy(phantom.anchor), held_out)
        assert bool((found > 0).any()) == is_flagged


def test_what_neither_slices_nor_anchor_foretell_is_flagged() -> None:
    phantom = _phantom(False)
    truth = phantom.truth + _lesion()
    both = _found(truth, truth, phantom.anchor, errs_mm=PLACE.radius)
    assert int(_here(both).sum()) > 20
    # The anchor foretells it, or the other slices do.
    assert int((_found(phantom.truth, phantom.truth, phantom.anchor, errs_mm=PLACE.radius) > 0).sum()) == 0
    assert int((_found(truth, truth, phantom.anchor) > 0).sum()) == 0


def test_an_anchor_is_mapped_by_its_intensities() -> None:
    phantom = _phantom(False, "FLAIR")
    observed = _observed(phantom.truth)
    seen = torch.ones_like(observed.slices, dtype=torch.bool)
    mapped = mapped_anchor(observed, torch.from_numpy(phantom.anchor), seen)
    left = float((observed.slices - mapped).square().mean() / observed.slices.var())
    assert left < 0.15  # grey matter is brightest in FLAIR, between the two in a T1w: no linear map has less
    line = np.polyfit(
        observed.acquisition.forward(torch.from_numpy(phantom.anchor)).flatten().numpy(),
        observed.slices.flatten().numpy(), 1,
    )  # fmt: skip
    linear = line[0] * observed.acquisition.forward(torch.from_numpy(phantom.anchor)) + line[1]
    assert float((observed.slices - linear).square().mean() / observed.slices.var()) > 3 * left


def test_small_clusters_are_left_out() -> None:
    flagged = torch.zeros(10, 10, 10, dtype=torch.bool)
    flagged[1, 1, 1] = True
    flagged[5:7, 5, 5] = flagged[7, 6, 6] = True  # one cluster over a corner
    kept = without_small(flagged, (2.0, 2.0, 2.0))
    assert kept.nonzero().tolist() == flagged.nonzero().tolist()[1:]
    assert not without_small(torch.zeros_like(flagged), (1.0, 1.0, 1.0)).any()

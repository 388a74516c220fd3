"""The mask of trust on held-out errors whose law is known."""

from dataclasses import replace

import pytest
import torch

from atlasgs_bids.core.local_error import HeldOut
from atlasgs_bids.core.trust import RISK, trust_of

SHAPE = (40, 40, 30)
CONTRAST = torch.full((5,), 8.0)


def _slices(seed: int, *, sd_tells: bool = True, scale: float = 1.0, n_slices: int = SHAPE[2]) -> HeldOut:
    """Errors of a known sd between 0.5 and 8, beside a contrast of 8; ``sd_tells``: it is stated as it is."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*SHAPE[:2], n_slices)
    sd = scale * 0.5 * 16 ** torch.rand(shape, generator=generator)
    error = sd * torch.randn(shape, generator=generator)
    said = sd if sd_tells else sd.flatten()[torch.randperm(sd.numel(), generator=generator)].reshape(shape)
    observed = torch.rand(shape, generator=generator) > 0.1
    return HeldOut(error, said, torch.full(shape, 8.0), observed, 2)


def _risk(bound: float, unseen: HeldOut) -> tuple[float, float]:
    """Wrong ones among what a bound trusts in slices that did not choose it, and how many it trusts."""
    trusted = unseen.observed & (unseen.sd <= bound * unseen.contrast / 2)
    wrong = unseen.error.abs() > unseen.contrast / 2
    return float(wrong[trusted].float().mean()), float(trusted.float().mean())


def test_the_promise_holds_on_slices_that_did_not_choose_the_bound() -> None:
    found = trust_of([_slices(0)], CONTRAST)
    risk, part = _risk(found.bound, _slices(1))
    assert risk <= RISK
    assert part > 0.4
    assert found.risk == pytest.approx(risk, abs=0.01)
    assert found.n_slices == SHAPE[2]
    torch.testing.assert_close(found.half_contrast, CONTRAST / 2)


def test_a_mask_that_is_true_everywhere_breaks_the_promise() -> None:
    found = trust_of([_slices(0)], CONTRAST)
    everywhere, _ = _risk(torch.inf, _slices(1))
    assert everywhere > 1.5 * RISK
    assert found.risk_everywhere == pytest.approx(everywhere, abs=0.01)


def test_an_sd_that_says_nothing_of_the_error_is_trusted_nowhere() -> None:
    found = trust_of([_slices(0, sd_tells=False)], CONTRAST)
    assert found.bound == 0
    assert found.risk_everywhere > 1.5 * RISK


def test_small_errors_are_trusted_everywhere() -> None:
    found = trust_of([_slices(0, scale=0.1)], CONTRAST)
    assert _risk(found.bound, _slices(1, scale=0.1))[1] > 0.85
    assert found.risk_everywhere < RISK


def test_few_slices_promise_less_than_many() -> None:
    """(n risk + 1) / (n + 1) is what must not exceed a tenth."""
    few, many = (trust_of([_slices(0, n_slices=n)], CONTRAST) for n in (11, 60))
    assert few.bound < many.bound
    assert few.risk <= (12 * RISK - 1) / 11 + 1e-6


def test_stacks_count_together() -> None:
    both = trust_of([_slices(0), _slices(2)], CONTRAST)
    assert both.n_slices == 2 * SHAPE[2]
    wrong = replace(_slices(2), error=torch.full(SHAPE, 100.0))
    assert trust_of([_slices(0), wrong], CONTRAST).bound < both.bound

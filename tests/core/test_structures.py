"""Structures that are drawn into training pairs: where they belong, and nowhere else."""

import dataclasses

import torch

from atlasgs_bids.core.priors.structures import N_PARAMETERS, draw_structures, insert_structures
from atlasgs_bids.core.settings import LearnedSettings

EXTENT = (3, 16, 40)
SETTINGS = LearnedSettings(structure_fraction=1.0, anchor_dropout=0.0)


def _drawn(n: int, settings: LearnedSettings) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Parameters, and what they change of a flat target and a flat anchor."""
    parameters = draw_structures(n, EXTENT, 8.0, settings, torch.Generator().manual_seed(0))
    flat = torch.ones(n, *EXTENT)
    target, anchor = insert_structures(flat, flat, parameters)
    return parameters, target - 1, anchor - 1


def test_a_third_each_shows_in_the_target_in_the_anchor_and_in_both() -> None:
    _, target, anchor = _drawn(600, SETTINGS)
    in_target, in_anchor = (each.flatten(1).abs().amax(1) > 0.02 for each in (target, anchor))
    for share in (in_target & ~in_anchor, in_anchor & ~in_target, in_target & in_anchor):
        assert 0.25 < float(share.float().mean()) < 0.42
    both = in_target & in_anchor
    assert not torch.allclose(target[both], anchor[both])  # contrasts of their own


def test_a_structure_lies_where_its_parameters_say() -> None:
    parameters, target, anchor = _drawn(50, SETTINGS)
    changed = torch.maximum(target.abs(), anchor.abs())
    lines = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in EXTENT], indexing="ij")
    for each, found in zip(parameters, changed, strict=True):
        centre, radii = each[:3], each[3:6]
        distance = sum(((x - c) / r) ** 2 for x, c, r in zip(lines, centre, radii, strict=True)).sqrt()
        beyond = (distance - 1) * radii.min() > 6  # four times the widest border
        assert float(found.max()) > 0.02
        assert not bool(beyond.any()) or float(found[beyond].max()) < 1e-2


def test_dropout_leaves_windows_without_an_anchor_and_nothing_else_changed() -> None:
    settings = dataclasses.replace(SETTINGS, structure_fraction=0.0, anchor_dropout=0.5)
    _, target, anchor = _drawn(400, settings)
    assert float(target.abs().max()) == 0
    gone = (anchor == -1).flatten(1).all(1)
    assert 0.4 < float(gone.float().mean()) < 0.6
    assert float(anchor[~gone].abs().max()) == 0


def test_before_anything_is_drawn_the_windows_are_finite() -> None:
    """A step is recorded on a GPU before its parameters are known; a NaN would stay in the optimiser."""
    image = torch.rand(2, *EXTENT)
    for value in (0.0, 1.0):
        target, anchor = insert_structures(image, image, torch.full((2, N_PARAMETERS), value))
        assert target.isfinite().all()
        assert anchor.isfinite().all()

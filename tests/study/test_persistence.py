"""Persistence of level sets, against images whose blobs and holes are known."""

import numpy as np
import pytest
import torch

from atlasgs_bids.study.methods.published.persistence import faint_persistence, level_set_pairs


def known():
    """A peak of 5 and one of 3 with a saddle of 1 between them, and a pit of -1, in a plain of 0."""
    image = np.zeros((4, 7), np.float32)
    image[1, 1:5] = [5, 2, 1, 3]
    image[2, 5] = -1
    return image


def test_the_lower_peak_ends_at_the_saddle_and_the_pit_begins_at_the_plain():
    image = known()
    pairs = image.ravel()[level_set_pairs(image)]
    assert sorted(map(tuple, pairs.tolist())) == [(0, -1), (3, 1)]


@pytest.mark.parametrize("seed", range(5))
def test_pairs_of_a_transposed_image_are_the_same(seed):
    rng = np.random.default_rng(seed)
    image = rng.random((9, 14)).astype(np.float32)
    pairs = image.ravel()[level_set_pairs(image)]
    turned = image.T.copy()
    again = turned.ravel()[level_set_pairs(turned)]
    assert sorted(map(tuple, pairs.tolist())) == sorted(map(tuple, again.tolist()))


def test_only_faint_pairs_count_and_what_they_are_made_of_is_moved():
    images = torch.from_numpy(np.stack([np.zeros((4, 7), np.float32), known()])).requires_grad_()
    total = faint_persistence(images, below=1.5)
    assert total.item() == pytest.approx(1 / images.numel())
    total.backward()
    gradient = images.grad * images.numel()
    assert float(gradient[1, 2, 5]) == -1  # the pit rises
    assert float(gradient.sum()) == 0
    assert int((gradient != 0).sum()) == 2
    both = faint_persistence(images, below=10)
    assert both.item() == pytest.approx((1 + 2) / images.numel())


def test_descending_it_takes_noise_away_and_leaves_the_peak():
    u, v = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    clean = torch.exp(-((u - 12) ** 2 + (v - 9) ** 2) / 40)
    image = (clean + 0.02 * torch.randn(24, 24))[None].requires_grad_()
    before = len(level_set_pairs(image[0].detach().numpy()))
    optimizer = torch.optim.SGD([image], lr=2.0)
    for _ in range(60):
        optimizer.zero_grad()
        faint_persistence(image, below=0.2).backward()
        optimizer.step()
    faint = faint_persistence(image, below=0.2).item()
    assert faint < 0.2 * 0.02
    assert before > 20
    assert float((image[0].detach() - clean).abs().max()) < 0.15

"""Gaussians cut by planes, and their compositing: by hand, against the 3-D Gaussian, and gsplat's kernel."""

import numpy as np
import pytest
import torch

from atlasgs_bids.core.gaussians import rotations
from atlasgs_bids.study.methods.published.conditional import (
    CUTOFF,
    PlaneGaussians,
    composite_gsplat,
    composite_numba,
    composite_reference,
    cut_by_planes,
    meeting_pairs,
)
from atlasgs_bids.study.methods.published.method import PlaneStack
from atlasgs_bids.study.methods.published.planes import dissimilarity, in_planes, neighbours


def random_cut(n=40, n_planes=3, extent=16.0, device="cpu"):
    means = torch.rand(n, 3) * extent
    scales = 0.8 + 2 * torch.rand(n, 3)
    factor = rotations(torch.randn(n, 4)) * scales[:, None]
    covariances = factor @ factor.transpose(1, 2)
    means, covariances = means.to(device), covariances.to(device)
    positions = torch.linspace(2, extent - 2, n_planes, device=device)
    return means, covariances, positions


def test_the_cut_is_the_3d_gaussian_in_the_plane():
    means, covariances, positions = random_cut()
    means, covariances, positions = means.double(), covariances.double(), positions.double()
    cut = cut_by_planes(means, covariances, positions, meeting_pairs(means, covariances, positions))
    points = torch.rand(len(cut.planes), 2, dtype=torch.float64) * 4 + cut.means
    d2 = points - cut.means
    uu, uv, vv = cut.conics.unbind(1)
    planar = torch.exp(-0.5 * (uu * d2[:, 0] ** 2 + vv * d2[:, 1] ** 2) - uv * d2[:, 0] * d2[:, 1])
    d3 = torch.cat([points, positions[cut.planes][:, None]], dim=1) - means[cut.owners]
    precision = torch.linalg.inv(covariances[cut.owners])
    whole = torch.exp(-0.5 * torch.einsum("ni,nij,nj->n", d3, precision, d3))
    torch.testing.assert_close(planar * cut.marginals, whole, rtol=1e-8, atol=1e-12)


def test_every_gaussian_within_the_cutoff_is_met_and_no_other():
    means, covariances, positions = random_cut()
    planes, owners = meeting_pairs(means, covariances, positions)
    expected = {
        (p, n)
        for p, position in enumerate(positions.tolist())
        for n in range(len(means))
        if abs(position - float(means[n, 2])) < CUTOFF * float(covariances[n, 2, 2]) ** 0.5
    }
    assert set(zip(planes.tolist(), owners.tolist(), strict=True)) == expected
    assert planes.tolist() == sorted(planes.tolist())


def one_pixel(depths, n_planes=1):
    n = len(depths)
    return PlaneGaussians(
        planes=torch.zeros(n, dtype=torch.long),
        owners=torch.arange(n),
        means=torch.zeros(n, 2),
        conics=torch.tensor([[1.0, 0, 1.0]]).repeat(n, 1),
        marginals=torch.ones(n),
        depths=torch.tensor(depths),
        radii=torch.full((n, 2), 4, dtype=torch.int32),
    )


def test_compositing_by_hand_nearest_first():
    """Opacities 0.5 (behind) and 0.25 (in front); one pixel off, each times e^(−1/2)."""
    cut, features = one_pixel([2.0, 1.0]), torch.tensor([[8.0], [4.0]])
    image = composite_reference(cut, features, torch.tensor([0.5, 0.25]), 1, (2, 1))
    assert float(image[0, 0, 0, 0]) == pytest.approx(4 * 0.25 + 8 * 0.75 * 0.5)
    w = np.exp(-0.5)
    assert float(image[0, 1, 0, 0]) == pytest.approx(4 * 0.25 * w + 8 * (1 - 0.25 * w) * 0.5 * w)


def test_what_is_nearly_transparent_or_behind_everything_does_not_count():
    features = torch.ones(3, 1)
    faint = composite_reference(one_pixel([1.0, 2.0, 3.0]), features, torch.full((3,), 0.0039), 1, (1, 1))
    assert float(faint) == 0
    # 0.999, then 0.05 left of a thousandth: T would fall below 1e-4 with the second, which is left out.
    opaque = composite_reference(
        one_pixel([1.0, 2.0, 3.0]), features, torch.tensor([1.0, 0.95, 0.5]), 1, (1, 1)
    )
    assert float(opaque) == pytest.approx(0.999, abs=1e-6)


def test_some_planes_of_a_stack_are_those_planes_cut_alone():
    means, covariances, _ = random_cut(n=200)
    stack = PlaneStack.of(means, covariances, 16)
    asked = np.array([9, 3, 14])
    picked = stack.chosen(asked)
    positions = torch.tensor([9.0, 3.0, 14.0])
    alone = cut_by_planes(means, covariances, positions, meeting_pairs(means, covariances, positions))
    for name in vars(alone):
        torch.testing.assert_close(getattr(picked, name), getattr(alone, name))


def test_gaussians_reach_a_grids_frame_with_the_slice_axis_last():
    class Two:
        means_mm = torch.tensor([[2.0, 3, 4], [0.0, 0, 0]])
        covariances_mm2 = torch.diag(torch.tensor([4.0, 9.0, 16.0])).expand(2, 3, 3)

    world_from_grid = np.diag([2.0, 3, 4, 1])
    world_from_grid[:3, 3] = [0, 0, -4]
    means, covariances = in_planes(Two(), world_from_grid, 0, "cpu")
    torch.testing.assert_close(means, torch.tensor([[1.0, 2, 1], [0.0, 1, 0]]))
    torch.testing.assert_close(covariances[0], torch.eye(3))


def test_dissimilarity_is_that_of_scikit_image():
    from skimage.metrics import structural_similarity  # noqa: PLC0415

    rng = np.random.default_rng(2)
    truth, image = np.zeros((2, 1, 44, 42), np.float32)
    truth[:, 8:-8, 8:-8] = rng.random((28, 26))
    image[:, 8:-8, 8:-8] = truth[:, 8:-8, 8:-8] + rng.normal(0, 0.1, (28, 26))
    _, full = structural_similarity(
        truth[0], image[0], data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )  # fmt: skip
    found = float(dissimilarity(torch.from_numpy(image), torch.from_numpy(truth)))
    assert found == pytest.approx(1 - full.mean(), rel=1e-3)


def test_neighbours_are_the_nearest_others():
    points = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0]])
    assert neighbours(points, 1).tolist() == [[1], [0], [1]]


def test_the_cpus_kernels_composite_as_the_reference_does():
    """Values and all gradients; opacities up to 1, so that alphas are capped and pixels end."""
    means, covariances, positions = random_cut(n=300, n_planes=4, extent=40.0)
    pairs = meeting_pairs(means, covariances, positions)
    features = torch.rand(len(pairs[0]), 3)
    grads, images = [], []
    for rasterize in (composite_numba, composite_reference):
        inputs = [means, covariances, torch.linspace(0, 1, 300), features.clone()]
        for x in inputs:
            x.requires_grad_()
        cut = cut_by_planes(inputs[0], inputs[1], positions, pairs)
        opaque = inputs[2][cut.owners] * cut.marginals**0.1
        image = rasterize(cut, inputs[3], opaque, 4, (37, 41))
        weights = torch.linspace(-1, 1, image.numel()).view(image.shape)
        images.append(image.detach())
        grads.append(torch.autograd.grad((image * weights).sum(), inputs))
    torch.testing.assert_close(images[0], images[1], rtol=1e-4, atol=1e-5)
    for own, expected in zip(*grads, strict=True):
        assert float((own - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_gsplat_composites_as_the_reference_does(device):
    """On a GPU that is not the current one as well."""
    if int(device[-1]) >= torch.cuda.device_count():
        pytest.skip("needs two CUDA devices")
    means, covariances, positions = random_cut(n=300, n_planes=4, extent=40.0, device=device)
    pairs = meeting_pairs(means, covariances, positions)
    features = torch.rand(len(pairs[0]), 4, device=device)
    grads, images = [], []
    for rasterize in (composite_gsplat, composite_reference):
        means.requires_grad_()
        opacities = torch.full((300,), 0.6, device=device, requires_grad=True)
        cut = cut_by_planes(means, covariances, positions, pairs)
        image = rasterize(cut, features, opacities[cut.owners] * cut.marginals, 4, (37, 41))
        weights = torch.linspace(0, 1, image.numel(), device=device).view(image.shape)
        images.append(image.detach())
        grads.append(torch.autograd.grad((image * weights).sum(), [means, opacities]))
    scale = float(images[1].abs().max())
    assert float((images[0] - images[1]).abs().max()) < 1e-3 * scale
    for own, expected in zip(*grads, strict=True):
        assert float((own - expected).norm()) < 1e-2 * float(expected.norm())

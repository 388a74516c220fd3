"""Kernels of the normalised splat: values and gradients against the definition in float64."""

import pytest
import torch

from atlasgs_bids.core.gaussians import Gaussians, project
from atlasgs_bids.core.splat import kernels, reference
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import DENSITY_FLOOR, render, splat
from tests.helpers import assert_adjoint, dense_matrix, dense_weights, random_gaussians

SHAPE = (9, 7, 11)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def _affine(oblique: bool) -> torch.Tensor:
    affine = torch.diag(torch.tensor([1.1, 0.9, 1.3, 1.0], dtype=torch.float64))
    if oblique:
        angle = torch.tensor(0.4, dtype=torch.float64)
        turn = torch.eye(4, dtype=torch.float64)
        turn[0, 0], turn[0, 1], turn[1, 0], turn[1, 1] = angle.cos(), -angle.sin(), angle.sin(), angle.cos()
        flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
        affine = turn @ flip @ affine
        affine[:3, 3] = torch.tensor([9.0, -2.0, -3.0])
    return affine


def _dense_render(gaussians: Gaussians, amplitudes: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    weights = dense_weights(gaussians, SHAPE, affine)
    return ((weights @ amplitudes) / (weights.sum(1) + DENSITY_FLOOR)).reshape(SHAPE)


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("anisotropy", [1.0, 20.0])
@pytest.mark.parametrize("n", [1, 300])
def test_rendering_is_the_definition(oblique: bool, anisotropy: float, n: int) -> None:
    gaussians = random_gaussians(n, 10.0, anisotropy)
    affine = _affine(oblique)
    expected = _dense_render(gaussians, gaussians.amplitudes, affine)
    rendered = render(gaussians, gaussians.amplitudes, SHAPE, affine, 500)
    torch.testing.assert_close(rendered, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
def test_kernel_in_float32_matches_reference_in_float64(device: str) -> None:
    exact = random_gaussians(400, 10.0, 20.0)
    single = Gaussians(**{name: value.float().to(device) for name, value in vars(exact).items()})
    # Rounded first: at the cut-off, a pair is inside or outside by the last bit.
    exact = Gaussians(**{name: value.cpu().double() for name, value in vars(single).items()})
    affine = _affine(oblique=True)
    upstream = torch.randn(SHAPE, dtype=torch.float64)
    results = []
    for gaussians in (exact, single):
        leaves = [value.clone().requires_grad_() for value in vars(gaussians).values()]
        means, scales, quaternions, amplitudes = leaves
        voxel_from_world = torch.linalg.inv(affine).to(means)
        projected = project(means, scales, quaternions, voxel_from_world)
        if gaussians is exact:
            numerator, denominator = reference.scatter(projected, amplitudes.detach(), SHAPE, 4000)
            image = numerator / (denominator + DENSITY_FLOOR)
            rendered = splat(projected, amplitudes, SHAPE, 4000)
            torch.testing.assert_close(rendered, image)
        else:
            rendered = splat(projected, amplitudes, SHAPE, 4000)
        rendered.backward(upstream.to(rendered))
        results.append([rendered.detach(), *(leaf.grad for leaf in leaves)])
    for want, got in zip(*results, strict=True):
        assert float((got.double().cpu() - want).norm()) <= 2e-4 * float(want.norm())


@pytest.mark.parametrize("use_reference", [False, True])
def test_gradients_match_autograd_of_the_definition(
    use_reference: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if use_reference:
        monkeypatch.setattr(kernels, "scatter", reference.scatter)
        monkeypatch.setattr(kernels, "gather", reference.gather)
    gaussians = random_gaussians(60, 10.0)
    affine = _affine(oblique=True)
    upstream = torch.randn(SHAPE, dtype=torch.float64)
    gradients = []
    for dense in (True, False):
        leaves = [value.clone().requires_grad_() for value in vars(gaussians).values()]
        moved = Gaussians(*leaves)
        image = (
            _dense_render(moved, moved.amplitudes, affine)
            if dense
            else render(moved, moved.amplitudes, SHAPE, affine, 3000)
        )
        gradients.append(torch.autograd.grad(image, leaves, upstream))
    for want, got in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("chunk_elements", [1, 1000, 2**20])
def test_chunks_of_any_size_give_the_same_pairs(chunk_elements: int) -> None:
    gaussians = random_gaussians(80, 10.0)
    projected = project(
        gaussians.means_mm, gaussians.scales_mm, gaussians.quaternions, torch.eye(4, dtype=torch.float64)
    )
    rows = torch.arange(9 * 7 * 11, dtype=torch.int32).reshape(SHAPE)
    rows[:, 3] = -1
    want = kernels.pairs(projected, rows, 0)
    got = reference.pairs(projected, rows, chunk_elements)
    assert torch.equal(got[0], want[0])
    for owner in range(len(gaussians)):
        part = slice(int(want[0][owner]), int(want[0][owner + 1]))
        order = torch.argsort(got[1][part])
        assert torch.equal(got[1][part][order], want[1][part].to(torch.int32))
        torch.testing.assert_close(got[2][part][order], want[2][part])


@pytest.mark.parametrize("device", DEVICES)
def test_splat_operator(device: str) -> None:
    gaussians = random_gaussians(150, 10.0)
    affine = _affine(oblique=True)
    needed = torch.rand(SHAPE) > 0.3
    op = SplatOperator(gaussians.to(device), SHAPE, affine.to(device), needed.to(device))
    assert_adjoint(op, device=device)
    expected = _dense_render(gaussians, gaussians.amplitudes, affine) * needed
    torch.testing.assert_close(op.forward(gaussians.amplitudes.to(device)).cpu(), expected)


def test_every_row_of_s_sums_to_one_or_is_empty() -> None:
    matrix = dense_matrix(SplatOperator(random_gaussians(40, 10.0), SHAPE, _affine(oblique=False)))
    sums = matrix.sum(1)
    assert bool(((sums - 1).abs().lt(1e-3) | sums.eq(0)).all())


def test_gaussians_outside_and_degenerate_give_no_nan() -> None:
    gaussians = Gaussians(
        means_mm=torch.tensor([[500.0, 0.0, 0.0], [4.0, 4.0, 4.0], [4.4, 4.4, 4.4]]),
        scales_mm=torch.tensor([[1.0, 1.0, 1.0], [1e-4, 1e-4, 1e-4], [1e-3, 1.0, 1.0]]),
        quaternions=torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 3),
        amplitudes=torch.tensor([1.0, 2.0, 3.0]),
    )
    leaves = [value.clone().requires_grad_() for value in vars(gaussians).values()]
    image = render(Gaussians(*leaves), leaves[3], SHAPE, torch.eye(4), 1000)
    assert image[4, 4, 4].item() == pytest.approx(2.0, rel=1e-5)
    image.sum().backward()
    assert all(bool(leaf.grad.isfinite().all()) for leaf in leaves if leaf.grad is not None)


def test_the_same_input_gives_the_same_bits() -> None:
    gaussians = random_gaussians(500, 10.0, dtype=torch.float32)
    images = [render(gaussians, gaussians.amplitudes, SHAPE, torch.eye(4), 1000) for _ in range(2)]
    assert torch.equal(*images)

"""Kernels of the normalised splat: values and gradients against the definition in float64."""

import importlib
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import DENSITY_FLOOR, render
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


@pytest.mark.gpu
@pytest.mark.parametrize("matrix_gib", [2.0, 0.0], ids=["matrix", "direct"])
def test_a_gpu_that_is_not_the_current_one_splats_the_same(
    two_gpus: tuple[str, str], matrix_gib: float
) -> None:
    """Operator, adjoint, image and gradients, to the last bit."""
    gaussians, affine = random_gaussians(300, 10.0, dtype=torch.float32), _affine(oblique=True)
    upstream, found = torch.randn(SHAPE), []
    for device in two_gpus:
        leaves = Gaussians(*(value.to(device).requires_grad_() for value in vars(gaussians).values()))
        op = SplatOperator(
            Gaussians(*(value.detach() for value in vars(leaves).values())),
            SHAPE,
            affine.to(device),
            matrix_gib=matrix_gib,
        )
        image = render(leaves, leaves.amplitudes, SHAPE, affine.to(device), 500)
        image.backward(upstream.to(device))  # type: ignore[no-untyped-call]
        gradients = [leaf.grad for leaf in vars(leaves).values()]
        results = [op.forward(leaves.amplitudes.detach()), op.adjoint(upstream.to(device)), image.detach()]
        found.append([*results, *(gradient for gradient in gradients if gradient is not None)])
    assert len(found[0]) == 7
    for one, other in zip(*found, strict=True):
        assert str(other.device) == two_gpus[1]
        assert torch.equal(one.cpu(), other.cpu())
    assert torch.cuda.current_device() == 0


@pytest.fixture(params=["cpu", "reference", "cuda"])
def kernels(request: pytest.FixtureRequest) -> ModuleType:
    """Each implementation of the interface; without a GPU, Triton's interpreter runs the CUDA kernels."""
    if request.param == "cuda":
        pytest.importorskip("triton")
    return importlib.import_module(f"atlasgs_bids.core.splat.{request.param}")


def _device(kernels: ModuleType) -> str:
    return "cuda" if kernels.__name__.endswith("cuda") and torch.cuda.is_available() else "cpu"


def _away_from_the_cutoff(n: int, anisotropy: float, affine: torch.Tensor) -> Gaussians:
    """Random Gaussians in float32; drawn again while rounding could move a pair across the cut-off."""
    while True:
        drawn = random_gaussians(n, 10.0, anisotropy, dtype=torch.float32)
        exact = Gaussians(*(value.double() for value in vars(drawn).values()))
        pairs = [
            dense_weights(replace(exact, scales_mm=exact.scales_mm * factor), SHAPE, affine).count_nonzero()
            for factor in (1 - 1e-5, 1 + 1e-5)
        ]
        if pairs[0] == pairs[1] and (n > 1 or pairs[0] > 0):
            return drawn


def _assert_alike(got: torch.Tensor, want: torch.Tensor, rounding: float = 0.0) -> None:
    """``rounding``: what float32 leaves of a sum of large terms that cancel, where the truth is 0."""
    assert bool(got.isfinite().all())
    assert float((got.double().cpu() - want).norm()) <= 1e-4 * float(want.norm()) + rounding


@pytest.mark.parametrize("n", [1, 150])
@pytest.mark.parametrize("anisotropy", [1.0, 20.0])
def test_kernels_in_float32_match_the_definition_in_float64(
    kernels: ModuleType, n: int, anisotropy: float
) -> None:
    """Values and the gradient of every parameter; Gaussians beyond and across the border among them."""
    device = _device(kernels)
    affine = _affine(oblique=True)
    drawn = _away_from_the_cutoff(n, anisotropy, affine)
    voxel_from_world = torch.linalg.inv(affine)
    upstream = torch.randn(SHAPE)
    exact = [value.double().requires_grad_() for value in vars(drawn).values()]
    image = _dense_render(Gaussians(*exact), exact[3], affine)
    wanted = [image.detach(), *torch.autograd.grad(image, exact, upstream.double())]

    means, scales, quaternions, amplitudes = (value.to(device) for value in vars(drawn).values())
    projected = kernels.project(means, scales, quaternions, voxel_from_world.float().to(device))
    lists = kernels.lists(projected, SHAPE)
    rendered, density = kernels.scatter(projected, lists, amplitudes, SHAPE, 4000)
    rendered = rendered / (density + DENSITY_FLOOR)
    residual = upstream.to(device) / (density + DENSITY_FLOOR)
    grad_amplitudes, grad_means_vox, grad_precisions = kernels.gather(
        projected, amplitudes, residual, rendered, 4000
    )
    grads = kernels.project_backward(
        scales, quaternions, voxel_from_world.float().to(device), grad_means_vox, grad_precisions
    )
    # One Gaussian alone renders a constant whatever its geometry, and a sphere is the same however turned.
    rounding = 1e-6 * float(upstream.norm())
    for got, want in zip([rendered, *grads, grad_amplitudes], wanted, strict=True):
        _assert_alike(got, want, rounding)
    _assert_alike(kernels.adjoint(projected, residual, 4000), wanted[-1])


@pytest.mark.parametrize("module", ["cpu", "reference"])
def test_gradients_match_autograd_of_the_definition(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = importlib.import_module(f"atlasgs_bids.core.splat.{module}")
    monkeypatch.setattr(
        importlib.import_module("atlasgs_bids.core.splat.render"), "kernels_for", lambda _: kernels
    )
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
def test_every_kernel_lists_the_same_pairs(kernels: ModuleType, chunk_elements: int) -> None:
    gaussians = random_gaussians(80, 10.0, dtype=torch.float32)
    identity = torch.eye(4)
    rows = torch.arange(9 * 7 * 11, dtype=torch.int32).reshape(SHAPE)
    rows[:, 3] = -1
    weights = dense_weights(
        Gaussians(*(value.double() for value in vars(gaussians).values())), SHAPE, identity.double()
    )
    weights[rows.reshape(-1) < 0] = 0
    device = _device(kernels)
    gaussians, rows = gaussians.to(device), rows.to(device)
    projected = kernels.project(
        gaussians.means_mm, gaussians.scales_mm, gaussians.quaternions, identity.to(device)
    )
    counts = kernels.count_pairs(projected, rows, chunk_elements)
    starts = torch.zeros(81, dtype=torch.int64, device=device)
    starts[1:] = counts.cumsum(0)
    columns, values = kernels.fill_pairs(projected, rows, starts, chunk_elements)
    owners = torch.repeat_interleave(torch.arange(80, device=device), counts)
    filled = torch.zeros(len(weights), 80)
    filled[columns.long().cpu(), owners.cpu()] = values.cpu()
    assert int((filled > 0).sum()) == len(values)
    _assert_alike(filled, weights)


@pytest.mark.parametrize("matrix_gib", [1.0, 0.0])
@pytest.mark.parametrize("device", DEVICES)
def test_splat_operator(device: str, matrix_gib: float) -> None:
    gaussians = random_gaussians(150, 10.0)
    affine = _affine(oblique=True)
    needed = torch.rand(SHAPE) > 0.3
    op = SplatOperator(
        gaussians.to(device), SHAPE, affine.to(device), needed.to(device), matrix_gib=matrix_gib
    )
    assert op.is_matrix == (matrix_gib > 0)
    assert_adjoint(op, device=device)
    expected = _dense_render(gaussians, gaussians.amplitudes, affine) * needed
    torch.testing.assert_close(op.forward(gaussians.amplitudes.to(device)).cpu(), expected)
    # Several images of the same geometry at once.
    images = op.forward(torch.stack([gaussians.amplitudes, -gaussians.amplitudes], dim=1).to(device))
    torch.testing.assert_close(images[..., 1].cpu(), -expected)
    sums = op.adjoint(images)
    torch.testing.assert_close(sums[:, 1], op.adjoint(images[..., 1].contiguous()))


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

"""Solvers: preconditioned conjugate gradients, with the evidence of what was reached, and Adam."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_BETAS = 0.9, 0.99
_EPSILON = 1e-8
"""Of Adam."""


@dataclass(frozen=True)
class Solution:
    """A solution and the evidence for it."""

    value: Tensor
    n_steps: int
    relative_residual: float
    """‖b − A x‖ / ‖b‖; the largest, where there are several right sides."""
    converged: bool


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    right_side: Tensor,
    *,
    start: Tensor | None = None,
    inverse_diagonal: Tensor | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 200,
) -> Solution:
    """x with A x = b for a symmetric positive (semi)definite A given by ``apply`` (Hestenes & Stiefel 1952).

    ``right_side`` is (n,) or (n, k): k systems with the same A, each with steps of its own, until the last
    of them has converged. ``inverse_diagonal`` preconditions by an elementwise product. Sums are taken in
    float64.
    """
    norm = _dot(right_side, right_side).sqrt()
    x = torch.zeros_like(right_side) if start is None else torch.where(norm > 0, start, 0.0)
    residual = right_side - apply(x) if start is not None else right_side.clone()
    z = residual if inverse_diagonal is None else inverse_diagonal * residual
    direction = z.clone()
    rho = _dot(residual, z)
    relative = _relative(residual, norm)
    n_steps = 0
    while float(relative.max()) > tolerance and n_steps < max_iterations:
        applied = apply(direction)
        curvature = _dot(direction, applied)
        # Where it is not positive, the direction lies in the null space up to rounding.
        active = (relative > tolerance) & (curvature > 0)
        if not bool(active.any()):
            break
        step = torch.where(active, rho / curvature, 0.0).to(x.dtype)
        x.addcmul_(direction, step)
        residual.addcmul_(applied, step, value=-1)
        n_steps += 1
        relative = _relative(residual, norm)
        z = residual if inverse_diagonal is None else inverse_diagonal * residual
        rho, previous = _dot(residual, z), rho
        direction.mul_(torch.where(previous > 0, rho / previous, 0.0).to(x.dtype)).add_(z)
    worst = float(relative.max())
    return Solution(x, n_steps, worst, worst <= tolerance)


class Adam:
    """Adam (Kingma & Ba 2015) on leaves of a graph, each with a rate of its own.

    The numbers are those of torch.optim.Adam, whose first step loads torch's compiler, which takes 2 to 3 s:
    longer than all steps of a scaffold on a GPU.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        self._means = [torch.zeros_like(p) for p in self._parameters]
        self._squares = [torch.zeros_like(p) for p in self._parameters]
        self._n_steps = 0

    @torch.no_grad()
    def step(self, rates: Sequence[float]) -> None:
        """One step along the gradients, which are taken away."""
        self._n_steps += 1
        unbiased = [1 - beta**self._n_steps for beta in _BETAS]
        each = zip(self._parameters, self._means, self._squares, rates, strict=True)
        for parameter, mean, square, rate in each:
            gradient = parameter.grad
            assert gradient is not None
            mean.lerp_(gradient, 1 - _BETAS[0])
            square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            spread = square.sqrt().div_(unbiased[1] ** 0.5).add_(_EPSILON)
            parameter.addcdiv_(mean, spread, value=-rate / unbiased[0])
            parameter.grad = None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=0, dtype=torch.float64)


def _relative(residual: Tensor, norm: Tensor) -> Tensor:
    return torch.where(norm > 0, _dot(residual, residual).sqrt() / norm, 0.0)

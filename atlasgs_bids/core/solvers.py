"""Preconditioned conjugate gradients, with the evidence of what was reached."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """A solution and the evidence for it."""

    value: Tensor
    n_steps: int
    relative_residual: float
    """‖b − A x‖ / ‖b‖."""
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

    ``inverse_diagonal`` preconditions by an elementwise product. Sums are taken in float64.
    """
    x = torch.zeros_like(right_side) if start is None else start.clone()
    norm = _dot(right_side, right_side) ** 0.5
    if norm == 0:
        return Solution(torch.zeros_like(right_side), 0, 0.0, converged=True)
    residual = right_side - apply(x) if start is not None else right_side.clone()
    relative = _dot(residual, residual) ** 0.5 / norm
    z = residual if inverse_diagonal is None else inverse_diagonal * residual
    direction = z.clone()
    rho = _dot(residual, z)
    n_steps = 0
    while relative > tolerance and n_steps < max_iterations:
        applied = apply(direction)
        curvature = _dot(direction, applied)
        if curvature <= 0:  # the direction lies in the null space up to rounding: nothing more to gain
            break
        step = rho / curvature
        x.add_(direction, alpha=step)
        residual.sub_(applied, alpha=step)
        n_steps += 1
        relative = _dot(residual, residual) ** 0.5 / norm
        z = residual if inverse_diagonal is None else inverse_diagonal * residual
        rho, previous = _dot(residual, z), rho
        direction.mul_(rho / previous).add_(z)
    return Solution(x, n_steps, relative, relative <= tolerance)


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))

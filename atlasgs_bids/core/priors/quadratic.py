"""What a quadratic prior is, and how one over shared Gaussians serves a target with more of its own."""

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.operators import LinearOperator

_TIE = 1e-3
"""Of a specific Gaussian to what is expected of it, over the mean degree of the graph: keeps the solve
regular and nothing else."""


class QuadraticPrior(LinearOperator):
    """A symmetric positive semidefinite operator whose quadratic form says how unlikely amplitudes are."""

    diagonal: Tensor

    @abstractmethod
    def square_root_noise(self, seed: int) -> Float[Tensor, " n"]:
        """A random vector whose covariance is this operator; nearly normal."""


class PartialLaplacian(QuadraticPrior):
    """The graph over the shared Gaussians, and a weak tie of each specific one to what is expected of it."""

    def __init__(self, shared: QuadraticPrior, n_specific: int) -> None:
        self.shared, self.n_shared = shared, len(shared.diagonal)
        self.shape_in = self.shape_out = (self.n_shared + n_specific,)
        self.tie = _TIE * float(shared.diagonal.mean())
        self.diagonal = torch.cat([shared.diagonal, torch.full((n_specific,), self.tie).to(shared.diagonal)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.shared.forward(x[: self.n_shared]), self.tie * x[self.n_shared :]])

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def square_root_noise(self, seed: int) -> Float[Tensor, " n"]:
        generator = torch.Generator().manual_seed(seed)
        own = torch.randn(self.shape_in[0] - self.n_shared, generator=generator).to(self.diagonal)
        return torch.cat([self.shared.square_root_noise(seed), self.tie**0.5 * own])

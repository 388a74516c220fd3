"""Adam for a few large tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

_BETAS = 0.9, 0.99
_EPSILON = 1e-8


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

"""Adam against torch's."""

import torch

from atlasgs_bids.core.adam import Adam


def test_steps_are_those_of_torch() -> None:
    torch.manual_seed(0)
    ours = [torch.randn(50, 3, requires_grad=True), torch.randn(50, requires_grad=True)]
    theirs = [value.detach().clone().requires_grad_() for value in ours]
    rates = [0.1, 0.02]
    optimizer = Adam(ours)
    groups = [{"params": [value], "lr": rate} for value, rate in zip(theirs, rates, strict=True)]
    reference = torch.optim.Adam(groups, betas=(0.9, 0.99))

    def loss(values: list[torch.Tensor]) -> torch.Tensor:
        return (values[0].sin() * values[1][:, None]).square().sum()

    for step in range(20):
        loss(ours).backward()
        optimizer.step([rate / (1 + step) for rate in rates])
        reference.zero_grad()
        loss(theirs).backward()
        for group, rate in zip(reference.param_groups, rates, strict=True):
            group["lr"] = rate / (1 + step)
        reference.step()
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
        assert own.grad is None

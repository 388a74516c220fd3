"""Conjugate gradients and composed operators against dense algebra; Adam against torch's."""

import pytest
import torch

from atlasgs_bids.core.operators import Identity, Scaled, SliceRows, SparseOperator, StackedOperator
from atlasgs_bids.core.solvers import Adam, conjugate_gradient
from tests.helpers import assert_adjoint, dense_matrix


def _spd(n: int) -> torch.Tensor:
    a = torch.randn(n, n, dtype=torch.float64)
    return a @ a.T + torch.diag(torch.linspace(1, 50, n, dtype=torch.float64))


@pytest.mark.parametrize("preconditioned", [False, True])
def test_matches_a_dense_solve(preconditioned: bool) -> None:
    matrix, right_side = _spd(30), torch.randn(30, dtype=torch.float64)
    solution = conjugate_gradient(
        lambda x: matrix @ x,
        right_side,
        inverse_diagonal=1 / matrix.diagonal() if preconditioned else None,
        tolerance=1e-12,
    )
    assert solution.converged
    torch.testing.assert_close(solution.value, torch.linalg.solve(matrix, right_side), rtol=1e-8, atol=1e-8)
    true_residual = float((right_side - matrix @ solution.value).norm() / right_side.norm())
    assert true_residual == pytest.approx(solution.relative_residual, abs=1e-11)


def test_several_right_sides_are_several_solves() -> None:
    matrix, right_sides = _spd(30), torch.randn(30, 4, dtype=torch.float64)
    right_sides[:, 1] *= 1e-3
    right_sides[:, 2] = 0
    together = conjugate_gradient(lambda x: matrix @ x, right_sides, tolerance=1e-10)
    assert together.converged
    torch.testing.assert_close(together.value, torch.linalg.solve(matrix, right_sides), rtol=1e-7, atol=1e-9)
    alone = [conjugate_gradient(lambda x: matrix @ x, b, tolerance=1e-10) for b in right_sides.unbind(1)]
    assert together.n_steps == max(solution.n_steps for solution in alone)


def test_warm_start_at_the_solution_takes_no_step() -> None:
    matrix, right_side = _spd(12), torch.randn(12, dtype=torch.float64)
    exact = torch.linalg.solve(matrix, right_side)
    solution = conjugate_gradient(lambda x: matrix @ x, right_side, start=exact, tolerance=1e-9)
    assert solution.n_steps == 0
    assert solution.converged


def test_says_when_it_did_not_converge() -> None:
    solution = conjugate_gradient(
        lambda x: _BAD @ x, torch.ones(20, dtype=torch.float64), tolerance=1e-12, max_iterations=2
    )
    assert not solution.converged
    assert solution.n_steps == 2
    assert solution.relative_residual > 1e-12


_BAD = torch.diag(torch.logspace(0, 4, 20, dtype=torch.float64))


def test_zero_right_side() -> None:
    solution = conjugate_gradient(lambda x: _BAD @ x, torch.zeros(20, dtype=torch.float64))
    assert solution.converged
    assert not solution.value.any()


def test_sparse_operator_and_composition() -> None:
    first = (torch.rand(6, 9, dtype=torch.float64) - 0.5).relu()
    second = (torch.rand(4, 6, dtype=torch.float64) - 0.5).relu()
    ops = []
    for dense in (second, first):
        csr = dense.numpy()
        rows, columns = csr.nonzero()
        starts = torch.zeros(len(csr) + 1, dtype=torch.int64)
        starts[1:] = torch.bincount(torch.from_numpy(rows), minlength=len(csr)).cumsum(0)
        values = torch.from_numpy(csr[rows, columns])
        ops.append(SparseOperator(starts, torch.from_numpy(columns), values, csr.shape[1]))
    product = ops[0] @ ops[1]
    assert_adjoint(product)
    assert_adjoint(ops[0].T)
    torch.testing.assert_close(dense_matrix(product), second @ first)
    torch.testing.assert_close(dense_matrix(ops[1].T), first.T)
    with pytest.raises(ValueError, match="cannot compose"):
        _ = ops[1] @ ops[0]


def test_identity_gives_a_new_tensor() -> None:
    op, x = Identity((2, 3)), torch.rand(2, 3)
    assert_adjoint(op)
    assert torch.equal(op.forward(x), x)
    assert op.forward(x).data_ptr() != x.data_ptr()


def test_stacks_below_each_other_take_columns() -> None:
    rows = [SliceRows((3, 4, 5), axis, 20) for axis in (0, 2)]
    op = StackedOperator([rows[0], Scaled(rows[1], 0.5)])
    assert_adjoint(op)
    columns, results = torch.rand(3, 4, 5, 2), torch.rand(*op.shape_out, 2)
    forward, adjoint = op.forward(columns), op.adjoint(results)
    for k in range(2):
        torch.testing.assert_close(forward[..., k], op.forward(columns[..., k]))
        torch.testing.assert_close(adjoint[..., k], op.adjoint(results[..., k]))


def test_steps_of_adam_are_those_of_torch() -> None:
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

"""Linear operators: fixed shapes, an exact adjoint, composition with ``@``."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor


class LinearOperator(ABC):
    """A linear map between tensors of fixed shapes.

    ``forward`` takes a tensor of ``shape_in`` and returns one of ``shape_out``; ``adjoint`` is its exact
    transpose: <A x, y> = <x, Aᵀ y>. Both return new tensors on the device of their operand.
    """

    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y."""

    def as_matrix(self) -> sparse.csr_matrix | None:
        """A itself, both sides flattened, in main memory; None where there are only its products."""
        return None

    def __matmul__(self, inner: "LinearOperator") -> "LinearOperator":
        return Composition(self, inner)


class Composition(LinearOperator):
    """Outer after inner."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        if outer.shape_in != inner.shape_out:
            raise ValueError(f"cannot compose: outer takes {outer.shape_in}, inner gives {inner.shape_out}")
        self.outer, self.inner = outer, inner
        self.shape_in, self.shape_out = inner.shape_in, outer.shape_out

    def forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))

    def as_matrix(self) -> sparse.csr_matrix | None:
        inner = self.inner.as_matrix()
        outer = None if inner is None else self.outer.as_matrix()
        return None if outer is None else outer @ inner


class Identity(LinearOperator):
    """I, on tensors of any one shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape_in = self.shape_out = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()

    def adjoint(self, y: Tensor) -> Tensor:
        return y.clone()


class Diagonal(LinearOperator):
    """Each element of a vector times its own factor: (n,) or (n, k)."""

    def __init__(self, factors: Float[Tensor, " n"]) -> None:
        self._factors = factors
        self.shape_in = self.shape_out = tuple(factors.shape)

    def forward(self, x: Tensor) -> Tensor:
        return x * (self._factors if x.ndim == 1 else self._factors[:, None])

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def as_matrix(self) -> sparse.csr_matrix:
        return sparse.diags(self._factors.cpu().numpy(), format="csr")


class Chosen(LinearOperator):
    """Some elements of a vector: (n,) -> (k,)."""

    def __init__(self, members: Int[Tensor, " k"], n: int) -> None:
        self._members = members
        self.shape_in, self.shape_out = (n,), (len(members),)

    def forward(self, x: Tensor) -> Tensor:
        return x[self._members]

    def adjoint(self, y: Tensor) -> Tensor:
        return y.new_zeros((*self.shape_in, *y.shape[1:])).index_add_(0, self._members, y)


class SliceRows(LinearOperator):
    """The slices of a stack as rows: (x, y, z) -> (n_slices, n_pixels, 1), padded with zeros at the end.

    Takes several volumes as well, in columns behind.
    """

    def __init__(self, shape: tuple[int, ...], slice_axis: int, n_pixels: int) -> None:
        self._axis, self._n_own = slice_axis, math.prod(shape) // shape[slice_axis]
        self._moved_shape = (shape[slice_axis], *(n for i, n in enumerate(shape) if i != slice_axis))
        self.shape_in, self.shape_out = shape, (shape[slice_axis], n_pixels, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.new_zeros((*self.shape_out, *x.shape[3:]))
        rows[:, : self._n_own, 0] = torch.movedim(x, self._axis, 0).flatten(1, 2)
        return rows

    def adjoint(self, y: Tensor) -> Tensor:
        slices = y[:, : self._n_own, 0].reshape(*self._moved_shape, *y.shape[3:])
        return torch.movedim(slices, 0, self._axis).contiguous()

    def as_matrix(self) -> sparse.csr_matrix:
        numbers = torch.arange(1, math.prod(self.shape_in) + 1).reshape(self.shape_in)
        source = self.forward(numbers).flatten().numpy()
        rows = source.nonzero()[0]
        entries = np.ones(len(rows), np.float32), (rows, source[rows] - 1)
        return sparse.csr_matrix(entries, shape=(len(source), len(rows)))


class Scaled(LinearOperator):
    """A multiple of an operator."""

    def __init__(self, op: LinearOperator, scale: float) -> None:
        self.op, self.scale = op, scale
        self.shape_in, self.shape_out = op.shape_in, op.shape_out

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.op.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.scale * self.op.adjoint(y)

    def as_matrix(self) -> sparse.csr_matrix | None:
        matrix = self.op.as_matrix()
        return None if matrix is None else np.float32(self.scale) * matrix


class StackedOperator(LinearOperator):
    """Several operators on one operand, their results one below the other along axis 0."""

    def __init__(self, parts: Sequence[LinearOperator]) -> None:
        if len({(part.shape_in, part.shape_out[1:]) for part in parts}) != 1:
            shapes = [(part.shape_in, part.shape_out) for part in parts]
            raise ValueError(f"cannot stack {shapes}: only the first output axis may differ")
        self.parts = tuple(parts)
        self._lengths = [part.shape_out[0] for part in parts]
        self.shape_in = parts[0].shape_in
        self.shape_out = (sum(self._lengths), *parts[0].shape_out[1:])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part.forward(x) for part in self.parts])

    def adjoint(self, y: Tensor) -> Tensor:
        total = y.new_zeros((*self.shape_in, *y.shape[len(self.shape_out) :]))
        for part, own in zip(self.parts, torch.split(y, self._lengths), strict=True):
            total += part.adjoint(own)
        return total

    def as_matrix(self) -> sparse.csr_matrix | None:
        matrices = []
        for part in self.parts:
            matrix = part.as_matrix()
            if matrix is None:
                return None
            matrices.append(matrix)
        return sparse.vstack(matrices, format="csr")


class SparseOperator(LinearOperator):
    """A sparse matrix, kept together with its transpose so that both products run by rows."""

    def __init__(
        self,
        row_starts: Int[Tensor, " m_plus_1"],
        columns: Int[Tensor, " nnz"],
        values: Float[Tensor, " nnz"],
        n_columns: int,
    ) -> None:
        n_rows = len(row_starts) - 1
        self.shape_in, self.shape_out = (n_columns,), (n_rows,)
        self.matrix = csr_matrix(row_starts, columns, values, (n_rows, n_columns))
        self.transposed = csr_matrix(*_transpose(row_starts, columns, values, n_columns), (n_columns, n_rows))

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix @ x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.transposed @ y

    def as_matrix(self) -> sparse.csr_matrix:
        own = self.matrix.cpu()
        return sparse.csr_matrix((own.values(), own.col_indices(), own.crow_indices()), shape=own.shape)

    @property
    def T(self) -> "SparseOperator":  # noqa: N802 - the transpose has this name in numpy and torch
        """The transposed operator, on the same memory."""
        flipped = object.__new__(SparseOperator)
        flipped.shape_in, flipped.shape_out = self.shape_out, self.shape_in
        flipped.matrix, flipped.transposed = self.transposed, self.matrix
        return flipped


def csr_matrix(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """torch's sparse matrix, with the narrowest indices that do."""
    # 32-bit indices halve the memory traffic, and are the ones for which torch's CPU product has MKL.
    index_type = torch.int32 if max(len(values), *shape) < 2**31 else torch.int64
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")  # "beta state", once per process
        return torch.sparse_csr_tensor(
            starts.to(index_type), columns.to(index_type), values, size=shape, check_invariants=False
        )


def _transpose(
    starts: Tensor, columns: Tensor, values: Tensor, n_columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    """CSR arrays of the transpose; rows stay in ascending order within a column."""
    if values.device.type == "cpu":
        # A counting sort, faster than torch's.
        shape = (len(starts) - 1, n_columns)
        flipped = sparse.csr_matrix((values.numpy(), columns.numpy(), starts.numpy()), shape=shape).T.tocsr()
        flipped_starts, flipped_columns = torch.from_numpy(flipped.indptr), torch.from_numpy(flipped.indices)
        return flipped_starts, flipped_columns, torch.from_numpy(flipped.data)
    counts = starts[1:] - starts[:-1]
    row_numbers = torch.arange(len(counts), dtype=torch.int32, device=values.device)
    rows = torch.repeat_interleave(row_numbers, counts, output_size=len(values))
    ordered, order = torch.sort(columns, stable=True)
    new_starts = torch.searchsorted(
        ordered, torch.arange(n_columns + 1, dtype=ordered.dtype, device=values.device)
    )
    del ordered
    return new_starts, rows[order], values[order]

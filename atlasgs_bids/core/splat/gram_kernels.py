"""Compiled product of a sparse matrix with its own transpose (numba); core/gram.py calls it."""

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, boundscheck=False)
def gram_rows(by_columns, by_rows, weights, n_columns, first, last):
    """Rows ``first`` to ``last`` of Tᵀ diag(weights) T, as (entries in each, columns, values).

    ``by_columns`` and ``by_rows`` are T in CSC and in CSR: starts, indices, values. A row of the product is
    summed into a dense one (Gustavson 1978), always in the same order.
    """
    column_starts, rows, column_values = by_columns
    row_starts, columns, values = by_rows
    sums = np.zeros(n_columns, np.float32)
    last_user = np.full(n_columns, -1, np.int64)
    found = np.empty(1 << 16, np.int32)
    entries = np.empty(1 << 16, np.float32)
    lengths = np.zeros(last - first, np.int64)
    n_found = 0
    for i in range(first, last):
        begin = n_found
        for p in range(column_starts[i], column_starts[i + 1]):
            row = rows[p]
            factor = column_values[p] * weights[row]
            if factor == 0:
                continue
            needed = n_found + row_starts[row + 1] - row_starts[row]
            if needed > len(found):
                more = np.empty(2 * needed, np.int32)
                more[:n_found] = found[:n_found]
                found = more
                more_entries = np.empty(2 * needed, np.float32)
                more_entries[:begin] = entries[:begin]
                entries = more_entries
            for q in range(row_starts[row], row_starts[row + 1]):
                j = columns[q]
                if last_user[j] == i:
                    sums[j] += factor * values[q]
                else:
                    last_user[j] = i
                    sums[j] = factor * values[q]
                    found[n_found] = j
                    n_found += 1
        for k in range(begin, n_found):
            entries[k] = sums[found[k]]
        lengths[i - first] = n_found - begin
    return lengths, found[:n_found].copy(), entries[:n_found].copy()

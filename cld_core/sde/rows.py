"""Algebra of the small matrices that act on the halves of u.

A matrix is a tuple of rows. Its entries are floats, or (B,) float64 tensors with one value per example.
A lower triangular matrix is stored without its zeros: row i has i + 1 entries.
"""

from cld_core.sde.number import Number, sqrt

Rows = tuple[tuple[Number, ...], ...]


def transposed(a: Rows[Number]) -> Rows[Number]:
    return tuple(zip(*a, strict=True))


def negated(a: Rows[Number]) -> Rows[Number]:
    return tuple(tuple(-entry for entry in row) for row in a)


def matmul(a: Rows[Number], b: Rows[Number]) -> Rows[Number]:
    return tuple(tuple(dot(row, column) for column in transposed(b)) for row in a)


def dot(a: tuple[Number, ...], b: tuple[Number, ...]) -> Number:
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:], strict=True):
        total = total + x * y
    return total


def cholesky(a: Rows[Number]) -> Rows[Number]:
    """The lower triangular factor of a positive definite matrix, of which only the lower triangle is read."""
    out: list[tuple[Number, ...]] = []
    for i, row in enumerate(a):
        entries: list[Number] = []
        for j in range(i + 1):
            rest = row[j]
            for k in range(j):
                rest = rest - entries[k] * (entries[k] if i == j else out[j][k])
            entries.append(sqrt(rest) if i == j else rest / out[j][j])
        out.append(tuple(entries))
    return tuple(out)


def inverse_of_lower(a: Rows[Number]) -> Rows[Number]:
    """Inverse of a lower triangular matrix; both are stored without zeros."""
    out: list[tuple[Number, ...]] = []
    for i, row in enumerate(a):
        entries: list[Number] = [-dot(row[j:i], tuple(earlier[j] for earlier in out[j:])) / row[i] for j in range(i)]
        entries.append(1.0 / row[i])
        out.append(tuple(entries))
    return tuple(out)


def inverse_of_upper(a: Rows[Number]) -> Rows[Number]:
    """Inverse of an upper triangular square matrix; both are stored with zeros."""
    lower = tuple(row[: i + 1] for i, row in enumerate(transposed(a)))
    return upper(inverse_of_lower(lower))


def upper(lower: Rows[Number]) -> Rows[Number]:
    """The transpose of a lower triangular matrix, stored with zeros."""
    n = len(lower)
    return tuple(tuple(lower[j][i] if j >= i else 0.0 * lower[i][i] for j in range(n)) for i in range(n))

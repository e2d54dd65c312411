"""Algebra of the small matrices that act on the halves of u.

A matrix is a tuple of rows. Its entries are floats, or (B,) float64 tensors with one value per example.
A lower triangular matrix is stored without its zeros: row i has i + 1 entries.
"""

from collections.abc import Sequence
from typing import Any

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
    """Lower triangular factor of a positive definite matrix, whose entries on and below the diagonal are read."""
    out: list[tuple[Number, ...]] = []
    for i, row in enumerate(a):
        entries: list[Number] = []
        for j, other in enumerate(out):
            entries.append((row[j] - dot(tuple(entries), other[:j]) if j else row[j]) / other[j])
        pivot = row[i] - dot(tuple(entries), tuple(entries)) if i else row[i]
        entries.append(sqrt(pivot))
        out.append(tuple(entries))
    return tuple(out)


def with_column(lower: Rows[Number], column: Sequence[Number]) -> Rows[Number]:
    """Lower triangular factor of L L^T + p p^T, for a factor L and a column p, by plane rotations of both."""
    p = list(column)
    out = [list(row) for row in lower]
    for i, row in enumerate(out):
        radius = sqrt(row[i] * row[i] + p[i] * p[i])
        cosine, sine = row[i] / radius, p[i] / radius
        row[i] = radius
        for j in range(i + 1, len(out)):
            out[j][i], p[j] = cosine * out[j][i] + sine * p[j], cosine * p[j] - sine * out[j][i]
    return tuple(tuple(row) for row in out)


def square(lower: Rows[Number]) -> Rows[Number]:
    """A lower triangular matrix, or any square one, with its zeros filled in."""
    n = len(lower)
    return tuple(tuple(row) + (0.0 * row[0],) * (n - len(row)) for row in lower)


def permuted(lower: Rows[Number], order: Sequence[int]) -> Rows[Number]:
    """The square matrix, stored with zeros, whose rows and columns ``order`` are those of a lower triangular one."""
    place = {half: i for i, half in enumerate(order)}
    whole = square(lower)
    return tuple(tuple(whole[place[i]][place[j]] for j in range(len(order))) for i in range(len(order)))


def inverse(a: Rows[Number]) -> Rows[Number]:
    """Inverse of a square matrix stored with zeros, without pivoting; triangular matrices need none."""
    n = len(a)
    out: list[list[Any]] = []
    for i, row in enumerate(a):
        out.append(list(row) + [float(i == j) for j in range(n)])
    for i in range(n):
        pivot = out[i][i]
        out[i] = [entry if j <= i else entry / pivot for j, entry in enumerate(out[i])]
        for k in range(n):
            if k != i:
                factor = out[k][i]
                pairs = enumerate(zip(out[k], out[i], strict=True))
                out[k] = [x if j <= i else x - factor * y for j, (x, y) in pairs]
    return tuple(tuple(row[n:]) for row in out)


def inverse_of_lower(a: Rows[Number]) -> Rows[Number]:
    """Inverse of a lower triangular matrix; both are stored without zeros."""
    out: list[tuple[Number, ...]] = []
    for i, row in enumerate(a):
        entries: list[Number] = [-dot(row[j:i], tuple(earlier[j] for earlier in out[j:])) / row[i] for j in range(i)]
        entries.append(1.0 / row[i])
        out.append(tuple(entries))
    return tuple(out)

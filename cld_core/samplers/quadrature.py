"""Float64 quadrature of small linear equations over the steps of a grid (docs/math.md section 7.2).

du/dt = A(t) u + f(t), with few components n that are the same for every pixel, from t down to t':

    u(t') = Phi(t', t) u(t) - integral over [t', t] of Phi(t', tau) f(tau) dtau.

Each step is cut into panels whose ends differ by a factor of 2 at most, because A and f vary on the scale of t. On a
panel, Gauss-Legendre collocation with 16 nodes gives Phi, and the integrals are summed at the same nodes: both are
exact to rounding.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

NODES = 16


def _collocation() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (16,) and weights (16,) on [0, 1], and the matrix (16, 16) of integrals from 0 to each node."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    # Column l of the inverse holds the Legendre coefficients of the l-th Lagrange polynomial.
    coefficients = np.linalg.inv(np.polynomial.legendre.legvander(x, NODES - 1))
    antiderivative = np.polynomial.legendre.legint(coefficients, lbnd=-1, axis=0)
    up_to_node = np.polynomial.legendre.legvander(x, NODES) @ antiderivative
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2), torch.from_numpy(up_to_node / 2)


_X, _W, _UP_TO = _collocation()


@dataclass(frozen=True)
class Segment:
    """One step, from t down to t'."""

    times: Tensor  # (K,), the nodes tau
    weights: Tensor  # (K,)
    back: Tensor  # (K, n, n), Phi(t', tau)
    whole: Tensor  # (n, n), Phi(t', t)

    def integral(self, field: Tensor) -> Tensor:
        """The second term of u(t'), (n, k), for k functions f at the nodes, ``field`` (K, n, k)."""
        return -torch.einsum("p,pij,pjk->ik", self.weights, self.back, field)

    def gram(self, field: Tensor) -> Tensor:
        """Integral (n, n) of (Phi f) (Phi f)^T: the covariance that white noise along ``field`` (K, n) leaves."""
        carried = torch.einsum("kij,kj->ki", self.back, field)
        return torch.einsum("k,ki,kj->ij", self.weights, carried, carried)


def segments(times: list[float], matrix: Callable[[Tensor], Tensor]) -> list[Segment]:
    """One segment per step of ``times``, which decrease; ``matrix`` maps times (K,) to A (K, n, n), float64."""
    edges = [_panel_edges(end, start) for start, end in pairwise(times)]
    low = torch.tensor([a for step in edges for a, _ in pairwise(step)], dtype=torch.float64)
    width = torch.tensor([b - a for step in edges for a, b in pairwise(step)], dtype=torch.float64)
    nodes = low[:, None] + width[:, None] * _X
    inside, across = _transport(matrix(nodes.flatten()).unflatten(0, nodes.shape), width)
    out, first = [], 0
    for step in edges:
        panels = range(first, first + len(step) - 1)
        first = panels.stop
        back, whole = [], torch.eye(inside.shape[-1], dtype=torch.float64)
        for panel in panels:
            back.append(whole @ inside[panel])
            whole = whole @ across[panel]
        kept = slice(panels.start, panels.stop)
        weights = (width[kept, None] * _W).flatten()
        out.append(Segment(nodes[kept].flatten(), weights, torch.cat(back), whole))
    return out


def _panel_edges(low: float, high: float) -> list[float]:
    """Geometric, from ``low`` > 0 to ``high``."""
    panels = max(1, math.ceil(math.log2(high / low)))
    return [low * (high / low) ** (i / panels) for i in range(panels)] + [high]


def _transport(a: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Phi(low, node), (P, 16, n, n), and Phi(low, high), (P, n, n), of each panel, from A at its nodes.

    X(tau) = Phi(low, tau) solves dX/dtau = -X A, X(low) = I: each of its rows x is a column vector with
    x + integral of A^T x = its start, one linear system of 16 n unknowns for all rows.
    """
    count, n = len(a), a.shape[-1]
    identity = torch.eye(n, dtype=torch.float64)
    system = torch.einsum("p,kl,plij->pkjli", width, _UP_TO, a).reshape(count, NODES * n, NODES * n)
    system = system + torch.eye(NODES * n, dtype=torch.float64)
    rows = torch.linalg.solve(system, identity.repeat(NODES, 1).expand(count, -1, -1))
    inside = rows.unflatten(1, (NODES, n)).transpose(2, 3)
    across = identity - torch.einsum("p,k,pkij,pkjl->pil", width, _W, inside, a)
    return inside, across

"""The score of all halves from that of the scored ones (docs/math.md section 7.3).

The kernel is Gaussian, so the score of all halves is -Sigma^-1 (u - Psi_0 E[x | u]) with the first column Psi_0 of
Psi_t. Its only unknown is E[x | u]. It follows from the score of the scored halves, and the other scores from it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.sde import Diffusion
from cld_core.sde.coefficients import stacked
from cld_core.sde.explained import explained
from cld_core.sde.rows import square


@dataclass(frozen=True)
class WholeScore:
    """Score of all halves = ``of_u`` u + ``of_score`` s, at one time."""

    of_u: Tensor  # (n, n), float64
    of_score: Tensor  # (n, m)
    covariance: Tensor  # (n, n), Sigma


def kernel(sde: Diffusion, t: Tensor) -> Tensor:
    """Sigma at times t (K,), (K, n, n), float64, numerical_eps included."""
    factor = stacked(square(sde.factor(t)), t)
    return factor @ factor.mT


def whole_score(sde: Diffusion, t: float) -> WholeScore:
    """The score of every half at time t.

    If several halves are scored, E[x | u] is the least-squares solution for their noises. The scores of the scored
    halves are kept as they are, so nothing is derived if all are scored.
    """
    at, first = torch.tensor([t], dtype=torch.float64), sde.n - sde.m
    covariance = kernel(sde, at)[0]
    of_u, of_score = torch.zeros(sde.n, sde.n, dtype=torch.float64), torch.zeros(sde.n, sde.m, dtype=torch.float64)
    of_score[first:] = torch.eye(sde.m, dtype=torch.float64)
    if first:
        precision, psi = torch.linalg.inv(covariance), stacked(sde.mean(at), at)[0, :, 0]
        pull = precision @ psi  # the score of all halves is pull E[x | u] - precision u
        found = explained(sde, t)
        x_of_u, x_of_score = (torch.tensor(it, dtype=of_u.dtype) / found.weight for it in (found.of_u, found.of_score))
        of_u[:first] = torch.outer(pull[:first], x_of_u) - precision[:first]
        of_score[:first] = torch.outer(pull[:first], x_of_score)
    return WholeScore(of_u, of_score, covariance)

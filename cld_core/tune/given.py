"""A fitted score that is bound to labels, one for each point."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from cld_core.guidance import Guided
from cld_core.samplers.split import rest
from cld_core.score import for_rows

from .differences import Fitted


@dataclass(frozen=True)
class Given(Fitted):
    """As `Fitted`, with a ``score`` that is bound to the labels of ``points`` points.

    It is evaluated for copies of these points, or of as many others with the same labels: row i belongs to point i
    modulo ``points``. Evaluations of the network are counted: guidance takes two at the times at which it acts.
    """

    points: int = 1

    def alpha(self, u: Tensor, t: float) -> Tensor:
        """`split.rest` of u (k points, nC, ...)."""
        rows = torch.arange(len(u), device=u.device) % self.points
        alphas = []
        for part, which in zip(u.split(self.at_once), rows.split(self.at_once), strict=True):
            score = for_rows(self.score, which)
            self.count(len(part) * (score.networks(t) if isinstance(score, Guided) else 1))
            alphas.append(rest(score, self.sde, part, t))
        return torch.cat(alphas)

    def for_points(self, first: int, last: int) -> "Given":
        score = for_rows(self.score, torch.arange(first, last))
        return dataclasses.replace(self, score=score, points=last - first)

"""Scores given labels: conditional ones, and classifier-free guidance (docs/math.md section 13)."""

import dataclasses

import torch
from torch import Tensor

from .config.sampling import SamplingSpec
from .samplers import Samples
from .score import LabelScore, Score, ScoreFunction


class Conditional:
    """A `cld_core.score.ScoreFunction`: the score given a label for each example of a batch.

    Args:
        score: the score of any labels, such as `cld_core.score.Score`.
        label: (B,), int64.
    """

    def __init__(self, score: LabelScore, label: Tensor) -> None:
        self._score = score
        self._label = label
        self.single_backward = getattr(score, "single_backward", False)

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        return self._score(u, t, self._label)

    def predicted_noise(self, u: Tensor, t: Tensor, *, augmented: Tensor | None = None) -> Tensor:
        """As `cld_core.score.Score.predicted_noise`, of a score that has it."""
        assert isinstance(self._score, Score), "losses are those of a network, not of any score"
        return self._score.predicted_noise(u, t, self._label, augmented=augmented)

    def for_rows(self, rows: Tensor) -> "Conditional":
        """As `cld_core.score.for_rows`."""
        return Conditional(self._score, self._label[rows])


class Guided:
    """s(none) + w (s(label) - s(none)) at the times of guidance, and s(label) at the others.

    At these times, both scores are computed in one batch of twice the size. The score jumps at the
    ends of the interval, so the adaptive solver takes short steps there.

    Args:
        score: the score of any labels.
        label: (B,), int64.
        none: the label that stands for none, which gives the unconditional score.
        spec: its ``guidance`` is w, which acts from ``guidance_from`` to ``guidance_to``.

    Attributes:
        extra: (B,), int64, evaluations of the network beyond one for each evaluation of this score.
    """

    def __init__(self, score: LabelScore, label: Tensor, none: int, spec: SamplingSpec) -> None:
        self._score = score
        self._label = label
        self._none = none
        self._spec = spec
        self._rows = torch.arange(len(label), device=label.device)
        self.extra = torch.zeros_like(label)

    def __call__(self, u: Tensor, t: float | Tensor) -> Tensor:
        rows = self._acting(t)
        if self._spec.guidance == 0:
            return self._score(u, t, self._label.index_fill(0, rows, self._none))
        times = torch.cat([t, t[rows]]) if isinstance(t, Tensor) else t
        label = torch.cat([self._label, torch.full_like(rows, self._none)])
        both = self._score(torch.cat([u, u[rows]]), times, label)
        given, free = both.split([len(u), len(rows)])
        self.extra[self._rows[rows]] += 1
        return given.index_copy(0, rows, free + self._spec.guidance * (given[rows] - free))

    def networks(self, t: float) -> int:
        """The number of evaluations of the network that one of this score takes."""
        acts = self._spec.guidance_from <= t <= self._spec.guidance_to
        return 2 if acts and self._spec.guidance != 0 else 1

    def for_rows(self, rows: Tensor) -> "Guided":
        """As `cld_core.score.for_rows`; evaluations are counted in `extra` of this one."""
        part = Guided(self._score, self._label[rows], self._none, self._spec)
        part._rows = self._rows[rows]
        part.extra = self.extra
        return part

    def _acting(self, t: float | Tensor) -> Tensor:
        """The rows of the batch whose times are in the interval of guidance."""
        first = self._spec.guidance_from
        last = self._spec.guidance_to
        if isinstance(t, Tensor):
            return ((t >= first) & (t <= last)).nonzero()[:, 0]
        count = len(self._label) if first <= t <= last else 0
        return torch.arange(count, device=self._label.device)


def bound(score: Score, spec: SamplingSpec, label: Tensor | None, none: int) -> ScoreFunction:
    """The score for samples with labels (B,); ``score`` itself for samples without labels.

    Args:
        none: the label that stands for none.
    """
    if label is None:
        return score
    if spec.guidance == 1:
        return Conditional(score, label)
    return Guided(score, label, none, spec)


def counted(samples: Samples, score: ScoreFunction) -> Samples:
    """The samples with evaluations of the network, not of ``score``, as their `nfe_each`."""
    extra = getattr(score, "extra", None)
    if extra is None:
        return samples
    # In the adaptive flow, finished samples stay in the batch for a while: evaluations for them do
    # not count.
    nfe_each = samples.nfe_each + torch.minimum(extra, samples.nfe_each)
    return dataclasses.replace(samples, nfe_each=nfe_each)

"""The loss in ranges of t: which times a network still learns at."""

import torch
from torch import Tensor

from cld_core.ranks import Ranks

# Upper ends of the ranges, the same for all runs, so that their curves can be compared. The first range begins at 0.
ENDS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
# Steps whose losses are kept before they are summed up: sums of a few numbers at each step would cost more.
_KEPT = 64


def names() -> list[str]:
    """What the curves are called: the range of t, from and to."""
    starts = (0.0, *ENDS[:-1])
    return [f"loss_at_t/{start:g}_to_{end:g}" for start, end in zip(starts, ENDS, strict=True)]


class LossByTime:
    """The mean loss without weights in each range of t, over all ranks and the steps that were not skipped.

    It stays on the device, so that the host need not wait, and no step depends on it.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._ends = torch.tensor(ENDS[:-1], dtype=torch.float64, device=ranks.device)
        self._ranges = torch.arange(len(ENDS), device=ranks.device)
        self._sums = torch.zeros(2, len(ENDS), dtype=torch.float64, device=ranks.device)
        self._seen: tuple[Tensor, list[Tensor]] | None = None
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def see(self, t: Tensor, losses: list[Tensor]) -> None:
        """This rank's times (B,) of a step and the losses at them, in parts; the next `count` decides about them.

        B is the same in every step.
        """
        self._seen = t, losses

    def count(self, skip: Tensor) -> None:
        """Count what was seen last unless ``skip``, a bool scalar on the device."""
        assert self._seen is not None, "see the losses of a step before you count them"
        t, losses = self._seen
        self._kept.append((t, torch.cat(losses), skip))
        if len(self._kept) == _KEPT:
            self._sum_up()

    def _sum_up(self) -> None:
        if not self._kept:
            return
        t, losses, skips = (torch.stack(parts) for parts in zip(*self._kept, strict=True))
        self._kept.clear()
        counted = (torch.bucketize(t, self._ends)[..., None] == self._ranges) & ~skips[:, None, None]
        # A skipped loss may be infinite, and infinity times 0 is not a number.
        values = losses.double()[..., None].masked_fill(~counted, 0.0)
        self._sums += torch.stack([values.sum((0, 1)), counted.double().sum((0, 1))])

    def take(self) -> dict[str, float]:
        """By name, the means since the last call where any t was drawn. Waits for the device and all ranks."""
        self._sum_up()
        totals, counts = self._ranks.sums(self._sums)
        self._sums.zero_()
        found = zip(names(), totals.tolist(), counts.tolist(), strict=True)
        return {name: total / count for name, total, count in found if count}

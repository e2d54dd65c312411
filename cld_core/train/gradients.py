"""Which gradients are used, and the mean loss of their steps, kept on the device so that the host need not wait."""

import math

import torch
from torch import Tensor

from cld_core.ranks import Ranks

# Good gradients before the first one is compared with their mean.
_SETTLED = 100
# The running mean covers about this many steps.
_MEMORY = 100


class GradientFilter:
    """Tells good gradients from non-finite and exploding ones by their norm before clipping.

    A gradient scaler finds its scale by provoking norms that are not finite: such a step is skipped, but harmless.
    `bad` counts the harmful steps, `take_skipped` all that were skipped.

    Args:
        growth: a norm above this many running means is an explosion; None turns that check off.
        scaled: whether gradients go through a scaler.
    """

    def __init__(self, growth: float | None, device: torch.device, *, scaled: bool) -> None:
        self._growth = math.inf if growth is None else growth
        self._scaled = scaled
        self._mean = torch.zeros((), device=device)
        self._good = torch.zeros((), device=device)
        self._bad = torch.zeros((), device=device)
        self._skipped = torch.zeros((), device=device)

    @torch.no_grad()
    def check(self, norm: Tensor) -> Tensor:
        """Whether the step with a gradient of this norm is to be skipped; a bool scalar on the device."""
        infinite = ~torch.isfinite(norm)
        exploded = (norm > self._growth * self._mean) & (self._good >= _SETTLED) & ~infinite
        skip = infinite | exploded
        self._bad += exploded if self._scaled else skip
        self._skipped += skip
        weight = torch.clamp(1.0 / (self._good + 1.0), min=1.0 / _MEMORY)
        self._mean.copy_(torch.where(skip, self._mean, torch.lerp(self._mean, norm.float(), weight)))
        self._good += ~skip
        return skip

    def bad(self) -> int:
        """Harmful steps since the last `take_skipped`. Waits for the device."""
        return int(self._bad)

    def take_skipped(self) -> int:
        """Skipped steps since the last call. Waits for the device."""
        skipped = int(self._skipped)
        self._bad.zero_()
        self._skipped.zero_()
        return skipped

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean": self._mean, "good": self._good}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._mean.copy_(state["mean"])
        self._good.copy_(state["good"])


class MeanLoss:
    """The mean of the losses of the steps that were not skipped, over all ranks.

    A step that overflows in the forward pass is skipped, and its loss is not finite on some rank.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._sum = torch.zeros((), dtype=torch.float64, device=ranks.device)
        self._good = torch.zeros((), device=ranks.device)

    def add(self, loss: Tensor, skip: Tensor) -> None:
        """Count this rank's ``loss`` of a step unless ``skip``, a bool scalar which is the same on all ranks."""
        self._sum += loss.masked_fill(skip, 0.0)
        self._good += ~skip

    def take(self) -> float | None:
        """The mean over the steps since the last call, None if all were skipped. Waits for the device and all ranks."""
        total, good = float(self._sum), float(self._good)
        self._sum.zero_()
        self._good.zero_()
        return self._ranks.mean(total / good) if good else None

"""Which gradients are stepped on, decided where they are, so that nobody waits for the device."""

import math

import torch
from torch import Tensor

# A gradient is compared with the mean of those before it once there are this many.
_SETTLED = 100
# The mean forgets over about this many steps.
_MEMORY = 100


class Guard:
    """Tells good gradients from non-finite and exploding ones by their norm, before clipping.

    Under a gradient scaler a norm that is not finite is how the scaler finds its scale: such a step is skipped, but
    is no harm. ``bad`` counts the others, ``skipped`` all that were not stepped on.

    Args:
        growth: a norm above this many running means is an explosion; None: none is.
        scaled: whether gradients went through a scaler.
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
        """1 where a step with a gradient of this norm is to be skipped, else 0; a float scalar on the device."""
        infinite = ~torch.isfinite(norm)
        exploded = (norm > self._growth * self._mean) & (self._good >= _SETTLED) & ~infinite
        skip = infinite | exploded
        self._bad += exploded if self._scaled else skip
        self._skipped += skip
        weight = torch.clamp(1.0 / (self._good + 1.0), min=1.0 / _MEMORY)
        self._mean.copy_(torch.where(skip, self._mean, torch.lerp(self._mean, norm.float(), weight)))
        self._good += ~skip
        return skip.float()

    def bad(self) -> int:
        """Steps that were skipped for harm since the last `take_skipped`. Waits for the device."""
        return int(self._bad)

    def take_skipped(self) -> int:
        """All steps that were skipped since the last call. Waits for the device."""
        skipped = int(self._skipped)
        self._bad.zero_()
        self._skipped.zero_()
        return skipped

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean": self._mean, "good": self._good}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._mean.copy_(state["mean"])
        self._good.copy_(state["good"])

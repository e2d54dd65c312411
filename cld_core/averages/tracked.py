"""The power-function averages that training tracks in addition to its moving average."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cld_core.ema import copy_named, move

from .profiles import exponent, key_of


class PowerAverages:
    """Averages of a network's trainable parameters with power-function profiles, one of each relative length.

    Update t multiplies the average by (1 - 1/t)^(gamma + 1) before the new parameters are added (arXiv 2312.02696,
    equation 3): the parameters after update s have the weight (s^(gamma+1) - (s-1)^(gamma+1)) / t^(gamma+1). Each
    average takes as much memory as the weights. Without lengths, nothing is tracked.

    Attributes:
        lengths: relative lengths, as `profiles.Profile` has them.
        averages: for each length, tensors in the order of ``names``.
        began: the step at which t was 0: steps before it have no weight.
    """

    def __init__(self, net: nn.Module, lengths: Sequence[float]) -> None:
        named = [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
        self.names, self.lengths, self.began = [name for name, _ in named], tuple(lengths), 0
        self._live = [parameter for _, parameter in named]
        self.averages = [[parameter.detach().clone() for parameter in self._live] for _ in self.lengths]
        self._powers = [exponent(length) + 1.0 for length in self.lengths]
        # Once the device decides which steps count, only the device knows their number.
        self._updates: int | Tensor = 0

    @property
    def updates(self) -> int:
        """The number of updates so far. Waits for the device if `update_unless` was called."""
        return int(self._updates)

    @property
    def begins(self) -> bool:
        """Whether there are averages that have not been updated yet."""
        return bool(self.lengths) and self.updates == 0

    @torch.no_grad()
    def update(self) -> None:
        """Update each average with the current parameters."""
        if not self.lengths:
            return
        self._updates = updates = self.updates + 1
        live = [parameter.detach() for parameter in self._live]
        for average, power in zip(self.averages, self._powers, strict=True):
            torch._foreach_lerp_(average, live, 1.0 - (1.0 - 1.0 / updates) ** power)

    @torch.no_grad()
    def update_unless(self, skip: Tensor) -> None:
        """Do nothing if ``skip``, a bool scalar on the device, and `update` otherwise. Does not wait for the device."""
        if not self.lengths:
            return
        good = (~skip).double()
        self._updates = updates = self._updates + good
        for average, power in zip(self.averages, self._powers, strict=True):
            kept = (1.0 - 1.0 / torch.clamp(updates, min=1.0)) ** power
            move(average, self._live, ((1.0 - kept) * good).to(average[0].dtype))

    def state_dict(self) -> dict[str, Any]:
        """What `contents.power` reads back; empty without lengths."""
        if not self.lengths:
            return {}
        averages = {
            key_of(length): dict(zip(self.names, average, strict=True))
            for length, average in zip(self.lengths, self.averages, strict=True)
        }
        return {"lengths": list(self.lengths), "began": self.began, "updates": self.updates, "averages": averages}

    def load_state_dict(self, state: Mapping[str, Any] | None, step: int) -> None:
        """Continue from a `state_dict`; if there is none, or one of other lengths, the averages begin at ``step``.

        Raises:
            KeyError, ValueError: its names or shapes are not those of the network.
        """
        if not state or {*state["lengths"]} != {*self.lengths}:
            self.began, self._updates = step, 0
            return
        for length, average in zip(self.lengths, self.averages, strict=True):
            copy_named(self.names, average, state["averages"][key_of(length)])
        self.began, self._updates = int(state["began"]), int(state["updates"])

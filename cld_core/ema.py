"""Moving averages of the weights, which all move at the same steps."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Tensors whose changes are held at once where the device decides.
_PART = 64
# The weight that an average keeps at an update, from the number of updates with it: a number, or float64 on the device.
Decay = Callable[[Any], Any]


class Averages:
    """Averages of a network's trainable parameters, each held once and updated in one sweep.

    Attributes:
        names: of the parameters.
        averages: for each of ``decays``, tensors in the order of ``names``.
    """

    def __init__(self, net: nn.Module, decays: Sequence[Decay]) -> None:
        named = [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
        self.names, self._decays = [name for name, _ in named], decays
        self._live = [parameter for _, parameter in named]
        self.averages = [[parameter.detach().clone() for parameter in self._live] for _ in decays]
        # Once the device decides which steps count, only the device knows their number.
        self._updates: int | Tensor = 0

    @property
    def updates(self) -> int:
        """How often they were updated. Waits for the device if it was left to decide."""
        return int(self._updates)

    @torch.no_grad()
    def update(self, skip: Tensor | None = None) -> None:
        """Move each average a little towards the parameters.

        Args:
            skip: a bool scalar on the device, which decides whether to do nothing; the host does not wait for it.
        """
        if not self.averages:
            return
        live = [parameter.detach() for parameter in self._live]
        if skip is None:
            self._updates = updates = self.updates + 1
            for average, decay in zip(self.averages, self._decays, strict=True):
                torch._foreach_lerp_(average, live, 1.0 - decay(updates))
            return
        good = (~skip).double()
        self._updates = self._updates + good
        counted = torch.clamp(self._updates, min=1.0)
        for average, decay in zip(self.averages, self._decays, strict=True):
            # The kernels for lists want a factor of the same type.
            _move(average, live, ((1.0 - decay(counted)) * good).to(average[0].dtype))

    def _named(self, average: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.names, average, strict=True))

    def _copy(self, average: Sequence[Tensor], found: Mapping[str, Tensor]) -> None:
        """Copy tensors by name into an average: those of a checkpoint, whose network has been found to fit."""
        for name, tensor in self._named(average).items():
            tensor.copy_(found[name])


class Ema(Averages):
    """The exponential moving average.

    After n updates the decay is min(``decay``, (1 + n) / (10 + n)), so that the start is forgotten soon.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        def ramp(updates: Any) -> Any:
            decays = (1.0 + updates) / (10.0 + updates)
            return decays.clamp(max=decay) if isinstance(decays, Tensor) else min(decay, decays)

        super().__init__(net, [ramp])
        (self.average,) = self.averages

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the averaged weights inside the block, and its own again behind it; no third copy is made."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, value in zip(self._live, self.average, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self._named(self.average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of the same network."""
        self._copy(self.average, state["average"])
        self._updates = int(state["updates"])


def _move(average: list[Tensor], live: list[Tensor], weight: Tensor) -> None:
    """Move an average towards the parameters by a factor that only the device knows."""
    # A part at a time, or the changes would take as much memory as the weights.
    for first in range(0, len(average), _PART):
        part = average[first : first + _PART]
        change = torch._foreach_sub(live[first : first + _PART], part)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(part, change)

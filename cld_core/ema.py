"""Exponential moving average of the weights."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Tensors of which `Ema.update_unless` holds the changes at once.
_PART = 64


class Ema:
    """The average of a network's trainable parameters, held once and updated in one sweep.

    After n updates the decay is min(``decay``, (1 + n) / (10 + n)), so that the start is forgotten soon.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        named = [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
        self.names = [name for name, _ in named]
        self._live = [parameter for _, parameter in named]
        self.average = [parameter.detach().clone() for _, parameter in named]
        self.decay = decay
        # Once the device decides which steps count, only the device knows their number.
        self._updates: int | Tensor = 0

    @property
    def updates(self) -> int:
        """How often the average was updated. Waits for the device if `update_unless` was called."""
        return int(self._updates)

    @torch.no_grad()
    def update(self) -> None:
        """Move the average a little towards the parameters."""
        self._updates = updates = self.updates + 1
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self._live], 1 - decay)

    @torch.no_grad()
    def update_unless(self, skip: Tensor) -> None:
        """Do nothing if ``skip``, a bool scalar on the device, and `update` otherwise. Does not wait for the device."""
        good = (~skip).double()
        self._updates = updates = self._updates + good
        decay = torch.clamp((1.0 + updates) / (10.0 + updates), max=self.decay)
        # The kernels for lists want a factor of the same type.
        move(self.average, self._live, ((1.0 - decay) * good).to(self.average[0].dtype))

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
        return {"updates": self.updates, "average": dict(zip(self.names, self.average, strict=True))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            KeyError, ValueError: its names or shapes are not those of the network; nothing was changed.
        """
        copy_named(self.names, self.average, state["average"])
        self._updates = int(state["updates"])


def move(average: list[Tensor], live: list[nn.Parameter], weight: Tensor) -> None:
    """Move an average towards the parameters by a factor that only the device knows."""
    # A part at a time, or the changes would take as much memory as the weights.
    for first in range(0, len(average), _PART):
        part = average[first : first + _PART]
        change = torch._foreach_sub([it.detach() for it in live[first : first + _PART]], part)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(part, change)


def copy_named(names: Sequence[str], average: Sequence[Tensor], found: Any) -> None:
    """Copy tensors by name into an average.

    Raises:
        KeyError, ValueError: their names or shapes are others; nothing was changed.
    """
    assert isinstance(found, dict), "the average is a dictionary of named tensors"
    missing, unknown = set(names) - set(found), set(found) - set(names)
    if missing or unknown:
        raise KeyError(f"averaged weights: missing {sorted(missing)}, unknown {sorted(unknown)}")
    for name, tensor in zip(names, average, strict=True):
        if tuple(found[name].shape) != tuple(tensor.shape):
            text = f"{name} has shape {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
            raise ValueError(f"averaged weights: {text}")
    with torch.no_grad():
        for name, tensor in zip(names, average, strict=True):
            tensor.copy_(found[name])

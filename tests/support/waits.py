"""What would make the host wait for a GPU, noticed on any device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operations that read from the device, or copy a Python number to it.
_WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "lift_fresh", "scalar_tensor"}
_INDEXING = {"index", "index_put", "index_put_"}  # by a mask, which is searched first
_READING = ("tolist", "item", "numpy")


class Waits(TorchDispatchMode):
    """Records in ``names`` each operation inside the block for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITING or (name in _INDEXING and any(_is_mask(i) for i in args[1])):
            self.names.append(name)
        return func(*args, **kwargs or {})

    def watch_reading(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Record the methods, too, that read a tensor on the CPU without an operation."""
        for name in _READING:
            monkeypatch.setattr(torch.Tensor, name, self._recording(name, getattr(torch.Tensor, name)))

    def _recording(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            self.names.append(name)
            return method(*args, **kwargs)

        return recorded


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool

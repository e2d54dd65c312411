"""What would make the host wait for a GPU, noticed on any device."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operations that read from the device, or copy a Python number to it.
_WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "lift_fresh",
    "scalar_tensor",
}
_INDEXING = {"index", "index_put", "index_put_"}  # by a mask, which is searched first
_READING = ("tolist", "item", "numpy")


class Waits(TorchDispatchMode):
    """Records in ``names`` each operation inside the block for which the host would wait."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in _WAITING or (
            name in _INDEXING and any(getattr(i, "dtype", None) == torch.bool for i in args[1])
        ):
            self.names.append(name)
        return func(*args, **kwargs or {})

    def watch_reading(self, monkeypatch):
        """Record the methods, too, that read a tensor on the CPU without an operation."""
        for name in _READING:
            monkeypatch.setattr(
                torch.Tensor, name, self._recording(name, getattr(torch.Tensor, name))
            )

    def _recording(self, name, method):
        def recorded(*args, **kwargs):
            self.names.append(name)
            return method(*args, **kwargs)

        return recorded

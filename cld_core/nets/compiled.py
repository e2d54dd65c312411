"""A network compiled for sampling and likelihoods, with batches padded to a few different sizes."""

from typing import Any

import torch
from torch import Tensor, nn

# The adaptive solver's batch shrinks as rows finish. Each size is compiled separately, so there are only this many.
SIZES = 4


class Compiled(nn.Module):
    """``net`` through `torch.compile`; on GPUs with CUDA graphs ("reduce-overhead").

    Batches are padded with copies of their first row to a multiple of a quarter of the largest batch so far. So a
    handful of sizes is compiled, instead of every size that occurs in the adaptive solver. Results differ from those
    of ``net`` by rounding.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self._largest = 0
        self._on_gpu = next(net.parameters()).is_cuda
        self._call: Any = torch.compile(net, dynamic=False, mode="reduce-overhead" if self._on_gpu else None)

    def padded(self, rows: int) -> int:
        """The size that a batch of ``rows`` is computed with."""
        self._largest = max(self._largest, rows)
        unit = -(-self._largest // SIZES)
        return min(self._largest, -(-rows // unit) * unit)

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        """(B, nC, ...) and (B,) to (B, mC, ...), as ``net``."""
        rows = len(u)
        more = self.padded(rows) - rows
        if more:
            u = torch.cat([u, u[:1].expand(more, *u.shape[1:])])
            t = torch.cat([t, t[:1].expand(more)])
        if not self._on_gpu:
            return self._call(u, t)[:rows]
        # A CUDA graph writes its output into the same memory every time.
        torch.compiler.cudagraph_mark_step_begin()
        return self._call(u, t)[:rows].clone()

"""How long something takes, the GPU's part included."""

from collections.abc import Callable
from typing import Any

import torch

from .findings import Context


def seconds(context: Context, call: Callable[[], Any]) -> float:
    """Seconds from an idle device to an idle device."""
    if context.on_gpu:
        torch.cuda.synchronize()
    begin = context.clock()
    call()
    if context.on_gpu:
        torch.cuda.synchronize()
    return context.clock() - begin

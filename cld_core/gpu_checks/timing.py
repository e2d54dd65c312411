"""How long something takes, the GPU's part included."""

from collections.abc import Callable
from typing import Any

import torch

from cld_core.train.tuning import clock_of

from .findings import Context


def seconds(context: Context, call: Callable[[], Any]) -> float:
    """Seconds from an idle device to an idle device."""
    now = clock_of(torch.device(context.device)) if context.on_gpu else context.clock
    begin = now()
    call()
    return now() - begin

"""A network prepared for training: memory format, precision, compilation, and one copy per rank."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cld_core.nets import precision
from cld_core.ranks import Ranks
from cld_core.recipe.train import TrainSpec

# Training changes no buffer of our networks, so none is broadcast. torch 2.13 renamed the argument.
_renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
_FIXED_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _renamed else "broadcast_buffers": False}


def prepare(net: nn.Module, spec: TrainSpec, ranks: Ranks) -> nn.Module:
    """What to call instead of ``net``, which keeps the parameters: moved to the device, compiled and replicated."""
    device = ranks.device
    net.to(device)
    if spec.channels_last:
        precision.store(net, channels_last=True)
    model: Any = torch.compile(net) if spec.compile else net
    if ranks.world_size == 1:
        return model
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        **_FIXED_BUFFERS,
        bucket_cap_mb=spec.bucket_mb,
        gradient_as_bucket_view=True,
        # Every parameter takes part in every backward pass, but with accumulation the passes differ.
        static_graph=spec.micro_batch is None,
    )


class Autocast(precision.Autocast):
    """A network that computes as the `train` section says, and returns the precision of its input."""

    def __init__(self, net: nn.Module, device: torch.device, spec: TrainSpec) -> None:
        super().__init__(net, device, spec.precision, channels_last=spec.channels_last)

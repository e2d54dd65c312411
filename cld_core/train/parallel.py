"""A network prepared for training: form, precision, and one copy per rank."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cld_core.config.train import TrainSpec
from cld_core.nets import precision
from cld_core.nets.compiled import Watched, compiled
from cld_core.nets.resampling import set_upsampling
from cld_core.ranks import Ranks

from .forms import Choice

_KNOWN = inspect.signature(DistributedDataParallel.__init__).parameters
# Training changes no buffer of our networks, so none is broadcast. torch 2.13 renamed the argument.
_buffers = "forward_sync_buffers" if "forward_sync_buffers" in _KNOWN else "broadcast_buffers"
_FIXED_BUFFERS: dict[str, Any] = {_buffers: False}
# torch 2.6 has no such argument: there, replicas are always made by all ranks together.
_ALONE: dict[str, Any] = {"init_sync": False} if "init_sync" in _KNOWN else {}


def prepare(net: nn.Module, spec: TrainSpec, ranks: Ranks, choice: Choice, *, alone: bool = False) -> nn.Module:
    """What to call instead of ``net``, which keeps the parameters: moved to the device, replicated and compiled.

    With more than one rank it has `no_sync`, as `DistributedDataParallel` (DDP) does.

    Args:
        alone: the other ranks need not take part, and nothing is copied from the first. Where torch cannot make a
            replica so, it is left out, and there is no `no_sync`.
    """
    device = ranks.device
    net.to(device)
    precision.store(net, channels_last=choice.channels_last)
    set_upsampling(net, choice.upsampling)
    if choice.compile == "eager":
        return _replicated(net, spec, ranks, choice, alone)
    # In this order, torch cuts the graph where DDP's buckets end. In one piece, all gradients would be ready at the end
    # of the backward pass, and none could be sent before.
    return compiled(_replicated(Watched(net), spec, ranks, choice, alone), graphs=choice.compile == "graphs")


def _replicated(net: nn.Module, spec: TrainSpec, ranks: Ranks, choice: Choice, alone: bool) -> nn.Module:
    if ranks.world_size == 1 or (alone and not _ALONE):
        return net
    return DistributedDataParallel(
        net,
        device_ids=[ranks.device] if ranks.device.type == "cuda" else None,
        **_FIXED_BUFFERS,
        **(_ALONE if alone else {}),
        bucket_cap_mb=spec.bucket_mb,
        gradient_as_bucket_view=True,
        # Every parameter takes part in every backward pass, but with accumulation the passes differ. It does not go
        # together with compiled graphs that are cut (pytorch issue 109261).
        static_graph=spec.micro_batch is None and choice.compile == "eager" and not alone,
    )


class Autocast(precision.Autocast):
    """A prepared network that computes in the precision of the `train` section and returns that of its input."""

    def __init__(self, net: nn.Module, device: torch.device, spec: TrainSpec, choice: Choice) -> None:
        super().__init__(net, device, spec.precision, channels_last=choice.channels_last)
        self._graphs = choice.compile == "graphs"

    def forward(self, u: torch.Tensor, t: torch.Tensor, *label: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
        if self._graphs:
            # What the last step left in the memory of the graphs, its gradients included, may be overwritten.
            torch.compiler.cudagraph_mark_step_begin()
        return super().forward(u, t, *label, **more)

"""torch's meta device in the place of a GPU: its tensors have no values, so whatever would wait for a value fails.

Training takes the path of GPUs there, from the noise to the fused optimiser. What the device lacks is faked.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cld_core import seeds
from cld_core.data.image_source import ImageStream
from cld_core.loss import ScoreMatching


class BlockingCopy(RuntimeError):
    """A copy to the device that the CPU would wait for."""


class NoBlockingCopies(TorchDispatchMode):
    """Inside, a copy to the device that is not asynchronous is an error, except in functions that are `exempt`."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def exempt(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*arguments, **options):
            self._depth += 1
            try:
                return function(*arguments, **options)
            finally:
                self._depth -= 1

        return called

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        if operation is torch.ops.aten._to_copy.default and not self._depth:
            source, target = arguments[0].device, torch.device(options.get("device") or arguments[0].device)
            if (source.type, target.type) == ("cpu", "meta") and not options.get("non_blocking"):
                raise BlockingCopy("a copy to the device without non_blocking=True")
        return operation(*arguments, **options)


@contextlib.contextmanager
def in_place_of_a_gpu() -> Iterator[NoBlockingCopies]:
    """Inside, `Trainer` works on `torch.device("meta")`, and reading a value from it is an error."""
    copies, generator = NoBlockingCopies(), seeds.generator
    fakes = {
        # A GPU has generators of its own, and pinned memory.
        "cld_core.seeds.generator": lambda *parts, device="cpu": generator(*parts),
        "cld_core.loss.ScoreMatching.draw": copies.exempt(ScoreMatching.draw),
        "cld_core.data.image_source.ImageStream.__next__": copies.exempt(ImageStream.__next__),
        "torch.optim.optimizer._get_fused_kernels_supported_devices": lambda: ["meta", "cpu"],
        "torch.utils._foreach_utils._get_foreach_kernels_supported_devices": lambda: ["meta"],
        "torch.autocast": lambda *_, **__: contextlib.nullcontext(),
    }
    with contextlib.ExitStack() as stack:
        for name, value in fakes.items():
            stack.enter_context(mock.patch(name, value))
        yield copies

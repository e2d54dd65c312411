"""How a network computes: its precision, the memory format of images, and `torch.compile`.

Also, for the whole process, how GPUs compute in float32 and cuDNN chooses its kernels (`using`).
"""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cld_core.errors import RecipeError
from cld_core.sanitize import one_line

# Where to compute; None: on a GPU if one is available.
Device = torch.device | str | None
# By the names of recipes. TF32 is a setting of the whole process (`using`), not of a network.
AUTOCAST = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# The number of sizes to which batches are padded. The adaptive solver's batch shrinks as rows
# finish, and each size is compiled separately.
SIZES = 4
# The most compilations of a process. Each size is compiled with and without gradients, in training
# and in evaluation mode, and for each setting of TF32. torch's own limit is 8, above which it warns
# and does not compile.
LIMIT = 64
# torch's compiler.
BACKEND = "inductor"


def usable(device: Device) -> torch.device:
    """Choose a device, and try to compute there; None: a GPU if one is available, else the CPU.

    Raises:
        RecipeError: torch cannot compute on this device.
    """
    try:
        if device is None:
            return usable("cuda" if torch.cuda.is_available() else "cpu")
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()
    except (AssertionError, RuntimeError, TypeError) as error:
        raise RecipeError(
            f"device={str(device)!r}: torch cannot compute there ({one_line(error, 80)}). "
            "Pass device='cpu', or leave it out: a GPU is used if torch sees one."
        ) from error
    return chosen


@contextlib.contextmanager
def using(*, tf32: bool, fixed_shapes: bool = False) -> Iterator[None]:
    """Compute with these settings of torch inside the block.

    They apply to all threads of the process, and have no effect on CPUs. No other code sets them.

    Args:
        tf32: let GPUs round the factors of float32 products and convolutions to 10 bits of mantissa
            (TF32).
        fixed_shapes: cuDNN times its kernels and keeps the fastest, which pays if the block
            computes with a few shapes many times. Two processes may choose different kernels, and
            each new shape is timed.
    """

    matmul = torch.backends.cuda.matmul
    cudnn = torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
    try:
        matmul.allow_tf32 = tf32
        cudnn.allow_tf32 = tf32
        cudnn.benchmark = fixed_shapes
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


class Autocast(nn.Module):
    """A network that computes in a lower precision and returns the type of its input.

    Args:
        precision: a name in `AUTOCAST`.
        channels_last: pass images with channels last.
    """

    def __init__(
        self, net: nn.Module, device: torch.device, precision: str, *, channels_last: bool
    ) -> None:
        super().__init__()
        self.net = net
        self._device_type = device.type
        self._dtype = AUTOCAST[precision]
        self._channels_last = channels_last

    def forward(self, u: Tensor, t: Tensor, *label: Tensor, **more: Tensor) -> Tensor:
        """Map u (B, nC, ...) and t (B,) to (B, mC, ...), as ``net`` does."""
        if self._channels_last and u.ndim == 4:
            u = u.contiguous(memory_format=torch.channels_last)
        if self._dtype is None:
            return self.net(u, t, *label, **more)
        with torch.autocast(self._device_type, dtype=self._dtype):
            return self.net(u, t, *label, **more).to(u.dtype)


def prepared(net: nn.Module, device: torch.device, precision: str) -> nn.Module:
    """The module that computes ``net`` in ``precision``: ``net`` itself if nothing has to change.

    On GPUs, images are passed in the memory format of the weights.
    """
    channels_last = prefers_channels_last(device) and _stores_channels_last(net)
    if AUTOCAST[precision] is None and not channels_last:
        return net
    return Autocast(net, device, precision, channels_last=channels_last)


def prefers_channels_last(device: torch.device) -> bool:
    """Whether images are computed with channels last by default: on GPUs."""
    return device.type == "cuda"


def store(net: nn.Module, *, channels_last: bool) -> None:
    """Store the weights of convolutions with channels last or first, in place."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    # torch documents this argument alone, but annotates no such overload.
    net.to(memory_format=layout)  # type: ignore[call-overload]


def _stores_channels_last(net: nn.Module) -> bool:
    # The weights of a 1x1 convolution are the same in both formats.
    return any(
        weight.ndim == 4
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not weight.is_contiguous()
        for weight in net.parameters()
    )


def compiled(net: nn.Module, *, graphs: bool = False) -> nn.Module:
    """``net`` through `torch.compile`, one compilation for each size of batch. Results differ by
    rounding.

    Args:
        net: maps (u, t) to a tensor.
        graphs: GPUs replay recorded CUDA graphs. Every result is written into the same memory, so
            call `torch.compiler.cudagraph_mark_step_begin` before each forward pass, and copy
            results that are needed after the next one.
    """
    from torch._dynamo import config

    # torch 2.6 has the older name only.
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    if getattr(config, name) < LIMIT:
        setattr(config, name, LIMIT)
    if next(net.parameters()).is_cuda:
        start_workers()
    mode = "reduce-overhead" if graphs else None
    made: Any = torch.compile(net, dynamic=False, backend=BACKEND, mode=mode)
    return made


def start_workers() -> None:
    """Start the processes in which torch compiles for GPUs, unless they run.

    Slurm also sends SIGUSR2 to them, which would end them and their compilations, so they inherit a
    mask that blocks it. SIGTERM is not blocked, because the pool ends its processes with it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        # Importing it may start them.
        from torch._inductor.async_compile import AsyncCompile

        AsyncCompile.warm_pool()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Compiled(nn.Module):
    """``net`` compiled for sampling and likelihoods; on GPUs with CUDA graphs.

    Batches are padded with copies of their first row to a multiple of a quarter of the largest
    batch so far. So a few sizes are compiled, not all that occur in the adaptive solver. Results
    differ from those of ``net`` by rounding.

    Attributes:
        single_backward: a result may be differentiated once only, because compiled code may
            overwrite saved tensors.
    """

    single_backward = True

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self._largest = 0
        self._on_gpu = next(net.parameters()).is_cuda
        self._call: Any = compiled(net, graphs=self._on_gpu)

    def padded(self, rows: int) -> int:
        """The size to which a batch of ``rows`` is padded."""
        self._largest = max(self._largest, rows)
        unit = -(-self._largest // SIZES)
        return min(self._largest, -(-rows // unit) * unit)

    def forward(self, u: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        """Map u (B, nC, ...) and t (B,) to (B, mC, ...), as ``net`` does."""
        rows = len(u)
        more = self.padded(rows) - rows
        inputs = (u, t, *label)
        if more:
            inputs = tuple(
                torch.cat([part, part[:1].expand(more, *part.shape[1:])]) for part in inputs
            )
        if self._on_gpu:
            torch.compiler.cudagraph_mark_step_begin()
        result = self._call(*inputs)[:rows]
        # A CUDA graph writes its output into the same memory every time.
        return result.clone() if self._on_gpu else result

"""How GPUs compute in float32 and how cuDNN chooses its kernels. These settings of torch are changed here only.

They hold for the whole process, so they are set for a block and restored after it. On CPUs they change nothing.
"""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def using(*, tf32: bool, fixed_shapes: bool = False) -> Iterator[None]:
    """Compute with these settings inside the block, on all devices and in all threads of the process.

    Args:
        tf32: let GPUs round the factors of float32 products and convolutions to 10 bits of mantissa (TF32).
        fixed_shapes: the block computes with a few shapes many times, so that cuDNN may time its kernels and keep the
            fastest. Two processes may choose differently, and every new shape is timed again.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
    try:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = tf32, tf32, fixed_shapes
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before

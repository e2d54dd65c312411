"""The best that the machine can do: products, convolutions, memory, disk.

python -m benchmarks limits
"""

import functools
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.harness import Report, Row, Settings, interleaved


def topic(settings: Settings) -> Report:
    report = Report(topic="limits", title="the best that the machine can do")
    n = 256 if settings.quick else 2048
    rates = flop_rates(settings, n)
    for name, (seconds, rate) in rates.items():
        report.rows.append(
            Row(name=name, seconds=seconds, best=seconds, note=f"{rate / 1e9:.0f} GFLOP/s")
        )
    bandwidth = memory_bandwidth(settings)
    report.rows.append(
        Row(
            name="copy in memory", seconds=None, note=f"{bandwidth / 1e9:.1f} GB/s read and written"
        )
    )
    size = 2**22 if settings.quick else 2**28
    rate = disk_bandwidth(settings.work, size)
    report.rows.append(
        Row(
            name="write and fsync",
            seconds=size / rate,
            note=f"{rate / 1e9:.2f} GB/s, {size >> 20} MiB",
        )
    )
    return report


def flop_rates(settings: Settings, n: int) -> dict[str, tuple[float, float]]:
    """Best seconds and FLOP/s of (n, n) by (n, n) products, by torch and oneDNN, and of a 3x3
    convolution."""
    device = settings.device
    a, b = torch.randn(2, n, n, device=device)
    half_a, half_b = a.bfloat16(), b.bfloat16()
    images = torch.randn(16, 128, 32, 32, device=device)
    weight = torch.randn(128, 128, 3, 3, device=device)
    half_images, half_weight = images.bfloat16(), weight.bfloat16()
    product, convolution = 2.0 * n**3, 2.0 * 16 * 128 * 128 * 9 * 32 * 32
    calls = {
        "product, float32": (lambda: a @ b, product),
        "product, bfloat16": (lambda: half_a @ half_b, product),
        "3x3 convolution, float32": (lambda: F.conv2d(images, weight, padding=1), convolution),
        "3x3 convolution, bfloat16": (
            lambda: F.conv2d(half_images, half_weight, padding=1),
            convolution,
        ),
    }
    if device == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        linear = torch.ops.mkldnn._linear_pointwise
        calls["product, float32, oneDNN"] = (lambda: linear(a, b, None, "none", [], ""), product)
    times = interleaved(
        {name: call for name, (call, _) in calls.items()}, settings.rounds, settings
    )
    return {
        name: (min(times[name]), flops / min(times[name])) for name, (_, flops) in calls.items()
    }


@functools.cache
def memory_bandwidth(settings: Settings) -> float:
    """Bytes per second, read and written, of a copy that is too large for the caches."""
    source = torch.empty(2**20 if settings.quick else 2**26, device=settings.device).fill_(1.0)
    target = torch.empty_like(source)
    times = interleaved({"copy": lambda: target.copy_(source)}, settings.rounds, settings)
    return 2 * source.nbytes / min(times["copy"])


def disk_bandwidth(folder: Path, size: int) -> float:
    """Bytes per second of writing one file of ``size`` bytes until it is on the disk; the best of
    three."""
    data = os.urandom(2**20) * (size >> 20)
    path = folder / "bandwidth"
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        times.append(time.perf_counter() - begin)
        path.unlink()
    return size / min(times)


@functools.cache
def product_rate(settings: Settings) -> float:
    """Best FLOP/s of float32 products, by torch or oneDNN."""
    rates = flop_rates(settings, 256 if settings.quick else 2048)
    return max(rate for name, (_, rate) in rates.items() if name.startswith("product, float32"))

"""Batches of CIFAR-10 size, compared with torchvision and a DataLoader with 2 workers.

python -m benchmarks data
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import VisionDataset

from benchmarks.harness import BASELINE, Report, Settings, interleaved, rows_of
from benchmarks.limits import memory_bandwidth
from cld_core.config.data import ImageDataSpec
from cld_core.data.images import StoredSource
from tests.support.images import make_images

BATCH = 128
TARGET = 20.0


class PlainImages(VisionDataset):
    """Like torchvision's CIFAR10 after reading: an array in memory, and a PIL image for each
    item."""

    def __init__(self, images: torch.Tensor) -> None:
        steps = [
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
        super().__init__("", transform=transforms.Compose(steps))
        self.data = images.permute(0, 2, 3, 1).contiguous().numpy()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), 0


def plain_batches(images: torch.Tensor, batch: int) -> Iterator[object]:
    """Endless batches of a DataLoader, whose workers persist between epochs."""
    loader = DataLoader(
        PlainImages(images),
        batch_size=batch,
        shuffle=True,
        num_workers=2,
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        yield from loader


def batches_of(source: StoredSource, batch: int) -> Iterator[object]:
    """Batches as a training step takes them."""
    return (source.batch(0, 0, step, batch, slice(0, batch)) for step in itertools.count())


def take(batches: Iterator[object], count: int) -> None:
    for _ in itertools.islice(batches, count):
        pass


def _let_workers_finish() -> None:
    """Wait until the loader's workers have read ahead, so that their work is not counted as
    ours."""
    time.sleep(0.5)


def topic(settings: Settings) -> Report:
    # More batches than the workers have prefetched in the round before (2 each).
    count, batch, batches = (64, 8, 8) if settings.quick else (20_000, BATCH, 200)
    folder = make_images(
        settings.work / "images", size=32, splits={"train": count, "validation": 1}
    )
    spec = ImageDataSpec(name="folder", path=str(folder), size=32)
    source, on_disk = (
        StoredSource(it, settings.device) for it in (spec, replace(spec, cache="disk"))
    )
    iterators = {
        BASELINE: plain_batches(source.train.batch(torch.arange(count)).cpu(), batch),
        "cldctl": batches_of(source, batch),
        "cldctl, cache: disk": batches_of(on_disk, batch),
    }
    calls = {name: partial(take, iterator, batches) for name, iterator in iterators.items()}
    times = interleaved(calls, settings.rounds, settings, burst_s=0.0, before=_let_workers_finish)
    notes = {
        name: f"{batch * batches / min(seconds):,.0f} images/s at best"
        for name, seconds in times.items()
    }
    rows = rows_of(times, targets={"cldctl": TARGET}, notes=notes)
    title = (
        f"{batches} batches of {batch} images of 32x32, randomly mirrored; baseline: "
        f"torchvision, 2 workers"
    )
    # One byte is read and one float32 written per value.
    moved = batches * batch * 3 * 32 * 32 * 5
    limit = moved / memory_bandwidth(settings)
    report = Report(topic="data", title=title, rows=rows)
    report.notes.append(
        f"limit: {moved / 1e6:.0f} MB are moved: {1e3 * limit:.1f} ms at the bandwidth of a copy"
    )
    return report

"""TFRecord files, with damage that their checksums notice and damage that they do not."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .campaign import Target
from .mutations import damaged

_SIZE = 16


def _records() -> list[bytes]:
    from tests.cld_core.data.formats import celebahq_images, example, image_example

    return [image_example(celebahq_images(1, _SIZE)[0]), example(shape=[1, 2], data=[b"x"] * 5, label=[1.5, 2.5])]


def _framed(rng: random.Random, record: bytes) -> bytes:
    """A record with right checksums; its length may be another."""
    from cld_core.data.tfrecord import masked_crc32c

    length = len(record)
    if rng.random() < 0.2:
        length = rng.choice((0, 1, length + 1, 2**26, 2**30, 2**31, 2**63, 2**64 - 1))
    header = struct.pack("<Q", length)
    return header + struct.pack("<I", masked_crc32c(header)) + record + struct.pack("<I", masked_crc32c(record))


def _make(rng: random.Random, folder: Path) -> Callable[[], Any]:
    from cld_core.data import celebahq

    kind = rng.randrange(3)
    records = [damaged(rng, record) if kind else record for record in rng.choices(_records(), k=rng.randint(1, 3))]
    if kind == 2:
        records.append(rng.choice((b"\x0a\x80\x80\x04" + b"\x0a\x00" * 32768, b"\x0a" * 5000, b"\xff" * 100)))
    content = b"".join(_framed(rng, record) for record in records)
    if not kind:
        content = damaged(rng, content)
    path = folder / "train-r04-s-0000-of-0001.tfrecords"
    path.write_bytes(content)
    (folder / "validation-r04-s-0000-of-0001.tfrecords").write_bytes(content)

    def read() -> None:
        plan = celebahq.plan_celebahq(folder, _SIZE, {})
        for unit in plan.units["train"]:
            for _ in unit.read():
                pass

    return read


def _prepare() -> None:
    _records()


TARGET = Target("tfrecord", _make, _prepare)

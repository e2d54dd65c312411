"""Archives of data sets: zip files of pictures, tar archives of TFRecords, CIFAR-10's archive and its pickles."""

from __future__ import annotations

import gzip
import io
import pickletools
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .campaign import Target
from .mutations import damaged

SIZE = 16


@cache
def _pictures() -> dict[str, bytes]:
    from PIL import Image

    made = {}
    for number, form in enumerate(("PNG", "JPEG", "BMP", "GIF")):
        out = io.BytesIO()
        Image.radial_gradient("L").resize((20, 24)).rotate(40 * number).convert("RGB").save(out, form)
        made[f"more/{number}.{form.lower()}"] = out.getvalue()
    return made


@cache
def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _pictures().items():
            archive.writestr(name, content)
    return out.getvalue()


@cache
def _shards() -> dict[str, bytes]:
    from tests.cld_core.data.formats import celebahq_images, image_example, tfrecord

    images = celebahq_images(4, SIZE)
    return {
        f"celeba-tfr/{split}/{split}-r04-s-0000-of-0001.tfrecords": tfrecord([image_example(image) for image in some])
        for split, some in (("train", images[:3]), ("validation", images[3:]))
    }


@cache
def _batches() -> dict[str, bytes]:
    from tests.cld_core.data.formats import CIFAR_BATCHES, cifar_batch, cifar_rows

    return {name: cifar_batch(cifar_rows(2, seed)) for seed, name in enumerate(CIFAR_BATCHES)}


def _tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _with_sum(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _odd_headers(rng: random.Random, content: bytes) -> bytes:
    """Tar headers that say something odd, with the right checksums."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 2)):
        at = 512 * rng.choice([n for n in range(len(data) // 512) if data[512 * n + 257 : 512 * n + 262] == b"ustar"])
        header = data[at : at + 512]
        match rng.randrange(5):
            case 0:  # A size, in binary: negative, huge.
                size = rng.choice((-512, -1, -(2**62), 2**62, 2**40, 0, 1, 10**9))
                header[124:136] = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)
            case 1:
                header[124:136] = b"%011o\0" % rng.choice((0, 1, 511, 2**32, 8**11 - 1))
            case 2:
                header[156:157] = rng.choice((b"L", b"K", b"x", b"g", b"S", b"1", b"2", b"3", b"6", b"5", b"\xff"))
            case 3:
                header[0:100] = rng.choice((b"../../x", b"/etc/x", b"\xff\x1b[31m", b"a" * 100)).ljust(100, b"\0")
            case 4:
                header[rng.randrange(512)] = rng.randrange(256)
        data[at : at + 512] = _with_sum(header)
    return bytes(data)


def _odd_zip(rng: random.Random, content: bytes) -> bytes:
    """Zip entries that lie about themselves."""
    data = bytearray(content)
    places = [n for n in range(len(data) - 46) if data[n : n + 4] == b"PK\x01\x02"]
    at = rng.choice(places)
    form, offset = rng.choice((("<I", 20), ("<I", 24), ("<I", 42), ("<H", 8), ("<H", 10), ("<H", 28), ("<H", 30)))
    most = 256 ** struct.calcsize(form) - 1
    struct.pack_into(form, data, at + offset, rng.choice((0, 1, 8, 12, 14, 99, 255, most // 2, most - 1, most)))
    return bytes(data)


def _bomb(rng: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.png", "w") as file:
        file.write(_pictures()["more/0.png"])
        for _ in range(rng.choice((10, 200))):
            file.write(bytes(2**20))
    return out.getvalue()


def _odd_pickle(rng: random.Random, content: bytes) -> bytes:
    """Opcodes at random places, also with large arguments, and tuples in tuples."""
    codes = [code.code.encode("latin-1") for code in pickletools.opcodes]
    places = [place for _, _, place in pickletools.genops(content) if place is not None]
    data = bytearray(content)
    for place in sorted(rng.sample(places, rng.randint(1, 3)), reverse=True):
        extra = rng.choice(
            (
                rng.choice(codes),
                b"r" + struct.pack("<I", rng.choice((2**20, 2**31, 2**32 - 1))),
                b"\x8e" + struct.pack("<Q", rng.choice((2**31, 2**62))),
                b"\x96" + struct.pack("<Q", rng.choice((2**31, 2**40, 2**62))),
                b"\x8b" + struct.pack("<i", rng.choice((-1, 2**31 - 1))),
                b")" + b"2\x86" * 60,
                b"}" + b")" + b"2\x86" * 60 + b"Ns",
                b"(" * 10_000,
                b"cos\nsystem\n(S'true'\ntR",
                b"c__builtin__\neval\n",
                b"cnumpy\ndtype\n",
                b"I" + b"9" * 5000 + b"\n",
            )
        )
        data[place : place + rng.randrange(2)] = extra
    return bytes(data)


def _make(rng: random.Random, folder: Path) -> Callable[[], Any]:
    from cld_core.data.build import build
    from cld_core.data.celebahq import plan_celebahq
    from cld_core.data.prepare import prepare, verify

    out = folder / "out"

    def check() -> None:
        verify(out)

    match rng.randrange(5):
        case 0 | 1:
            source = folder / "p.zip"
            content = rng.choice((damaged, _odd_zip, lambda rng, _: _bomb(rng)))(rng, _zip())
            source.write_bytes(content)
            return lambda: (prepare("folder", source, out, size=8, split=0.5), check())
        case 2:
            source = folder / "c.tar"
            source.write_bytes(rng.choice((damaged, _odd_headers, _odd_headers))(rng, _tar(_shards())))
            return lambda: (build(plan_celebahq(source, SIZE, {}), out), check())
        case 3:
            source = folder / "a.tar.gz"
            members = {f"cifar-10-batches-py/{name}": content for name, content in _batches().items()}
            plain = _tar(members)
            match rng.randrange(3):
                case 0:
                    source.write_bytes(damaged(rng, gzip.compress(plain, 1)))
                case 1:
                    source.write_bytes(gzip.compress(_odd_headers(rng, plain), 1))
                case 2:
                    source.write_bytes(gzip.compress(plain, 1) + gzip.compress(bytes(2**26), 1) * rng.choice((1, 20)))
            return lambda: (prepare("cifar10", source, out, expect={}), check())
        case _:
            source = folder / "batches"
            source.mkdir()
            for name, content in _batches().items():
                (source / name).write_bytes(rng.choice((damaged, _odd_pickle, _odd_pickle))(rng, content))
            return lambda: (prepare("cifar10", source, out, expect={}), check())


def _prepare() -> None:
    import torch

    from cld_core.data import prepare  # noqa: F401 (forks have it)

    torch.set_num_threads(1)
    _zip(), _shards(), _batches()


TARGET = Target("archives", _make, _prepare)

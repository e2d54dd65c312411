"""Pictures, zip files of them, and the records of prepared sets."""

from __future__ import annotations

import io
import json
import pickletools
import random
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .campaign import Target
from .mutations import changed, damaged, json_bytes

SIZE = 16
# Numbers that sizes, offsets and counts of hostile files have.
NUMBERS = (0, 1, 2, 255, 4095, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**64 - 1)


def _numbered(rng: random.Random, data: bytearray, place: int, form: str) -> None:
    """Put an odd number of this form at a place."""
    struct.pack_into(form, data, place, rng.choice(NUMBERS) & 256 ** struct.calcsize(form) - 1)


def _prepare() -> None:
    import torch

    from cld_core.data import folder, images, prepare, store  # noqa: F401 (forks have them)

    torch.set_num_threads(1)
    for made in (_pictures, _zip, _bomb, _prepared):
        made()


# --- pictures


@cache
def _pictures() -> dict[str, list[bytes]]:
    from PIL import Image

    Image.init()
    base = Image.radial_gradient("L").resize((20, 24)).convert("RGB")
    made: dict[str, list[bytes]] = {
        "EPS": [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(x) (w) file\nshowpage\n"]
    }
    for form in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "ICO", "TGA", "DDS", "PDF", "EPS", "JPEG2000"):
        for mode in ("RGB", "RGBA", "L", "P", "I;16", "F"):
            out = io.BytesIO()
            try:
                base.convert(mode).save(out, form)
            except (OSError, ValueError, KeyError, SystemError):
                continue
            made.setdefault(form, []).append(out.getvalue())
    return made


def _sized(rng: random.Random, form: str, content: bytes) -> bytes:
    """A picture that claims to be of another size."""
    data = bytearray(content)
    match form:
        case "PNG":
            _numbered(rng, data, 16, ">I"), _numbered(rng, data, 20, ">I")
            struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
        case "GIF":
            _numbered(rng, data, 6, "<H"), _numbered(rng, data, 8, "<H")
        case "BMP":
            _numbered(rng, data, 18, "<I"), _numbered(rng, data, 22, "<I")
        case "JPEG" if (at := data.find(b"\xff\xc0")) > 0:
            _numbered(rng, data, at + 5, ">H"), _numbered(rng, data, at + 7, ">H")
        case _:
            return damaged(rng, content)
    return bytes(data)


def _picture(rng: random.Random, folder: Path) -> Callable[[], Any]:
    from cld_core.data import folder as module

    form = rng.choice(list(_pictures()))
    content = rng.choice(_pictures()[form])
    content = rng.choice((_sized(rng, form, content), damaged(rng, content), content))
    picture = module._Picture(f"a.{rng.choice(('png', 'jpg', 'gif'))}", len(content), lambda: content)
    return lambda: module._make(picture, SIZE)


# --- archives


@cache
def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for form in ("PNG", "JPEG", "BMP", "GIF"):
            archive.writestr(f"more/a.{form.lower()}", _pictures()[form][0])
    return out.getvalue()


@cache
def _bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", _pictures()["PNG"][0] + bytes(2**27))
    return out.getvalue()


def _odd_zip(rng: random.Random, content: bytes) -> bytes:
    """An entry that lies about itself."""
    data = bytearray(content)
    at = rng.choice([n for n in range(len(data) - 46) if data[n : n + 4] == b"PK\x01\x02"])
    offset, form = rng.choice(((20, "<I"), (24, "<I"), (42, "<I"), (8, "<H"), (10, "<H"), (28, "<H"), (30, "<H")))
    _numbered(rng, data, at + offset, form)
    return bytes(data)


def odd_pickle(rng: random.Random, content: bytes) -> bytes:
    """Opcodes at random places, also with large arguments, and tuples in tuples, which take years to hash."""
    codes = [code.code.encode("latin-1") for code in pickletools.opcodes]
    odd = (
        *(b"\x8e" + struct.pack("<Q", 2**62), b"\x96" + struct.pack("<Q", 2**40), b"r" + struct.pack("<I", 2**31)),
        *(b"\x8a\x08" + struct.pack("<q", 2**62), b"}" + b")" + b"2\x86" * 60 + b"Ns", b"(" * 10_000),
        *(b"cos\nsystem\n(S'true'\ntR", b"c__builtin__\neval\n", b"cnumpy\ndtype\n", b"I" + b"9" * 5000 + b"\n"),
    )
    data = bytearray(content)
    places = [place for _, _, place in pickletools.genops(content) if place is not None]
    for place in sorted(rng.sample(places, rng.randint(1, 3)), reverse=True):
        data[place : place + rng.randrange(2)] = rng.choice((rng.choice(codes), *odd))
    return bytes(data)


def _archive(rng: random.Random, folder: Path) -> Callable[[], Any]:
    from cld_core.data.prepare import prepare, verify

    out, source = folder / "out", folder / "p.zip"
    source.write_bytes(rng.choice((damaged, _odd_zip, lambda *_: _bomb()))(rng, _zip()))
    return lambda: (prepare("folder", source, out, size=8, split=0.5), verify(out))


# --- prepared sets


def _read_images(root: Path, size: int) -> None:
    import torch

    from cld_core.config.data import ImageDataSpec
    from cld_core.data import store
    from cld_core.data.images import open_images

    spec = ImageDataSpec(path=str(root), size=size)
    store.require(spec)
    store.split_of(spec, "train")
    images = open_images(root, "train", size=size)
    images.batch(torch.arange(min(images.n, 64)))


def _plan(**more: Any) -> Any:
    import numpy as np

    from cld_core.data.prepare import Part, Plan

    def part(split: Any, number: int, count: int) -> Any:
        images = np.zeros((count, 3, 8, 8), np.uint8)
        return Part(split=split, name=f"part {number}", fingerprint=str(number), read=lambda: images)

    parts = [part(split, number, count) for split, count in (("train", 5), ("validation", 3)) for number in range(2)]
    return Plan(name="folder", size=8, source="tests", parts=parts, **more)


@cache
def _prepared() -> Path:
    """A prepared set, and beside it the same, unfinished."""
    from cld_core.data.prepare import build
    from cld_core.errors import DataError

    root = Path(tempfile.mkdtemp(prefix="fuzz-prepared-"))
    build(_plan(), root / "set")
    try:
        build(_plan(expect={"validation": 1}), root / "other")
    except DataError:
        assert (root / "other.partial" / "progress.json").is_file()
    return root


def _record(rng: random.Random, folder: Path) -> Callable[[], Any]:
    from cld_core.data.prepare import build, verify

    which, name = rng.choice((("set", "about.json"), ("other.partial", "progress.json")))
    root = folder / which
    shutil.copytree(_prepared() / which, root)
    content = (root / name).read_bytes()
    content = damaged(rng, content) if rng.random() < 0.3 else json_bytes(changed(rng, json.loads(content)))
    (root / name).write_bytes(content)
    if which != "set":
        return lambda: (build(_plan(), folder / "other"), verify(folder / "other"))
    return lambda: (_read_images(root, 8), verify(root))


TARGETS = [
    Target("archives", _archive, _prepare),
    Target("images", _picture, _prepare),
    Target("prepared", _record, _prepare),
]

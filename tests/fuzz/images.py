"""Pictures: damaged ones, sizes that fill a machine, and formats that have no business in a data set."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .campaign import Target
from .mutations import damaged

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_OTHERS = ("ICO", "PCX", "SGI", "TGA", "MSP", "DDS", "IM", "SPIDER", "PDF", "EPS", "JPEG2000", "ICNS")


@cache
def _pictures() -> dict[str, list[bytes]]:
    from PIL import Image

    base = Image.radial_gradient("L").resize((20, 24)).convert("RGB")
    made: dict[str, list[bytes]] = {}
    for form in (*_FORMATS, *_OTHERS):
        for mode in ("RGB", "RGBA", "L", "P", "1", "I;16", "CMYK", "F"):
            out = io.BytesIO()
            try:
                base.convert(mode).save(out, form)
            except (OSError, ValueError, KeyError, SystemError):
                continue
            made.setdefault(form, []).append(out.getvalue())
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        out = io.BytesIO()
        base.save(out, "TIFF", compression=compression)
        made["TIFF"].append(out.getvalue())
    made["EPS"].append(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) (w) file\nshowpage\n")
    return made


def _sized(rng: random.Random, form: str, content: bytes) -> bytes:
    """A picture that claims to be of another size."""
    data = bytearray(content)
    width, height = (rng.choice((0, 1, 7000, 65_535, 2**31 - 1, 2**32 - 1)) for _ in range(2))
    match form:
        case "PNG":
            struct.pack_into(">II", data, 16, width, height)
            struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
        case "GIF":
            struct.pack_into("<HH", data, 6, width & 0xFFFF, height & 0xFFFF)
        case "BMP":
            struct.pack_into("<II", data, 18, width, height)
        case "PPM":
            data[3:8] = b"%d %d" % (width, height)
        case "JPEG" if (at := data.find(b"\xff\xc0")) > 0:
            struct.pack_into(">HH", data, at + 5, height & 0xFFFF, width & 0xFFFF)
        case _:
            return damaged(rng, content)
    return bytes(data)


def _make(rng: random.Random, folder: Path) -> Callable[[], Any]:
    from cld_core.data import folder as folder_module

    form = rng.choice(_FORMATS if rng.random() < 0.85 else _OTHERS)
    content = rng.choice(_pictures().get(form) or _pictures()["EPS"])
    match rng.randrange(4):
        case 0:
            content = _sized(rng, form, content)
        case 1 | 2:
            content = damaged(rng, content)
    picture = folder_module._Picture(f"a.{rng.choice(('png', 'jpg', 'gif'))}", len(content), lambda: content)
    return lambda: folder_module._make(picture, 16)


def _prepare() -> None:
    from PIL import Image

    from cld_core.data import folder  # noqa: F401 (forks have it)

    Image.init()
    _pictures()


TARGET = Target("images", _make, _prepare)

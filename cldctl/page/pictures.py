"""Pictures of samples that a page shows, each once, within a budget of bytes."""

import base64
import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cld_core.run import RunFolder
from cld_core.small_files import by_age, read_bytes

from .curves import Board
from .places import Places

# The newest pictures of `samples/` and of evaluations that are looked at.
_NEWEST, _EVALUATIONS = 12, 100
# Of one picture, and of all of them together except for the first.
_PICTURE_BYTES, _ALL_BYTES = 16 * 2**20, 2**20
# Larger ones are compared by their bytes, not by what they show.
_MOST_PIXELS = 16 * 2**20
# A narrower picture is one of pixels that people want to tell apart.
_SMALL = 300
PNG = b"\x89PNG\r\n\x1a\n"
_STEP = re.compile(r"step_(\d{1,18})(?:_(.{1,80}))?")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG in the page; ``width`` and ``height`` are in pixels, and 0 if the file does not tell them."""

    caption: str
    content: bytes
    width: int
    height: int

    @property
    def source(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.content).decode()}"

    @property
    def is_small(self) -> bool:
        return 0 < self.width < _SMALL


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """What is shown, the newest samples first; the captions of files that are not pictures; how many are left out."""

    shown: list[Picture]
    refused: list[str]
    left_out: int


def gallery(run: RunFolder, board: Board, places: Places) -> Gallery:
    """The pictures of a run: of `samples/`, of evaluations, and of TensorBoard, in this order."""
    shown: list[Picture] = []
    refused: list[str] = []
    known: set[bytes] = set()
    left_out, room = 0, _ALL_BYTES
    for caption, content in _found(run, board, places):
        picture = _picture(caption, content)
        if picture is None:
            refused.append(caption)
            continue
        what = _what_it_shows(picture)
        if what in known:
            continue
        known.add(what)
        if shown and len(content) > room:
            left_out += 1
            continue
        room -= len(content) if shown else 0
        shown.append(picture)
    return Gallery(shown=shown, refused=refused, left_out=left_out)


def _found(run: RunFolder, board: Board, places: Places) -> Iterator[tuple[str, bytes]]:
    samples = by_age(places.inside(run.samples.glob("*.png")))[-_NEWEST:]
    yield from ((_caption(file.stem), content_of(file)) for file in reversed(samples))
    for tag, (step, content) in board.pictures.items():
        yield f"step {step:,}, {tag}", content
    evaluated = by_age(places.inside(run.evals.glob("*/samples.png")))[-_EVALUATIONS:]
    yield from ((f"evaluation {file.parent.name}", content_of(file)) for file in reversed(evaluated))


def _caption(stem: str) -> str:
    found = _STEP.fullmatch(stem)
    if found is None:
        return stem
    return f"step {int(found[1]):,}" + (f", {found[2]}" if found[2] else "")


def content_of(file: Path) -> bytes:
    """What is in a picture; empty if it cannot be read, is a link, or is larger than any picture of a run."""
    try:
        return read_bytes(file, limit=_PICTURE_BYTES)
    except OSError:
        return b""


def _picture(caption: str, content: bytes) -> Picture | None:
    """None for anything but a PNG: a run folder must not smuggle files into a page."""
    if not content.startswith(PNG):
        return None
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    has_size = content[12:16] == b"IHDR" and max(width, height) < 2**31
    return Picture(caption=caption, content=content, width=width if has_size else 0, height=height if has_size else 0)


def _what_it_shows(picture: Picture) -> bytes:
    """A digest of the pixels: the same samples may be compressed in different ways; of the bytes if that fails."""
    if 0 < picture.width * picture.height <= _MOST_PIXELS:
        from PIL import Image

        # Whatever a damaged file makes the decoder raise or warn of.
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(picture.content), formats=["PNG"]) as image:
                pixels = image.convert("RGBA")
                return hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).digest()
    return hashlib.sha256(picture.content).digest()

"""Pictures of samples that a page shows, each once, within a budget of bytes."""

import base64
import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.errors import CldError, NotFoundError
from cld_core.evaluation.evaluation import Evaluation
from cld_core.run import RunFolder
from cld_core.small_files import by_age, read_bytes

from .captions import Draw, Settings, caption_of, settings_of
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
# A picture that the training draws, as `cld_core.evaluation.pictures.periodic_name` names it.
_PERIODIC = re.compile(r"step_\d{8,18}")
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG in the page.

    Attributes:
        width: in pixels, as the height; 0 if the file does not tell.
        settings: how its samples were drawn; None if nothing is known about that.
    """

    caption: str
    content: bytes
    width: int
    height: int
    settings: Settings | None = None

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
    """The pictures of a run: of `samples/`, of evaluations, and of TensorBoard, in this order.

    Of pictures with the same pixels the first one is shown, and of those whose samples were drawn in the same way, the
    one with the most samples.
    """
    refused: list[str] = []
    found: dict[bytes, Picture] = {}
    for name, content, draw in _found(run, board, places):
        picture, digest = _picture(name, content, draw)
        if picture is None:
            refused.append(caption_of(name))
        else:
            found.setdefault(digest, picture)
    shown: list[Picture] = []
    left_out, room = 0, _ALL_BYTES
    for picture in _different(list(found.values())):
        if shown and len(picture.content) > room:
            left_out += 1
            continue
        room -= len(picture.content) if shown else 0
        shown.append(picture)
    return Gallery(shown=shown, refused=refused, left_out=left_out)


def _different(pictures: Sequence[Picture]) -> Iterator[Picture]:
    """The pictures without those of which another one shows as many samples or more, drawn in the same way."""
    for place, picture in enumerate(pictures):
        own = picture.settings
        if own is None or not any(
            other.settings is not None
            and own.is_like(other.settings)
            and (other.settings.samples > own.samples or (at < place and other.settings.samples == own.samples))
            for at, other in enumerate(pictures)
        ):
            yield picture


def _found(run: RunFolder, board: Board, places: Places) -> Iterator[tuple[str, bytes, Draw | None]]:
    """Names, contents, and how the samples were drawn, if that is known."""
    usual = _draw_of_training(run)
    samples = by_age(places.inside(run.samples.glob("*.png")))[-_NEWEST:]
    for file in reversed(samples):
        yield file.stem, content_of(file), usual if _PERIODIC.fullmatch(file.stem) else Draw.named(file.stem)
    for tag, (step, content) in board.pictures.items():
        yield f"step {step:,}, {tag}", content, None
    evaluated = by_age(places.inside(run.evals.glob("*/samples.png")))[-_EVALUATIONS:]
    for file in reversed(evaluated):
        yield f"evaluation {file.parent.name}", content_of(file), _draw_of_evaluation(file.parent)


def _draw_of_training(run: RunFolder) -> Draw | None:
    try:
        recipe = run.recipe()
    except (CldError, OSError):
        return None
    return Draw.of(recipe.sampling, recipe.eval.seed)


def _draw_of_evaluation(folder: Path) -> Draw | None:
    try:
        request = Evaluation(folder).request
    except (NotFoundError, OSError):
        return None
    return Draw.of(request.sampling, request.seed)


def content_of(file: Path) -> bytes:
    """What is in a picture; empty if it cannot be read, is a link, or is larger than any picture of a run."""
    try:
        return read_bytes(file, limit=_PICTURE_BYTES)
    except OSError:
        return b""


def _picture(name: str, content: bytes, draw: Draw | None) -> tuple[Picture | None, bytes]:
    """A picture and a digest of what it shows; None for anything but a PNG: no other file gets into a page."""
    if not content.startswith(PNG):
        return None, b""
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    if content[12:16] != b"IHDR" or max(width, height) >= 2**31:
        width = height = 0
    digest, title = _decoded(content) if 0 < width * height <= _MOST_PIXELS else (None, None)
    settings = settings_of(title, draw)
    caption = caption_of(name)
    if settings is not None:
        # A name that is not understood may tell more than the title does.
        is_told = settings.draw is not None or _PERIODIC.fullmatch(name)
        caption = settings.caption if is_told and caption.startswith("step ") else f"{caption}, {settings.caption}"
    picture = Picture(caption=caption, content=content, width=width, height=height, settings=settings)
    return picture, digest or hashlib.sha256(content).digest()


def _decoded(content: bytes) -> tuple[bytes | None, object]:
    """A digest of the pixels, as the same ones may be compressed in different ways, and the title; None of damage."""
    from PIL import Image

    # Whatever a damaged file makes the decoder raise or warn of.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("error")
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            title = image.info.get("Description")
            pixels = image.convert("RGBA")
            return hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).digest(), title
    return None, None

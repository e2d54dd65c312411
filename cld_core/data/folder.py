"""Pictures in a folder, a zip file or a .tar, turned into square images of one size.

Splits: top-level folders called `train` and `validation` (or `val`, `valid`, `test`) are used as
they are. Otherwise a hash of its name decides the split of a picture, so that adding and removing
pictures never moves others between training and validation.

Colours: if every picture is stored as a grey one, the images are grey, with one channel; otherwise
all are RGB. The headers of the pictures decide, so a grey picture that is stored as RGB counts as
coloured.

Classes: if all pictures lie in two or more folders, which may lie in those of the splits, the names
of these folders are the classes.
"""

import io
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cld_core.classes import LONGEST_NAME, MOST
from cld_core.errors import DataError, UsageError, WrongSourceError
from cld_core.sanitize import has_control, one_line
from cld_core.seeds import key_of

from .format import TEST_NAMES
from .prepare import Member, Plan, SourcePart, members
from .store import CHANNELS, SPLITS, Split

DEFAULT_VALIDATION = 0.1
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# The decoders that may open a picture, whatever its name: Pillow has others that start programs or
# are little used.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# Limits of a picture. While it is scaled, memory holds several copies of four bytes a pixel.
MOST_PIXELS = 40_000_000
MOST_BYTES = 128 << 20
# Pillow warns at its own limit; above ours there is an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_SPLIT_FOLDERS: dict[str, Split] = {"train": "train", **dict.fromkeys(TEST_NAMES, "validation")}
# Height and width in pixels; beyond it a single image takes 50 MB and more.
LARGEST = 4096
# Pillow's modes of grey pictures: of one bit or eight a pixel, the last with transparency.
_GREY = ("1", "L", "LA")


def plan_folder(
    source: Path, size: int, validation: float | None = None, channels: int | None = None
) -> Plan:
    """A plan of the pictures in ``source``, resized to ``size`` x ``size`` pixels.

    Args:
        source: a folder, a zip file or a .tar.
        validation: the share of pictures for validation, in [0, 1). None for the split by the
            top-level folders, or else 0.1.
        channels: 1 for grey images, 3 for RGB; None for 1 if every picture is grey.

    Raises:
        DataError: the source is damaged, or cannot be read.
        WrongSourceError: there are no pictures, or a split would be empty.
        UsageError: ``size``, ``validation`` or ``channels`` is out of range.
    """
    if not 1 <= size <= LARGEST:
        raise UsageError(
            f"--size is 1 to {LARGEST} pixels, not {size}. Pass --size 64, for example."
        )
    if validation is not None and not 0 <= validation < 1:
        raise UsageError(
            f"The share kept for validation is in [0, 1), not {validation}. "
            "Pass --split 0.1, for example."
        )
    if channels not in (None, 1, CHANNELS):
        raise UsageError(
            f"Images have 1 channel or {CHANNELS}, not {channels}. Pass --channels 1, for example."
        )
    pictures = _pictures(source)
    by_split = _splits(pictures, validation)
    for split, chosen in by_split.items():
        if not chosen and validation != 0:
            raise WrongSourceError(
                f"{source}: no picture is left for {split} ({len(pictures)} in all). Use another "
                "--split, or sort the pictures into folders train and validation."
            )
    classes, labels = _classes(pictures)
    if channels is None:
        channels = 1 if all(map(_is_grey, pictures)) else CHANNELS
    parts = []
    for split, chosen in by_split.items():
        for picture in chosen:
            part = SourcePart(
                split=split,
                name=one_line(as_text(picture.name)),
                fingerprint=str(picture.length),
                read=partial(_make, picture, size, channels),
                labels=labels.get(picture.name, ()),
            )
            parts.append(part)
    return Plan(
        name="folder",
        size=size,
        channels=channels,
        source=source.name,
        parts=parts,
        expect=Counter(part.split for part in parts),
        classes=classes,
    )


def shorter_side(source: Path) -> int:
    """The shorter side of the first picture in a folder, zip file or .tar, in pixels.

    Raises:
        DataError: the source is damaged or cannot be read, or its first picture is not one.
        WrongSourceError: there are no pictures.
    """
    first = _pictures(source)[0]
    try:
        with Image.open(io.BytesIO(first.read()), formats=FORMATS) as opened:
            return min(opened.size)
    except Exception as error:  # decoders of pictures may raise anything
        raise DataError(
            f"{source}: {one_line(as_text(first.name))} cannot be used as a picture "
            f"({one_line(error)}). Remove it."
        ) from error


def _pictures(source: Path) -> list[Member]:
    listed = members(source, "a folder, a zip file or a .tar of pictures")
    pictures = [picture for picture in listed if _is_picture(picture.name)]
    if not pictures:
        raise WrongSourceError(
            f"{source} has no pictures ({', '.join(SUFFIXES)}). "
            "Pass a folder that has some as --source."
        )
    return pictures


def _is_picture(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and name.lower().endswith(SUFFIXES)


def _splits(pictures: Sequence[Member], validation: float | None) -> dict[Split, list[Member]]:
    """The pictures of each split, by their top-level folders, or else by hashes of their names."""
    tops = [place[0] for place in _places(pictures)]
    if validation is None and {_SPLIT_FOLDERS.get(top) for top in tops} >= set(SPLITS):
        if others := sorted(set(tops) - set(_SPLIT_FOLDERS)):
            raise WrongSourceError(
                f"Besides the folders for training and validation, there are pictures in "
                f"{one_line(as_text(', '.join(others[:5])))}. Pass --split 0.1 to mix all "
                f"pictures, or remove those."
            )
        chosen = [_SPLIT_FOLDERS[top] for top in tops]
    else:
        below = int((DEFAULT_VALIDATION if validation is None else validation) * 2**63)
        keys = [key_of("split", as_text(picture.name)) for picture in pictures]
        chosen = ["validation" if key < below else "train" for key in keys]
    by_split: dict[Split, list[Member]] = {split: [] for split in SPLITS}
    for picture, split in zip(pictures, chosen, strict=True):
        by_split[split].append(picture)
    return by_split


def _places(pictures: Sequence[Member]) -> list[tuple[str, ...]]:
    """The folders and the name of each picture, without a single folder around everything."""
    places = [PurePosixPath(picture.name).parts for picture in pictures]
    is_wrapped = len({place[0] for place in places}) == 1 and min(map(len, places)) > 1
    return [place[1:] for place in places] if is_wrapped else places


def _classes(pictures: Sequence[Member]) -> tuple[tuple[str, ...], dict[str, tuple[int]]]:
    """The names of the classes, and labels by the name of a picture; both empty without classes."""
    folders = [place[:-1] for place in _places(pictures)]
    if {path[0] for path in folders if path} <= set(_SPLIT_FOLDERS):
        folders = [path[1:] for path in folders]
    if not all(folders):
        return (), {}
    class_of = [as_text(path[0]) for path in folders]
    classes = sorted(set(class_of))
    are_names = all(len(name) <= LONGEST_NAME and not has_control(name) for name in classes)
    if not are_names or not 2 <= len(classes) <= MOST:
        return (), {}
    label_of = {name: (label,) for label, name in enumerate(classes)}
    names = [picture.name for picture in pictures]
    return tuple(classes), dict(zip(names, map(label_of.__getitem__, class_of), strict=True))


def as_text(name: str) -> str:
    """The name of a file, with bytes that are not text replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _is_grey(picture: Member) -> bool:
    """Whether a picture is grey, by its header; True if it cannot be read (`_make` reports it)."""
    try:
        with Image.open(picture.path or io.BytesIO(picture.read()), formats=FORMATS) as opened:
            return opened.mode in _GREY
    except Exception:  # decoders of pictures may raise anything
        return True


def _make(picture: Member, size: int, channels: int = CHANNELS) -> np.ndarray:
    """The middle square of a picture, resized, uint8 (1, channels, size, size).

    It is upright, and transparent parts are white.

    Raises:
        DataError: it is not a picture, or too large.
    """
    try:
        if picture.length > MOST_BYTES:
            raise ValueError(f"it has {picture.length} bytes, more than {MOST_BYTES}")
        with Image.open(io.BytesIO(picture.read()), formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise ValueError(
                    f"it has {opened.width} x {opened.height} pixels, more than {MOST_PIXELS:,}"
                )
            if opened.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits a channel")
            upright = ImageOps.exif_transpose(opened)
            opaque = _on_white(upright) if upright.has_transparency_data else upright
            square = opaque.convert("L" if channels == 1 else "RGB")
            if square.size != (size, size):
                square = ImageOps.fit(square, (size, size), Image.Resampling.LANCZOS)
            return np.atleast_3d(np.asarray(square)).transpose(2, 0, 1)[None]
    except UnidentifiedImageError as error:
        raise DataError(
            f"{one_line(as_text(picture.name))} cannot be used as a picture: its format is "
            f"unknown, or not one of {', '.join(FORMATS)}. Remove it or replace it by a PNG or "
            "JPEG."
        ) from error
    except Exception as error:  # decoders of pictures may raise anything
        raise DataError(
            f"{one_line(as_text(picture.name))} cannot be used as a picture: "
            f"{one_line(error).rstrip('.')}. Remove it or replace it by a PNG or JPEG."
        ) from error


def read_exactly(path: Path, size: int, channels: int) -> np.ndarray:
    """The picture in a file of ``size`` x ``size`` pixels, uint8 (1, channels, size, size).

    Transparent parts are white.

    Raises:
        OSError: it cannot be read.
        DataError: it is not a picture.
        WrongSourceError: it has another size.
    """
    pixels = _make(Member(str(path), path.stat().st_size, path.read_bytes), size, channels)
    with Image.open(path, formats=FORMATS) as opened:
        if opened.size != (size, size):
            raise WrongSourceError(
                f"{path} has {opened.width} x {opened.height} pixels, and {size} x {size} are "
                "needed. Resize it."
            )
    return pixels


def _on_white(picture: Image.Image) -> Image.Image:
    rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")

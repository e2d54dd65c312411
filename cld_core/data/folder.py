"""Pictures of any size and format, in a folder or a zip file, turned into square RGB images of one size.

Splits: top-level folders called `train` and `validation` (or `val`, `valid`, `test`) are used as they are.
Otherwise a picture's split is decided by a hash of its name alone, so adding and removing pictures never moves
others between training and validation.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image, ImageOps, UnidentifiedImageError

from cld_core.data.build import Plan, Unit
from cld_core.data.store import SPLITS, Split
from cld_core.errors import DataError, UsageError
from cld_core.seeds import key_of

DEFAULT_VALIDATION = 0.1
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "validation",
}
# Height and width in pixels; beyond it a single image takes 50 MB and more.
LARGEST = 4096
PICTURES_PER_UNIT = 500
_BYTES_PER_UNIT = 64 << 20


@dataclass(frozen=True)
class _Picture:
    """``name`` is the path below the source, with slashes; ``read()`` gives the bytes of the file."""

    name: str
    length: int
    read: Callable[[], bytes]


def plan_folder(source: Path, size: int, validation: float | None = None) -> Plan:
    """The pictures in the folder or zip file ``source``, resized to ``size`` x ``size`` pixels.

    Args:
        validation: the share of pictures kept for validation, in [0, 1). None: the split given by the
            top-level folders, or else 0.1.

    Raises:
        DataError: there are no pictures, or a split would be empty.
        UsageError: ``size`` or ``validation`` is out of range.
    """
    if not 1 <= size <= LARGEST:
        raise UsageError(f"--size is 1 to {LARGEST} pixels, not {size}. Pass --size 64, for example.")
    if validation is not None and not 0 <= validation < 1:
        raise UsageError(
            f"The share kept for validation is in [0, 1), not {validation}. Pass --split 0.1, for example."
        )
    pictures = _list(source)
    if not pictures:
        raise DataError(f"{source} has no pictures ({', '.join(SUFFIXES)}). Pass a folder that has some as --source.")
    by_split = _splits(pictures, validation)
    for split, chosen in by_split.items():
        if not chosen:
            raise DataError(
                f"None of the {len(pictures)} pictures in {source} is in {split}. Use another --split, or sort "
                "them into folders train and validation."
            )
    return Plan(
        name="folder",
        size=size,
        source=source.name,
        units={split: list(_units(split, chosen, size)) for split, chosen in by_split.items()},
        expect={split: len(chosen) for split, chosen in by_split.items()},
    )


def _list(source: Path) -> list[_Picture]:
    if source.is_dir():
        files = [(path.relative_to(source).as_posix(), path) for path in _walk(source)]
        pictures = [_Picture(name, path.stat().st_size, path.read_bytes) for name, path in files if _is_picture(name)]
    elif zipfile.is_zipfile(source):
        archive = zipfile.ZipFile(source)
        pictures = [
            _Picture(entry.filename, entry.file_size, partial(archive.read, entry))
            for entry in archive.infolist()
            if not entry.is_dir() and _is_picture(entry.filename)
        ]
    elif source.exists():
        raise DataError(f"{source} is neither a folder nor a complete zip file. Pass one of them as --source.")
    else:
        raise DataError(f"{source} does not exist. Pass a folder or a zip file of pictures as --source.")
    return sorted(pictures, key=lambda picture: picture.name)


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder; follows links, and enters each folder once."""
    entered = set()
    for at, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
        real = os.path.realpath(at)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        yield from (Path(at, name) for name in files if os.path.isfile(os.path.join(at, name)))


def _is_picture(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and name.lower().endswith(SUFFIXES)


def _splits(pictures: Sequence[_Picture], validation: float | None) -> dict[Split, list[_Picture]]:
    if validation is None:
        sorted_by_folder = _splits_by_folder(pictures)
        if sorted_by_folder is not None:
            return sorted_by_folder
        validation = DEFAULT_VALIDATION
    if validation == 0:
        return {"train": list(pictures)}
    below = int(validation * 2**63)
    chosen: dict[Split, list[_Picture]] = {split: [] for split in SPLITS}
    for picture in pictures:
        chosen["validation" if key_of("split", picture.name) < below else "train"].append(picture)
    return chosen


def _splits_by_folder(pictures: Sequence[_Picture]) -> dict[Split, list[_Picture]] | None:
    """The splits by the names of the top-level folders, or of those in a single wrapping folder; None without such."""
    parts = [PurePosixPath(picture.name).parts for picture in pictures]
    wrapped = len({part[0] for part in parts}) == 1 and min(map(len, parts)) > 1
    tops = [part[1 if wrapped else 0] for part in parts]
    chosen: dict[Split, list[_Picture]] = {split: [] for split in SPLITS}
    others = set()
    for top, picture in zip(tops, pictures, strict=True):
        if top in _SPLIT_FOLDERS:
            chosen[_SPLIT_FOLDERS[top]].append(picture)
        else:
            others.add(top)
    if not all(chosen.values()):
        return None
    if others:
        raise DataError(
            f"Besides the folders for training and validation, there are pictures in {', '.join(sorted(others)[:5])}. "
            "Pass --split 0.1 to mix all pictures, or remove those."
        )
    return chosen


def _units(split: Split, pictures: Sequence[_Picture], size: int) -> Iterator[Unit]:
    at_once = max(1, min(PICTURES_PER_UNIT, _BYTES_PER_UNIT // (3 * size * size)))
    for first in range(0, len(pictures), at_once):
        some = pictures[first : first + at_once]
        digest = hashlib.blake2b("\n".join(f"{p.name}\t{p.length}" for p in some).encode(), digest_size=16)
        yield Unit(
            name=f"{split} pictures {first} to {first + len(some) - 1}",
            fingerprint=digest.hexdigest(),
            read=partial(_make_all, some, size),
        )


def _make_all(pictures: Sequence[_Picture], size: int) -> Iterator[bytes]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            yield from pool.map(lambda picture: _make(picture, size), pictures)
        finally:
            pool.shutdown(cancel_futures=True)


def _make(picture: _Picture, size: int) -> bytes:
    """The picture as raw RGB bytes: upright, transparent parts on white, cropped to the middle square and resized."""
    try:
        with Image.open(io.BytesIO(picture.read())) as opened:
            if opened.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits a channel")
            upright = ImageOps.exif_transpose(opened)
            rgb = _on_white(upright) if upright.has_transparency_data else upright.convert("RGB")
            if rgb.size != (size, size):
                rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.LANCZOS)
            return rgb.tobytes()
    except UnidentifiedImageError as error:
        text = "its format is unknown"
        raise DataError(f"{picture.name} cannot be used as a picture: {text}. Remove it or replace it.") from error
    except Exception as error:  # decoders of pictures raise whatever they like
        raise DataError(
            f"{picture.name} cannot be used as a picture: {error}. Remove it or replace it by a PNG or JPEG."
        ) from error


def _on_white(picture: Image.Image) -> Image.Image:
    rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")

"""The on-disk form of image data, and its manifest.

    DIR/manifest.json      the content: name, size, channels, and for each split its count, bytes and checksum
    DIR/train.lmdb/        raw RGB bytes (H, W, 3), row by row, under the key str(index), index 0 .. count - 1
    DIR/validation.lmdb/
    DIR/train.labels       if the images have classes: the index of each image's class, two bytes each, lowest first
    DIR/validation.labels

The LMDB files alone, without a manifest, are the published form, which `open_images` reads as well.
While a data set is being prepared it is called DIR.partial, so a folder DIR is always complete.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cld_core.classes import Classes
from cld_core.errors import DataError
from cld_core.files import parse_json, read_bytes, write_json
from cld_core.sanitize import has_control, one_line

FORMAT = "cld-images/1"
MANIFEST = "manifest.json"
# The progress of a preparation; removed when it is complete.
PROGRESS = "progress.json"
CHANNELS = 3
# Bounds of what a manifest says: bytes of it, pixels of a side, images and bytes, characters of a name.
_LONGEST_MANIFEST = 2**20
_LARGEST_SIZE = 2**16
_MOST = 2**50
_LONGEST_TEXT = 4096
_CHECKSUM = re.compile(r"[0-9a-f]{32}")

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


class Checksum:
    """A chained digest of a sequence of images, which can be stopped and continued after any image.

    d_0 = b"", d_{i+1} = BLAKE2b-128(d_i + image_i), written in hexadecimal.
    """

    def __init__(self, state: str = "") -> None:
        self._digest = bytes.fromhex(state)

    def add(self, image: bytes) -> None:
        mixed = hashlib.blake2b(self._digest, digest_size=16)
        mixed.update(image)
        self._digest = mixed.digest()

    @property
    def state(self) -> str:
        return self._digest.hex()


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """``count`` images, ``file_bytes`` of LMDB, the `Checksum` of the images in order, and that of their labels."""

    count: int
    file_bytes: int
    checksum: str
    labels: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a prepared data set.

    Attributes:
        size: height and width in pixels.
        source: name of what it was made from.
        source_digest: digest of that source's files and of how they were read.
        classes: names of the classes; empty if the images have no labels.
    """

    name: str
    size: int
    splits: Mapping[str, SplitInfo]
    source: str = ""
    source_digest: str = ""
    channels: int = CHANNELS
    format: str = FORMAT
    classes: tuple[str, ...] = ()

    @property
    def image_bytes(self) -> int:
        return self.size * self.size * self.channels


def labels_path(root: Path, split: str) -> Path:
    return root / f"{split}.labels"


def lmdb_path(root: Path, split: str) -> Path:
    return root / f"{split}.lmdb"


def published_paths(root: Path, split: str) -> tuple[Path, Path]:
    """The folders that may hold a split if there is no manifest: under our name, or that of the published code."""
    return lmdb_path(root, split), root / split


def partial_path(root: Path) -> Path:
    """The folder of a data set until it is complete."""
    whole = root.absolute()
    return whole.parent / f"{whole.name}.partial"


def prepare_hint(name: str, root: Path | str, pixels: int | None = None) -> str:
    """The command that makes the data set, for the end of an error message; ``pixels`` of a side, if they are known."""
    size = f" --size {pixels or 'PIXELS'}" if name == "folder" else ""
    return f"cldctl data prepare {name} --source PATH --out {root}{size}"


def write_manifest(root: Path, manifest: Manifest) -> None:
    content = asdict(manifest)
    if not manifest.classes:
        del content["classes"]
        for split in content["splits"].values():
            del split["labels"]
    write_json(root / MANIFEST, content)


def read_manifest(root: Path) -> Manifest | None:
    """The manifest in the folder ``root``; None if there is none.

    Raises:
        DataError: the file is not a manifest of a known format.
    """
    path = root / MANIFEST
    try:
        content = parse_json(read_bytes(path, limit=_LONGEST_MANIFEST, follow=True))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        if (form := content.get("format")) != FORMAT:
            raise DataError(
                f"{path} has the format {one_line(repr(form), 40)}; this version reads {FORMAT!r}. "
                "Prepare the data again, into another folder."
            )
        return _manifest(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a manifest ({one_line(error)}). Remove {root} and prepare the data again."
        ) from error


def _manifest(content: dict[str, Any]) -> Manifest:
    """The manifest that a JSON object is; raises ValueError if a part of it is missing or of another kind."""
    splits = content.get("splits")
    if not isinstance(splits, dict) or not splits or not set(splits) <= set(SPLITS):
        raise ValueError(f"it needs splits, among {', '.join(SPLITS)}")
    if content.get("channels", CHANNELS) != CHANNELS:
        raise ValueError(f"its images do not have {CHANNELS} channels")
    return Manifest(
        name=_text(content, "name", least=1),
        size=_number(content, "size", least=1, most=_LARGEST_SIZE),
        splits={name: _split_info(info) for name, info in splits.items()},
        source=one_line(content.get("source", "")),
        source_digest=_text(content, "source_digest"),
        classes=_classes(content.get("classes", [])),
    )


def _classes(names: Any) -> tuple[str, ...]:
    """Their names; none for a set without labels."""
    return Classes.parsed({"names": names, "weights": [1] * len(names)}).names if names else ()


def _split_info(info: Any) -> SplitInfo:
    if not isinstance(info, dict):
        raise ValueError("a split is not a JSON object")
    checksum = _text(info, "checksum")
    if not _CHECKSUM.fullmatch(checksum):
        raise ValueError("a checksum is not one")
    labels = _text(info, "labels")
    if not _CHECKSUM.fullmatch(labels or checksum):
        raise ValueError("the checksum of its labels is not one")
    count = _number(info, "count", least=1, most=_MOST)
    file_bytes = _number(info, "file_bytes", least=1, most=_MOST)
    return SplitInfo(count=count, file_bytes=file_bytes, checksum=checksum, labels=labels)


def _number(content: dict[str, Any], name: str, *, least: int, most: int) -> int:
    value = content.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"its {name} is not a whole number of {least} to {most}")
    return value


def _text(content: dict[str, Any], name: str, least: int = 0) -> str:
    value = content.get(name, "")
    if not isinstance(value, str) or not least <= len(value) <= _LONGEST_TEXT or has_control(value):
        raise ValueError(f"its {name} is not a short text")
    return value

"""The on-disk form of image data, and its manifest.

    DIR/manifest.json      the content: name, size, channels, and for each split its count, bytes and checksum
    DIR/train.lmdb/        raw RGB bytes (H, W, 3), row by row, under the key str(index), index 0 .. count - 1
    DIR/validation.lmdb/

The LMDB files alone, without a manifest, are the published form, which `open_images` reads as well.
While a data set is being prepared it is called DIR.partial, so a folder DIR is always complete.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cld_core.errors import DataError
from cld_core.run.atomic import write_json

FORMAT = "cld-images/1"
MANIFEST = "manifest.json"
# The progress of a preparation; removed when it is complete.
PROGRESS = "progress.json"
CHANNELS = 3

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
    """``count`` images, ``file_bytes`` of LMDB, and the `Checksum` of the images in order."""

    count: int
    file_bytes: int
    checksum: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a prepared data set.

    Attributes:
        size: height and width in pixels.
        source: name of what it was made from.
        source_digest: digest of that source's files and of how they were read.
    """

    name: str
    size: int
    splits: Mapping[str, SplitInfo]
    source: str = ""
    source_digest: str = ""
    channels: int = CHANNELS
    format: str = FORMAT

    @property
    def image_bytes(self) -> int:
        return self.size * self.size * self.channels


def lmdb_path(root: Path, split: str) -> Path:
    return root / f"{split}.lmdb"


def published_paths(root: Path, split: str) -> tuple[Path, Path]:
    """The folders that may hold a split if there is no manifest: under our name, or that of the published code."""
    return lmdb_path(root, split), root / split


def partial_path(root: Path) -> Path:
    """The folder of a data set until it is complete."""
    whole = root.absolute()
    return whole.parent / f"{whole.name}.partial"


def prepare_hint(name: str, root: Path | str) -> str:
    """The command that makes the data set, for the end of an error message."""
    size = " --size PIXELS" if name == "folder" else ""
    return f"cldctl data prepare {name} --source PATH --out {root}{size}"


def write_manifest(root: Path, manifest: Manifest) -> None:
    write_json(root / MANIFEST, asdict(manifest))


def read_manifest(root: Path) -> Manifest | None:
    """The manifest in the folder ``root``; None if there is none.

    Raises:
        DataError: the file is not a manifest of a known format.
    """
    path = root / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise DataError(
                f"{path} has the format {content['format']!r}; this version reads {FORMAT!r}. "
                "Prepare the data again, into another folder."
            )
        splits = {name: SplitInfo(**info) for name, info in content.pop("splits").items()}
        return Manifest(splits=splits, **content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read as a manifest ({error}). Remove {root} and prepare the data again."
        ) from error

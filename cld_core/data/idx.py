"""MNIST, Fashion-MNIST and data sets in the same format: four idx files, perhaps gzipped.

    train-images-idx3-ubyte[.gz]   t10k-images-idx3-ubyte[.gz]    grey images
    train-labels-idx1-ubyte[.gz]   t10k-labels-idx1-ubyte[.gz]    their classes, counted from 0

The names of the classes are their numbers; those of Fashion-MNIST are known. A file labels.txt
beside them overrides the names, one a line.
"""

import gzip
import io
import math
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from cld_core.errors import DataError, WrongSourceError
from cld_core.sanitize import one_line

from .prepare import Member, Plan, SourcePart, members
from .store import Split, blake2b

_FILES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "validation": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
NAMES = "labels.txt"
# The digest of the training labels of Fashion-MNIST, and the names of its classes.
_FASHION = "372ac19362f2425103e5082d13e71e66"
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# The code of unsigned bytes, the only type in these data sets.
_UBYTE = 0x08


def plan_idx(source: Path) -> Plan:
    """A plan of the four files in the folder, zip file or .tar ``source``, which it holds.

    Raises:
        WrongSourceError: ``source`` does not exist, or has none of the files.
        DataError: a file is missing or damaged, or they do not match.
    """
    names = [name for pair in _FILES.values() for name in pair]
    files = members(source, "a folder of idx files")
    by_name = {_plain(file.name): file for file in files}
    folders = sorted(
        {str(PurePosixPath(file.name).parent) for file in files if _plain(file.name) in names}
    )
    if len(folders) > 1:
        raise DataError(
            f"{source} has such files in several folders ({', '.join(folders)}). Pass one of them."
        )
    if missing := [name for name in names if name not in by_name]:
        kind = DataError if len(missing) < len(names) else WrongSourceError
        raise kind(
            f"{source} has no {', '.join(missing)} (or .gz). "
            "Pass the folder that has all four as --source."
        )
    arrays = {
        name: _array(by_name[name], 3 if "images" in name else 1, f"{source}: {by_name[name].name}")
        for name in names
    }
    train_images, train_labels = _FILES["train"]
    size = arrays[train_images].shape[1]
    classes = _classes(by_name.get(NAMES), arrays[train_labels])
    parts = []
    for split, (image_file, label_file) in _FILES.items():
        images = arrays[image_file]
        labels = arrays[label_file]
        if images.shape[1:] != (size, size):
            height, width = images.shape[1:]
            raise DataError(
                f"{source}: {image_file} has images of {width} x {height} pixels, where {size} x "
                f"{size} are expected. Only square images of one size can be prepared."
            )
        if len(labels) != len(images) or int(labels.max()) >= len(classes):
            raise DataError(
                f"{source}: {label_file} has {len(labels)} labels up to {labels.max()} for "
                f"{len(images)} images in {len(classes)} classes. "
                f"Fetch the files again, or correct {NAMES}."
            )
        part = SourcePart(
            split=split,
            name=image_file,
            fingerprint=f"{_digest(images)} {_digest(labels)}",
            read=partial(np.expand_dims, images, 1),
            labels=labels.tolist(),
        )
        parts.append(part)
    return Plan(
        name="idx",
        size=size,
        channels=1,
        source=source.name,
        parts=parts,
        classes=classes,
    )


def _plain(name: str) -> str:
    """The name of a file without folder and compression; some copies have a dot before idx."""
    return PurePosixPath(name).name.removesuffix(".gz").replace(".idx", "-idx")


def _digest(array: np.ndarray) -> str:
    return blake2b(np.ascontiguousarray(array))


def _array(member: Member, axes: int, title: str) -> np.ndarray:
    """The array in an idx file of unsigned bytes, with this number of axes; it is not empty.

    Raises:
        DataError: the file holds something else, or is cut short or damaged.
    """
    try:
        content = member.read()
        plain = io.BytesIO(content)
        stream = gzip.GzipFile(fileobj=plain) if content.startswith(b"\x1f\x8b") else plain
        header = stream.read(4 + 4 * axes)
        if header[:4] != bytes((0, 0, _UBYTE, axes)):
            raise ValueError(f"it begins with {header[:4].hex()}, not 00000{_UBYTE}0{axes}")
        shape = np.frombuffer(header, ">u4", offset=4).tolist()
        # A byte more than there should be: a compressed file may hold any number of zeros.
        array = np.frombuffer(stream.read(math.prod(shape) + 1), np.uint8).reshape(shape)
        if not array.size:
            raise ValueError("it is empty")
        return array
    except Exception as error:  # gzip and zlib may raise anything for a damaged file
        raise DataError(
            f"{title} is not a complete idx file ({one_line(error).rstrip('.')}). Fetch it again."
        ) from error


def _classes(names: Member | None, labels: np.ndarray) -> tuple[str, ...]:
    if names is not None:
        lines = names.read().decode(errors="replace").split("\n")
        return tuple(one_line(line) for line in lines if line.strip())
    if _digest(labels) == _FASHION:
        return FASHION_CLASSES
    return tuple(map(str, range(int(labels.max()) + 1)))

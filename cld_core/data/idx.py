"""MNIST, Fashion-MNIST and data sets in their form: four idx files, compressed by gzip or not,
under their usual names.

    train-images-idx3-ubyte[.gz]   t10k-images-idx3-ubyte[.gz]    grey images
    train-labels-idx1-ubyte[.gz]   t10k-labels-idx1-ubyte[.gz]    their classes, counted from 0

The classes are called by their numbers, those of Fashion-MNIST by their names. A file labels.txt
beside them has other names, one a line.
"""

import gzip
import io
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from cld_core.errors import DataError, WrongSourceError
from cld_core.sanitize import one_line

from .prepare import Member, Part, Plan, members
from .store import Split, blake2b

_FILES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "validation": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
NAMES = "labels.txt"
# What is in the file of the training labels of Fashion-MNIST, and what its classes are called.
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
# The code of unsigned bytes, the one type of these data sets.
_UBYTE = 0x08


def plan_idx(source: Path, expect: Mapping[str, int] | None = None) -> Plan:
    """The four files in the folder, zip file or .tar ``source``, all of them in memory.

    Args:
        expect: number of images that each split must have; None: as many as the files say.

    Raises:
        WrongSourceError: ``source`` does not exist, or has none of the files.
        DataError: a file is missing or damaged, or they do not fit each other.
    """
    wanted = [name for pair in _FILES.values() for name in pair]
    files = members(source, "a folder of idx files")
    found = {_plain(file.name): file for file in files}
    folders = sorted(
        {str(PurePosixPath(file.name).parent) for file in files if _plain(file.name) in wanted}
    )
    if len(folders) > 1:
        raise DataError(
            f"{source} has such files in several folders ({', '.join(folders)}). Pass one of them."
        )
    if missing := [name for name in wanted if name not in found]:
        kind = DataError if len(missing) < len(wanted) else WrongSourceError
        raise kind(
            f"{source} has no {', '.join(missing)} (or .gz). Pass the folder that has all four as "
            f"--source."
        )
    read = {
        name: _array(found[name], 3 if "images" in name else 1, f"{source}: {found[name].name}")
        for name in wanted
    }
    (train_images, train_labels), _ = _FILES.values()
    size = read[train_images].shape[1]
    classes = _classes(found.get(NAMES), read[train_labels])
    parts = []
    for split, (images, labels) in _FILES.items():
        some, its = read[images], read[labels]
        if some.shape[1:] != (size, size):
            height, width = some.shape[1:]
            text = (
                f"{images} has images of {width} x {height} pixels, where {size} x {size} are "
                f"expected"
            )
            raise DataError(f"{source}: {text}. Only square images of one size can be prepared.")
        if len(its) != len(some) or int(its.max()) >= len(classes):
            text = (
                f"{labels} has {len(its)} labels up to {its.max()} for {len(some)} images in "
                f"{len(classes)} classes"
            )
            raise DataError(f"{source}: {text}. Fetch the files again, or correct {NAMES}.")
        fingerprint = f"{blake2b(np.ascontiguousarray(some))} {blake2b(np.ascontiguousarray(its))}"
        read_part = partial(np.expand_dims, some, 1)
        parts.append(
            Part(
                split=split,
                name=images,
                fingerprint=fingerprint,
                read=read_part,
                labels=its.tolist(),
            )
        )
    return Plan(
        name="idx",
        size=size,
        channels=1,
        source=source.name,
        parts=parts,
        expect=expect or {},
        classes=classes,
    )


def _plain(name: str) -> str:
    """The name of a file without folder and compression; some copies have a dot before idx."""
    return PurePosixPath(name).name.removesuffix(".gz").replace(".idx", "-idx")


def _array(member: Member, axes: int, shown: str) -> np.ndarray:
    """What an idx file of unsigned bytes holds, with so many axes, none of them empty.

    Raises:
        DataError: it is something else, or not of the length that it says.
    """
    try:
        content = member.read()
        plain = io.BytesIO(content)
        stream = gzip.GzipFile(fileobj=plain) if content.startswith(b"\x1f\x8b") else plain
        header = stream.read(4 + 4 * axes)
        if header[:4] != bytes((0, 0, _UBYTE, axes)):
            raise ValueError(f"it begins with {header[:4].hex()}, not 00000{_UBYTE}0{axes}")
        shape = np.frombuffer(header, ">u4", offset=4).tolist()
        # Not more: a compressed file may hold any number of zeros.
        found = np.frombuffer(stream.read(math.prod(shape) + 1), np.uint8).reshape(shape)
        if not found.size:
            raise ValueError("it is empty")
        return found
    except Exception as error:  # gzip and zlib raise whatever a damaged file leads to
        kind = "images" if axes > 1 else "labels"
        text = f"{shown} is not a complete idx file of {kind} ({one_line(error).rstrip('.')})"
        raise DataError(f"{text}. Fetch it again.") from error


def _classes(names: Member | None, labels: np.ndarray) -> tuple[str, ...]:
    if names is not None:
        return tuple(
            one_line(line)
            for line in names.read().decode(errors="replace").split("\n")
            if line.strip()
        )
    if blake2b(np.ascontiguousarray(labels)) == _FASHION:
        return FASHION_CLASSES
    return tuple(map(str, range(int(labels.max()) + 1)))

"""CIFAR-10 from the official `cifar-10-python.tar.gz` or from the batch files in it.

A batch is a pickle of Python 2: a dictionary with b"data", uint8 of shape (10000, 3072), each row
an image with its red, green and blue planes one after the other, and b"labels", a list of their
classes. Pickles can run code, so the unpickler here accepts only arrays.
"""

import io
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cld_core.errors import DataError, UsageError, WrongSourceError
from cld_core.sanitize import one_line

from .prepare import Member, Plan, SourcePart, members
from .store import CHANNELS, Split, blake2b

ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
SIZE = 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OFFICIAL_COUNTS = {"train": 50_000, "validation": 10_000}
_BATCHES: dict[str, Split] = {
    **{f"data_batch_{number}": "train" for number in range(1, 6)},
    "test_batch": "validation",
}
_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    # Python 3 writes bytes in this way into a pickle that Python 2 can read.
    ("_codecs", "encode"),
}


def plan_cifar10(source: Path) -> Plan:
    """A plan of the six batches in the archive or folder ``source``, which it holds (184 MB).

    Raises:
        WrongSourceError: ``source`` does not exist, or has no batch of CIFAR-10.
        DataError: a batch is missing or damaged.
    """
    folder = source / FOLDER
    files = members(
        folder if folder.is_dir() else source,
        f"{ARCHIVE}, its folder, or with --download any folder",
        is_compressed=True,
    )
    batches = {PurePosixPath(file.name).name: file for file in files}
    missing = [name for name in _BATCHES if name not in batches]
    if missing:
        kind = DataError if len(missing) < len(_BATCHES) else WrongSourceError
        raise kind(
            f"{source} has no {', '.join(missing)}. "
            f"Pass the official {ARCHIVE} or its folder as --source."
        )
    return Plan(
        name="cifar10",
        size=SIZE,
        source=source.name,
        parts=[_part(name, batches[name], f"{source}: {name}") for name in _BATCHES],
        expect=OFFICIAL_COUNTS,
        classes=CLASSES,
    )


def _part(name: str, member: Member, title: str) -> SourcePart:
    try:
        content = member.read()
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        images = batch[b"data"].reshape(-1, CHANNELS, SIZE, SIZE)
        labels = batch[b"labels"]
        if images.dtype != np.uint8 or not set(labels) <= set(range(len(CLASSES))):
            raise ValueError("it has other images or labels")
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(
            f"{title} is not a batch of CIFAR-10 ({type(error).__name__}: {one_line(error)}). "
            f"Fetch {ARCHIVE} again."
        ) from error
    return SourcePart(
        split=_BATCHES[name],
        name=name,
        fingerprint=blake2b(content),
        read=lambda: images,
        labels=labels,
    )


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(
                f"it refers to {module}.{name}, which does not belong in it"
            )
        return super().find_class(module, name)


def download(source: Path) -> Path:
    """Download the archive into a folder, unless it is there and complete, and return its path.

    Args:
        source: the folder, or the archive in it.

    Raises:
        UsageError: ``source`` is another file.
        DataError: the archive cannot be fetched.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_url

    source = source.expanduser()
    folder = source.parent if source.name == ARCHIVE and not source.is_dir() else source
    if folder.is_file() or folder.name.endswith((".tar.gz", ".tgz")):
        raise UsageError(
            f"--download puts {ARCHIVE} into the folder --source. "
            f"{source} is a file: pass a folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        download_url(CIFAR10.url, str(folder), ARCHIVE, CIFAR10.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{ARCHIVE} could not be downloaded into {folder}: {error}. Fetch it by hand from "
            f"{CIFAR10.url} and pass its path as --source."
        ) from error
    return folder / ARCHIVE

"""The classes of prepared images: written beside them, and read (`cld_core.data.store` has the form)."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cld_core.classes import Classes
from cld_core.data.store import Checksum, Manifest, labels_path
from cld_core.errors import DataError
from cld_core.files import read_bytes, replacing
from cld_core.sanitize import one_line

_BYTES = 2


def write(root: Path, split: str, labels: Sequence[int]) -> str:
    """Write the labels of a split, and return their checksum."""
    content = np.asarray(labels, dtype="<u2").tobytes()
    with replacing(labels_path(root, split)) as file:
        file.write(content)
    return _checksum(content)


def read(root: Path, split: str, manifest: Manifest) -> np.ndarray:
    """The labels of a split, int64 of shape (count,), each an index of ``manifest.classes``.

    Raises:
        DataError: they are missing, or not those that were written.
    """
    path, info = labels_path(root, split), manifest.splits[split]
    try:
        content = read_bytes(path, limit=_BYTES * info.count, follow=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({one_line(error)}). Copy or prepare the data again.") from error
    labels = np.frombuffer(content, dtype="<u2") if len(content) == _BYTES * info.count else None
    if labels is None or _checksum(content) != info.labels or int(labels.max()) >= len(manifest.classes):
        raise DataError(f"{path} does not hold the labels that its manifest describes. Copy or prepare the data again.")
    return labels.astype(np.int64)


def classes(root: Path, manifest: Manifest) -> Classes:
    """The classes, with their numbers of training images as weights; raises as `read` does."""
    counts = Counter(read(root, "train", manifest).tolist())
    return Classes(manifest.classes, tuple(float(counts[label]) for label in range(len(manifest.classes))))


def _checksum(content: bytes) -> str:
    checksum = Checksum()
    checksum.add(content)
    return checksum.state

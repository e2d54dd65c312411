"""SHA-256 of plain content and of files, as hexadecimal digits."""

import hashlib
import json
from pathlib import Path
from typing import Any

from cld_core.files import opened

# Digests by device, inode, time and size, so that hard links, such as those of a sweep's code, are
# read once.
_checksums: dict[tuple[int, ...], str] = {}


def digest(content: Any) -> str:
    """SHA-256 of content that JSON can express; the order of dictionaries has no effect."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, cached by its size and time, because sweeps need it often.

    Raises:
        OSError: the file cannot be read.
    """
    status = path.stat()
    version = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
    if version not in _checksums:
        _checksums[version] = checksum(path)
    return _checksums[version]


def checksum(path: Path) -> str:
    """SHA-256 of a file, never cached: damage on the disk changes neither its size nor its time.

    Raises:
        OSError: the file cannot be read, or is not a regular one.
    """
    with opened(path, follow=True) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The file of an index: rows of runs that are over. Whatever is wrong with it, it counts as empty."""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cld_core.evaluation
import cld_core.run
import cldctl.runs
from cld_core.ownership import problem_of
from cld_core.run.atomic import replacing
from cld_core.small_files import MAX_BYTES, opened
from cld_core.version import __version__
from cldctl import caches

from .status import RunStatus

FORMAT = 1
# A row that other code has made is not used: these packages make them.
_MADE_BY = (cld_core.evaluation, cld_core.run, cldctl.runs)


@dataclass(frozen=True)
class Entry:
    """A run as it was seen.

    Attributes:
        inode: of its folder, and ``tokens``, of the marks that it had (`cld_core.run.changes`).
        files: inode, size and time of what the row was made of, by name; None for what was not there.
        row: the fields of its `RunStatus`, except for the path.
    """

    inode: int
    tokens: tuple[str, ...]
    files: Mapping[str, Sequence[int] | None]
    row: Mapping[str, Any]


def file_for(root: Path) -> Path | None:
    """The file of the index of the runs under ``root``; None if this user has no cache."""
    folder = caches.folder()
    with contextlib.suppress(OSError, RuntimeError):
        name = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
        return None if folder is None else folder / f"runs-{name}.json"
    return None


def load(file: Path) -> dict[str, Entry]:
    """The entries of a file by name of the run; none if it is missing, damaged, not this user's or of other code."""
    try:
        with opened(file) as stream:
            if problem_of(os.fstat(stream.fileno())) is not None:
                return {}
            header, _, content = stream.read(MAX_BYTES).partition(b"\n")
        if header.decode() != _header(content):
            return {}
        return {
            name: Entry(inode, tuple(tokens), files, row)
            for name, (inode, tokens, files, row) in json.loads(content).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def save(file: Path, entries: Mapping[str, Entry]) -> None:
    """Replace a file. That it cannot be written harms nobody."""
    plain = {name: [it.inode, it.tokens, it.files, it.row] for name, it in entries.items()}
    content = json.dumps(plain, separators=(",", ":")).encode()
    with contextlib.suppress(OSError), replacing(file) as stream:
        stream.write(_header(content).encode() + b"\n" + content)


def _header(content: bytes) -> str:
    """The first line: what the rest is, and by which code."""
    folders = tuple(folder for package in _MADE_BY for folder in package.__path__)
    made_by = [__version__, *map(_modules_in, folders), *(entry.name for entry in fields(RunStatus))]
    code = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()
    return f"cldctl index {FORMAT} {code[:16]} {hashlib.sha256(content).hexdigest()}"


@functools.cache
def _modules_in(folder: str) -> list[list[str | int]]:
    """Name, size and time of the last change of the modules in a folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(".py")]
        return sorted([name, status.st_size, status.st_mtime_ns] for name, status in found)
    return []

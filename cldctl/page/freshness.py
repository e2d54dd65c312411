"""Whether the page of a run still shows the run as it is.

A page carries two things for this: a mark, which tells what wrote it and which states it shows; and, as the time of its
file, a moment before anything of the run was read.
"""

import contextlib
import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cld_core.digests import digest
from cld_core.run import RunFolder
from cld_core.run.atomic import replacing
from cld_core.version import __version__
from cldctl.runs.status import RunStatus

# The states that a run enters only with a line in its ledger. Into the others, a scheduler alone can take it.
_WRITTEN = ("FINISHED", "CANCELLED")
# As `page.html` writes the mark, before anything that is longer.
_MARK = re.compile(rb'<meta name="generator" content="([^"]*)">')
_HEAD_BYTES = 1024


def page_of(run: RunFolder) -> Path:
    """Where `cldctl report` writes the page of a run."""
    return run.path / "report.html"


def mark() -> str:
    """What makes pages: the version, and a digest of this package, which differs between checkouts of one version.

    What differs in the packages that this one calls is not noticed.
    """
    return f"cldctl {__version__} {_package()}"


def mark_of(row: RunStatus, *, follow: bool) -> str:
    """The mark of the page of a run: what makes it, and a digest of the states that it shows.

    Args:
        follow: whether the page also shows folders that links lead out of the run to.
    """
    states = [row.state, sorted((entry["id"], entry["state"]) for entry in (*row.evals, *row.tunings)), follow]
    return f"{mark()} {digest(states)[:16]}"


def write(run: RunFolder, make: Callable[[], str]) -> Path:
    """Write the page of a run, with a time at which nothing of the run had been read: what changes later is newer.

    Args:
        make: reads the run and returns its page.

    Raises:
        OSError: it cannot be written.
    """
    before, target = _now(run.path), page_of(run)
    content = make().encode()
    with replacing(target) as file:
        file.write(content)
        file.flush()
        os.utime(file.fileno(), ns=(before, before))
    return target


def is_up_to_date(run: RunFolder, row: RunStatus, *, follow: bool) -> bool:
    """Whether the page of a run is there and shows what ``row`` and the files of the run tell.

    Args:
        follow: whether the page is to show folders that links lead out of the run to.
    """
    file = page_of(run)
    if row.state not in _WRITTEN or row.is_evaluating:
        return False
    if file.is_symlink() or not file.is_file() or _mark_in(file) != mark_of(row, follow=follow):
        return False
    made = file.stat().st_mtime_ns
    return all(os.stat(source).st_mtime_ns < made for source in _sources(run) if source.exists())


def _sources(run: RunFolder) -> Iterator[Path]:
    """What a page is made of: the files of a run down to those of its evaluations, besides the page itself."""
    for pattern in ("*", "*/*", "*/*/*"):
        yield from (file for file in run.path.glob(pattern) if file != page_of(run) and not file.name.startswith("."))


def _now(folder: Path) -> int:
    """The time of a file that is written now, in ns: the clock of the file system, not that of this machine."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".report.", suffix=".tmp") as file:
        return os.fstat(file.fileno()).st_mtime_ns


def _mark_in(file: Path) -> str | None:
    with contextlib.suppress(OSError), file.open("rb") as opened:
        found = _MARK.search(opened.read(_HEAD_BYTES))
        return found[1].decode(errors="replace") if found is not None else None
    return None


@functools.cache
def _package() -> str:
    """A digest of the files of this package."""
    here, total = Path(__file__).parent, hashlib.sha256()
    for file in sorted([*here.glob("*.py"), *here.joinpath("templates").iterdir()]):
        if file.is_file():
            total.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]

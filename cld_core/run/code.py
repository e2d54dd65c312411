"""The code of a run: what was stored in its folder when it was submitted, and what a process has
imported.

code/recipe.yaml      the recipe as it was submitted code/DIGEST/          the files of the
checkout, importable; the ledger says which digest the run has (`Requested.code`)
  manifest.json       what is in it, by digest, and what was left out
  changes.patch       what differed from the commit
  plugins/HASH/       the plug-in files that the recipe, or an evaluation, names

Other code is added beside it; nothing is changed. Files that are equal in several folders of a run,
or of the runs of a group, are hard links. Jobs that train several runs of a group import from
`code/` in the folder of the group.
"""

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from cld_core import ownership
from cld_core.codec import find_record
from cld_core.digests import checksum, digest, digest_of
from cld_core.errors import CldError
from cld_core.files import retried

from .ledger import Ledger

PACKAGES = ("cld_core", "cldctl")
# The folder that the packages of this process are in.
ROOT = Path(__file__).resolve().parents[2]
CODE = "code"
MANIFEST = "manifest.json"
PATCH = "changes.patch"
PLUGINS = "plugins"
# What Python would import, were it there.
_IMPORTABLE = (".py", ".so", ".pyc")
# What a ledger, which others may have written, can name; of a digest, a folder has the first
# digits.
_NAME = re.compile("live|[0-9a-f]{64}")
_DIGITS = 16
# Seconds for which a job tries to read which code its run has.
_READ_WITHIN_S = 30.0


class DamagedCode(CldError):
    """The stored code of a run is not what was stored."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plug-in file: where the recipe has it, its copy's name below the folder of code, and its
    SHA-256."""

    path: str
    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` holds.

    Attributes:
        kind: copy: the job runs the files here; installed: an installed package, of which there is
            no copy; live: the checkout itself, since somebody asked for it; process: whatever the
            command runs, on a cluster that blocks.
        digest: of the files (copy) or of the package's own list (installed); else empty.
        files: SHA-256 by name.
        left_out: why, by name.
    """

    kind: Literal["copy", "installed", "live", "process"]
    digest: str = ""
    commit: str | None = None
    dirty: bool | None = None
    version: str | None = None
    root: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    plugins: tuple[Plugin, ...] = ()

    @property
    def code(self) -> str:
        """What a request records: a digest, or "live"."""
        return (
            "live"
            if self.kind == "live"
            else _with_plugins(self.digest or digest(self.kind), self.plugins)
        )

    @property
    def checksums(self) -> dict[str, str]:
        """The SHA-256 of each file that can be imported, by name."""
        return {**self.files, **{plugin.file: plugin.sha256 for plugin in self.plugins}}


def read(folder: Path | None) -> Manifest | None:
    """The manifest in a folder of code; None if there is none, or it is damaged."""
    manifest = None if folder is None else find_record(Manifest, folder / MANIFEST)
    if manifest is None or (manifest.kind == "copy" and manifest.digest != digest(manifest.files)):
        return None
    return manifest if all(map(_is_inside, manifest.checksums)) else None


def name_of(folder: Path | None) -> str | None:
    """What a request records of the code in a folder; None if there is none."""
    manifest = read(folder)
    return None if manifest is None else manifest.code


def place_of(folder: Path, name: str) -> Path:
    """Where the code of a digest is, or would be stored, in the folder of a run or group."""
    return folder / CODE / name[:_DIGITS]


def folder_of(run: Path) -> Path | None:
    """Where the code is that the newest request of a run names; None if it names none.

    The folder may be missing.

    Raises:
        OSError: the ledger cannot be read.
    """
    name = Ledger(run / "attempts.jsonl").history().stored
    if name is None or not _NAME.fullmatch(name):
        return None
    return place_of(run, name)


def importable(folder: Path | None) -> Path | None:
    """What jobs import from, before anything else; None for what is installed, or the live
    checkout."""
    manifest = read(folder)
    return folder if manifest is not None and manifest.kind == "copy" else None


def copies_in(folder: Path | None) -> dict[str, Plugin]:
    """The copies of plug-in files that a folder of code holds, by their paths."""
    if folder is None or (manifest := read(folder)) is None:
        return {}
    return {str(folder / plugin.file): plugin for plugin in manifest.plugins}


def running(run: Path) -> str:
    """The digest of the code that this process has imported, and of the plug-ins of ``run``."""
    folder = retried(lambda: folder_of(run), _READ_WITHIN_S)
    return imported(tuple(copies_in(folder).values()))


def imported(plugins: Sequence[Plugin] = ()) -> str:
    """The digest of the code that this process has imported; "edited" behind it if it was changed
    after it was stored.

    Args:
        plugins: those that it imports, too.
    """
    own = read(ROOT)
    if own is not None and own.kind == "copy":
        return _with_plugins(own.digest, plugins) + (" edited" if edited() else "")
    record = installed()
    if record is not None:
        return _with_plugins(record, plugins)
    try:
        return f"live {_with_plugins(_sources(), plugins)}"
    except OSError:
        return "live"


@functools.cache
def edited() -> str | None:
    """How the copy that this process runs differs from what was stored, in words; None if it does
    not, or is none."""
    own = read(ROOT)
    return problem_of(ROOT, own) if own is not None and own.kind == "copy" else None


@functools.cache
def installed() -> str | None:
    """The digest of the installed package's own list of files and hashes; None if this process runs
    a checkout."""
    try:
        package = metadata.distribution("cldctl")
        is_this = (
            Path(str(package.locate_file("cld_core/__init__.py"))).resolve()
            == ROOT / "cld_core" / "__init__.py"
        )
        record = package.read_text("RECORD") if is_this else None
    except (metadata.PackageNotFoundError, OSError, UnicodeDecodeError):
        return None
    return None if record is None else digest(record)


@functools.cache
def _sources() -> str:
    """A digest of the Python files of the packages of this process."""
    return digest({name: checksum(ROOT / name) for name in sources()})


def sources() -> list[str]:
    """The Python files of the packages of this process, relative to `ROOT`."""
    found = (
        file
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if not file.is_symlink()
    )
    return sorted(str(file.relative_to(ROOT)) for file in found)


def with_copies(plugins: Sequence[str], folder: Path | None) -> tuple[str, ...]:
    """Plug-ins with the copies of files that a folder of code holds in place of the files."""
    copies = {plugin.path: copy for copy, plugin in copies_in(folder).items()}
    return tuple(copies.get(plugin, plugin) for plugin in plugins)


def problem_of(folder: Path, manifest: Manifest) -> str | None:
    """How the files in a folder of code differ from its manifest, in words; None if they do not.
    Each is read once."""
    wanted = manifest.checksums
    for name, sha256 in wanted.items():
        try:
            status = os.lstat(folder / name)
            # A file may have another name in a run whose files were opened to a group.
            if (problem := ownership.problem_of(status)) is not None:
                return f"{name}: {problem}; `chmod -R go-w` takes that away"
            if digest_of(folder / name) != sha256:
                return f"{name} was changed"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return next((f"{name} was added" for name in _importable(folder) if name not in wanted), None)


def _importable(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        inside = Path(place).relative_to(folder)
        yield from (str(inside / name) for name in sorted(files) if name.endswith(_IMPORTABLE))


def _with_plugins(code: str, plugins: Sequence[Plugin]) -> str:
    if not plugins:
        return code
    imported_too = sorted([plugin.path, plugin.sha256] for plugin in plugins)
    return digest({"code": code, "plugins": imported_too})


def _is_inside(name: str) -> bool:
    """Whether a name leads to a file below the folder of code."""
    return (
        not os.path.isabs(name) and ".." not in Path(name).parts and name not in (MANIFEST, PATCH)
    )

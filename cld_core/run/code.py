"""The code of a run: the copy in its folder, and the code that a process has imported.

    code/recipe.yaml      the recipe as it was submitted
    code/DIGEST/          the files of the checkout, importable; the ledger has the digest of the
                          run (`Requested.code`)
      manifest.json       the files by digest, and those that were left out
      changes.patch       the difference from the commit
      plugins/HASH/       the plug-in files that the recipe, or an evaluation, names

Other code is added beside it; nothing is changed. Files that are equal in several folders of a run,
or of the runs of a group, are hard links. Jobs that train several runs of a group import from
`code/` in the folder of the group.
"""

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from importlib import metadata
from pathlib import Path
from typing import Literal

from cld_core.digests import checksum, digest, digest_of
from cld_core.errors import CldError
from cld_core.files import retried
from cld_core.ownership import problem_of as ownership_problem
from cld_core.records import find_record, record

from .ledger import Ledger

PACKAGES = ("cld_core", "cldctl")
# The folder that the packages of this process are in.
ROOT = Path(__file__).resolve().parents[2]
CODE = "code"
MANIFEST = "manifest.json"
PATCH = "changes.patch"
PLUGINS = "plugins"
# Suffixes of the files that Python imports.
_IMPORTABLE = (".py", ".so", ".pyc")
# The valid names of code in a ledger, which other users may have written.
_NAME = re.compile("live|[0-9a-f]{64}")
# Digits of the digest in the name of its folder.
_DIGITS = 16
# Seconds for which a job tries to read the name of its code.
_READ_WITHIN_S = 30.0


class DamagedCode(CldError):
    """The stored code of a run has changed since it was stored."""


@record
class Plugin:
    """A plug-in file.

    Attributes:
        path: its path in the recipe.
        file: the name of its copy below the folder of code.
    """

    path: str
    file: str
    sha256: str


@record
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        kind: copy: the job runs the files here; installed: an installed package, which is not
            copied; live: the checkout itself, on request; process: the code of the command, on a
            cluster that blocks.
        digest: digest of the files (copy), or of the package's own list of files (installed); else
            empty.
        files: SHA-256 by name.
        left_out: by name of a file without a copy, the reason.
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
        """The name of the code in a request: a digest, or "live"."""
        if self.kind == "live":
            return "live"
        return _with_plugins(self.digest or digest(self.kind), self.plugins)

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
    """The name of the code in a folder, as in a request; None if there is none."""
    manifest = read(folder)
    return None if manifest is None else manifest.code


def place_of(folder: Path, name: str) -> Path:
    """The folder of the code of a digest, in the folder of a run or group; it may be missing."""
    return folder / CODE / name[:_DIGITS]


def folder_of(run: Path) -> Path | None:
    """The folder of the code in the newest request of a run; None if the request has none.

    The folder may be missing.

    Raises:
        OSError: the ledger cannot be read.
    """
    name = Ledger(run / "attempts.jsonl").history().stored
    if name is None or not _NAME.fullmatch(name):
        return None
    return place_of(run, name)


def importable(folder: Path | None) -> Path | None:
    """The folder that jobs import from; None for an installed package or the live checkout."""
    return None if _copy_in(folder) is None else folder


def _copy_in(folder: Path | None) -> Manifest | None:
    """The manifest in a folder of code that jobs import; None for another kind of code."""
    manifest = read(folder)
    return manifest if manifest is not None and manifest.kind == "copy" else None


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
    """The digest of the code that this process has imported, with its plug-ins.

    " edited" follows it if the code was changed after it was stored.
    """
    own = _copy_in(ROOT)
    if own is not None:
        return _with_plugins(own.digest, plugins) + (" edited" if edited() else "")
    record = installed()
    if record is not None:
        return _with_plugins(record, plugins)
    # Without a digest, the code is still known to be a live checkout.
    try:
        return f"live {_with_plugins(_sources(), plugins)}"
    except OSError:
        return "live"


@functools.cache
def edited() -> str | None:
    """How the code of this process was changed after it was stored; None if it was not."""
    own = _copy_in(ROOT)
    return None if own is None else problem_of(ROOT, own)


@functools.cache
def installed() -> str | None:
    """The digest of the installed package's own list of files; None if a checkout runs."""
    try:
        package = metadata.distribution("cldctl")
        file = Path(str(package.locate_file("cld_core/__init__.py"))).resolve()
        if file != ROOT / "cld_core" / "__init__.py":
            return None
        record = package.read_text("RECORD")
    except (metadata.PackageNotFoundError, OSError, UnicodeDecodeError):
        return None
    return None if record is None else digest(record)


@functools.cache
def _sources() -> str:
    """A digest of the Python files of the packages of this process."""
    return digest({name: checksum(ROOT / name) for name in sources()})


def sources() -> list[str]:
    """The Python files of the packages of this process, relative to `ROOT`."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return sorted(str(file.relative_to(ROOT)) for file in files if not file.is_symlink())


def with_copies(plugins: Sequence[str], folder: Path | None) -> tuple[str, ...]:
    """Plug-ins, with files replaced by their copies in a folder of code."""
    copies = {plugin.path: copy for copy, plugin in copies_in(folder).items()}
    return tuple(copies.get(plugin, plugin) for plugin in plugins)


def problem_of(folder: Path, manifest: Manifest) -> str | None:
    """How the files in a folder of code differ from its manifest; None if they do not."""
    checksums = manifest.checksums
    for name, sha256 in checksums.items():
        try:
            status = os.lstat(folder / name)
            # A hard link in another run may have been opened to a group.
            if problem := ownership_problem(status):
                return f"{name}: {problem}; `chmod -R go-w` takes write access away"
            if digest_of(folder / name) != sha256:
                return f"{name} was changed"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    for name in _importable(folder):
        if name not in checksums:
            return f"{name} was added"
    return None


def _importable(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        inside = Path(parent).relative_to(folder)
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

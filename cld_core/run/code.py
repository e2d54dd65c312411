"""The code of a run: what was stored in its folder when it was submitted, and what a process has imported.

code/                 the files of the checkout, importable; of a colleague who continues the run: code-NAME/
  manifest.json       what is in it, by digest, and what was left out
  changes.patch       what differed from the commit
  recipe.yaml         the recipe as it was submitted
  plugins/HASH/       the plug-in files that the recipe names
  earlier/DIGEST/     manifest, patch and plug-ins of the code before `resume --update-code`

Runs of a group share one copy, RUNS/.groups/GROUP/code/, to which the manifest of each points.
"""

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

from cld_core import ownership
from cld_core.codec import find_record
from cld_core.digests import checksum, digest
from cld_core.errors import CldError
from cld_core.files import read_object

PACKAGES = ("cld_core", "cldctl")
# The folder that the packages of this process are in.
ROOT = Path(__file__).resolve().parents[2]
MANIFEST, PATCH, RECIPE, PLUGINS, EARLIER = "manifest.json", "changes.patch", "recipe.yaml", "plugins", "earlier"
# What is in a folder of code beside the files of the checkout.
_OURS = (MANIFEST, PATCH, RECIPE)
# What Python would import, were it there.
_IMPORTABLE = (".py", ".so", ".pyc")
# Beside the runs, what those of a group share.
GROUPS = ".groups"
_SHARED = re.compile(rf"{re.escape(GROUPS)}/([A-Za-z0-9][A-Za-z0-9._-]*)/code(-[0-9a-f]+)?")


class DamagedCode(CldError):
    """The stored code of a run is not what was stored."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plug-in file: where the recipe has it, its copy's name below the folder of code, and its SHA-256."""

    path: str
    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` holds.

    Attributes:
        kind: copy: the job runs the files here; installed: an installed package, of which there is no copy; live: the
            checkout itself.
        asked: whether somebody asked for the live checkout; else it is the cluster that runs in the command's process.
        digest: of the files (copy) or of the package's own list (installed); empty for live.
        files: SHA-256 by name.
        left_out: why, by name.
        shared: where the files are that all runs of a group share, relative to the folder of the runs; None if they are
            beside the manifest.
    """

    kind: Literal["copy", "installed", "live"]
    asked: bool = False
    digest: str = ""
    commit: str | None = None
    dirty: bool | None = None
    version: str | None = None
    root: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    plugins: tuple[Plugin, ...] = ()
    shared: str | None = None

    @property
    def code(self) -> str:
        """What a request records: a digest, or "live"."""
        return "live" if self.kind == "live" else _with_plugins(self.digest, self.plugins)


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """What the `manifest.json` of a run holds that shares the code of its group: where it is, and its digest."""

    shared: str
    code: str


def read(folder: Path) -> Manifest | None:
    """The manifest in a folder of code; None if there is none, or it is damaged."""
    if (pointer := find_record(Pointer, folder / MANIFEST)) is not None:
        return _read_shared(folder, pointer)
    manifest = find_record(Manifest, folder / MANIFEST)
    if manifest is None:
        return None
    names = (*manifest.files, *(plugin.file for plugin in manifest.plugins))
    is_whole = manifest.kind != "copy" or manifest.digest == digest(manifest.files)
    return manifest if is_whole and all(map(_is_inside, names)) else None


def _read_shared(folder: Path, pointer: Pointer) -> Manifest | None:
    """The manifest to which that of a run points: of the run's own group, and of the code that the run had at first."""
    found = _SHARED.fullmatch(pointer.shared)
    if found is None or read_object(folder.parent / "run.json").get("group") != found[1]:
        return None
    manifest = read(folder.parent.parent / pointer.shared)
    return None if manifest is None or manifest.code != pointer.code else replace(manifest, shared=pointer.shared)


def place(folder: Path, manifest: Manifest) -> Path:
    """Where the files are that the manifest in a run's folder of code lists."""
    return folder if manifest.shared is None else folder.parent.parent / manifest.shared


def own_folder(run: Path) -> Path:
    """Where this user's jobs of a run find its code: `code`, or in another user's run a folder of their own beside it.

    What somebody else has put into the place of `code` is not this user's either.
    """
    folder = run / "code"
    try:
        if ownership.is_mine(run) and (not os.path.lexists(folder) or ownership.is_mine(folder)):
            return folder
    except OSError:
        return folder
    name = ownership.user_name(os.geteuid())
    return run / f"code-{name if re.fullmatch(r'[A-Za-z0-9._-]+', name) else os.geteuid()}"


def folder_of(run: Path) -> Path:
    """Where the code of a run is read: this user's, or else that of the run's owner."""
    own = own_folder(run)
    return own if os.path.lexists(own) else run / "code"


def path_of(run: Path) -> Path | None:
    """What the jobs of a run import from, before anything else; None for what is installed, or the live checkout."""
    folder = own_folder(run)
    manifest = read(folder)
    return place(folder, manifest) if manifest is not None and manifest.kind == "copy" else None


def copies_of(run: Path) -> dict[str, Plugin]:
    """The copies of plug-in files that the code of a run holds, by their paths."""
    folder = folder_of(run)
    manifest = read(folder)
    if manifest is None:
        return {}
    return {str(place(folder, manifest) / plugin.file): plugin for plugin in manifest.plugins}


def running(run: Path) -> str:
    """The digest of the code that this process has imported, and of the plug-ins of ``run``."""
    manifest = read(folder_of(run))
    return imported(() if manifest is None else manifest.plugins)


def imported(plugins: Sequence[Plugin] = ()) -> str:
    """The digest of the code that this process has imported; "edited" behind it if it was changed after it was stored.

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
    """How the copy that this process runs differs from what was stored, in words; None if it does not, or is none."""
    own = read(ROOT)
    return problem_of(ROOT, own) if own is not None and own.kind == "copy" else None


@functools.cache
def installed() -> str | None:
    """The digest of the installed package's own list of files and hashes; None if this process runs a checkout."""
    try:
        package = metadata.distribution("cldctl")
        is_this = Path(str(package.locate_file("cld_core/__init__.py"))).resolve() == ROOT / "cld_core" / "__init__.py"
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
    found = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py") if not file.is_symlink())
    return sorted(str(file.relative_to(ROOT)) for file in found)


def with_copies(plugins: Sequence[str], run: Path) -> tuple[str, ...]:
    """Plug-ins with the copies of files that the folder of ``run`` holds in place of the files."""
    if not any(plugin.endswith(".py") for plugin in plugins):
        return tuple(plugins)
    copies = {plugin.path: copy for copy, plugin in copies_of(run).items()}
    return tuple(copies.get(plugin, plugin) for plugin in plugins)


def problem_of(folder: Path, manifest: Manifest) -> str | None:
    """How the files in a folder of code differ from its manifest, in words; None if they do not. Reads all of them."""
    folder = place(folder, manifest)
    wanted = {**manifest.files, **{plugin.file: plugin.sha256 for plugin in manifest.plugins}}
    for name, sha256 in wanted.items():
        try:
            if checksum(folder / name) != sha256:
                return f"{name} was changed"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return next((f"{name} was added" for name in _importable(folder) if name not in wanted), None)


def _importable(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        # Nothing imports what is kept of earlier code.
        kept = (EARLIER,) if Path(place) == folder else ()
        folders[:] = [name for name in folders if name != "__pycache__" and name not in kept]
        inside = Path(place).relative_to(folder)
        yield from (str(inside / name) for name in sorted(files) if name.endswith(_IMPORTABLE))


def _with_plugins(code: str, plugins: Sequence[Plugin]) -> str:
    return code if not plugins else digest({"code": code, "plugins": sorted(plugin.sha256 for plugin in plugins)})


def _is_inside(name: str) -> bool:
    """Whether a name leads to a file below the folder of code."""
    return not os.path.isabs(name) and ".." not in Path(name).parts and name not in _OURS

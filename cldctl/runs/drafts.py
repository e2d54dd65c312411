"""Filling a folder of code (`cld_core.run.code`): it is made under another name, and gets its own when it is whole."""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cld_core.errors import CldError, UsageError
from cld_core.recipe import Recipe
from cld_core.run import RunFolder, code
from cld_core.run.atomic import write_json
from cld_core.run.code import Manifest, Plugin
from cld_core.small_files import read_bytes
from cld_core.version import __version__
from cldctl.clusters.base import Cluster

from . import checkout

# A plug-in is somebody's own Python file.
_MAX_PLUGIN_BYTES = 4 * 2**20


def kind_for(cluster: Cluster, live: bool = False) -> str:
    """What `Manifest.kind` would be now: a cluster that blocks runs in this process."""
    if live or cluster.blocks:
        return "live"
    return "copy" if code.installed() is None else "installed"


def require_importable(path: Path) -> None:
    """Refuse a folder from which Python cannot import.

    Raises:
        UsageError
    """
    if os.pathsep in str(path):
        text = f"Python cannot import from a path with '{os.pathsep}'"
        raise UsageError(f"{path}: {text}. Use another --runs-dir, or pass --live-code.")


def copy_file(source: Path, target: Path, name: str) -> None:
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    (target / name).write_bytes(read_bytes(source / name))


def filled(
    draft: Path, root: Path, kind: str, git: Mapping[str, Any], plugins: Iterable[Plugin], *, asked: bool = False
) -> Manifest:
    """Fill the folder ``draft`` with the code of this process, and describe what is in it.

    Args:
        root: the folder of the runs.
        plugins: those that are copied into it, as `copied_plugins` does; of a checkout that was asked for, none.
    """
    copied, digest = checkout.Copied(), ""
    if kind == "copy":
        copied = checkout.copy(draft, root)
        digest = copied.digest
        (draft / code.PATCH).write_bytes(checkout.patch(copied.left_out).encode(errors="surrogateescape"))
    elif kind == "installed":
        digest = code.installed() or ""
    return Manifest(
        kind="copy" if kind == "copy" else "installed" if kind == "installed" else "live",
        asked=asked,
        digest=digest,
        commit=git.get("commit") if kind != "installed" else None,
        dirty=git.get("dirty") if kind != "installed" else None,
        version=__version__,
        root=str(code.ROOT),
        files=copied.files,
        left_out=copied.left_out,
        plugins=tuple(plugins),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_json(folder / code.MANIFEST, asdict(manifest))


def store_recipe(draft: Path, run: RunFolder) -> None:
    """Keep the recipe as it was submitted beside the code."""
    original = code.folder_of(run.path) / code.RECIPE
    (draft / code.RECIPE).write_bytes(read_bytes(original if original.exists() else run.recipe_file))


def copied_plugins(draft: Path, run: RunFolder, recipe: Recipe, *, renew: bool = False) -> Iterator[Plugin]:
    """Copy the plug-in files of ``recipe``, or the run's own copies of them.

    Args:
        renew: take them from where they were at first, unless that is gone.
    """
    before = code.folder_of(run.path)
    known = code.read(before)
    files = before if known is None else code.place(before, known)
    copies = {} if known is None else {str(files / plugin.file): plugin.path for plugin in known.plugins}
    for place in plugin_files(recipe):
        original = copies.get(place, place)
        yield copy_plugin(draft, Path(original if renew and os.path.isfile(original) else place), original)


def plugin_files(recipe: Recipe) -> list[str]:
    return [place for place in dict.fromkeys(code.plugin_paths(recipe).values()) if place.endswith(".py")]


def copy_plugin(folder: Path, source: Path, original: str) -> Plugin:
    """Copy a plug-in file, which may be a link, into a folder of code."""
    content = read_bytes(source, limit=_MAX_PLUGIN_BYTES, follow=True)
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"{code.PLUGINS}/{sha256[:16]}/{source.name}"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return Plugin(path=original, file=name, sha256=sha256)


@contextlib.contextmanager
def draft_in(folder: Path) -> Iterator[Path]:
    """A folder inside ``folder`` to be filled, which is gone afterwards unless it was given a name.

    Raises:
        CldError: it cannot be written.
    """
    draft = folder / f".code.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        with ours_alone():
            draft.mkdir()
            yield draft
    except OSError as error:
        place = error.filename or draft
        text = f"{place}: the code of the run cannot be stored ({error.strerror or error})"
        raise CldError(f"{text}. Fix that, or pass --live-code.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def ours_alone() -> Iterator[None]:
    """In this block, nobody else gets the right to write into new files: a job will run what is in them."""
    before = os.umask(0o077)
    os.umask(before | 0o022)
    try:
        yield
    finally:
        os.umask(before)


def put_in_place(folder: Path, draft: Path) -> None:
    """Give a draft its name. What had the name is kept aside until there is a job: `drop_replaced`, `put_back`."""
    if os.path.lexists(folder):
        shutil.rmtree(_aside(folder), ignore_errors=True)
        folder.rename(_aside(folder))
    draft.rename(folder)


def drop_replaced(run: RunFolder) -> None:
    """A job runs the code of ``run``: what it replaced is not needed any more."""
    shutil.rmtree(_aside(code.own_folder(run.path)), ignore_errors=True)


def put_back(run: RunFolder) -> None:
    """There is no job: the code that was replaced for it is that of the run again."""
    folder = code.own_folder(run.path)
    if os.path.lexists(_aside(folder)):
        shutil.rmtree(folder, ignore_errors=True)
        _aside(folder).rename(folder)


def settle(run: RunFolder) -> None:
    """After a command that was killed between the code and the job: the ledger says which code was asked for."""
    folder = code.own_folder(run.path)
    if not os.path.lexists(_aside(folder)):
        return
    stored = code.read(folder)
    if stored is None or stored.code != run.ledger.history().code:
        put_back(run)
    else:
        drop_replaced(run)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")

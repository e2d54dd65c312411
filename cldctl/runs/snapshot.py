"""The code that a run was submitted with is stored in its folder, and its jobs run that (`cld_core.run.code`)."""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cld_core import ownership
from cld_core.codec import to_plain
from cld_core.config import Recipe
from cld_core.digests import checksum
from cld_core.errors import CldError, UsageError
from cld_core.files import read_bytes, write_json
from cld_core.run import RunFolder, code
from cld_core.run.code import Manifest, Plugin
from cld_core.version import __version__
from cldctl.clusters.base import Cluster
from cldctl.hints import command

from . import checkout

# Of the files that are left out, so many are named.
_SHOWN = 5
# A plug-in is somebody's own Python file.
_MAX_PLUGIN_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What somebody wants of the code of a run.

    Attributes:
        live: run the checkout itself, whatever it becomes.
        update: of a run that has code, take that of the checkout in its place.
        trusted: whether code that somebody else has stored may run.
        checked: folders of code that are known to be whole: many runs may share one.
    """

    live: bool = False
    update: bool = False
    trusted: bool = False
    checked: set[Path] = field(default_factory=set)


def store(run: RunFolder, recipe: Recipe, cluster: Cluster, wish: Wish = Wish()) -> Manifest:
    """Store the code of this process, and the plug-ins of ``recipe``, in place of what the run has had.

    Raises:
        UsageError: it is too large, or the path of the run cannot be searched for modules.
        RecipeError: a plug-in cannot be read.
        CldError: it cannot be written.
    """
    folder = code.own_folder(run.path)
    require_importable(run.path)
    with draft_in(run.path) as draft:
        git = run.identity().get("git") or {}
        kind = kind_for(cluster, wish.live)
        plugins = () if wish.live else copied_plugins(draft, run, recipe, renew=wish.update)
        manifest = filled(draft, run.path.parent, kind, git, plugins, asked=wish.live)
        write_manifest(draft, manifest)
        store_recipe(draft, run)
        _keep_earlier(folder, draft)
        put_in_place(folder, draft)
    return manifest


def for_continuation(run: RunFolder, recipe: Recipe, cluster: Cluster, wish: Wish) -> Manifest:
    """The code with which a run continues: its own, unless another one is wished for or it has none.

    Raises:
        CldError: it is damaged, or somebody else stored it; names the fix.
    """
    settle(run)
    folder = code.own_folder(run.path)
    manifest = code.read(folder)
    if manifest is None and not wish.update and (theirs := code.read(run.path / "code")) is not None:
        return _as_theirs(run, recipe, cluster, wish, theirs)
    if manifest is None and not wish.update and _is_lost(run, folder):
        raise _damaged(run, f"{code.MANIFEST} cannot be read")
    keeps = manifest is not None and (manifest.kind == "copy" or (manifest.kind == "live" and manifest.asked))
    if manifest is None or wish.update or not keeps:
        return store(run, recipe, cluster, wish)
    if manifest.kind == "copy":
        for place in {folder, code.place(folder, manifest)}:
            ownership.require_private(place, "the job would run what is in it")
        if code.place(folder, manifest) not in wish.checked:
            _require_whole(run, folder, manifest)
            wish.checked.add(code.place(folder, manifest))
    return _with_new_plugins(run, folder, manifest, recipe)


def _is_lost(run: RunFolder, folder: Path) -> bool:
    """Whether there is code without a manifest to go by, of a run that has asked for stored code."""
    if os.path.lexists(folder / code.MANIFEST):
        return True
    return os.path.lexists(code.folder_of(run.path)) and run.ledger.history().code not in (None, "live")


def requested(manifest: Manifest, cluster: Cluster) -> str:
    """What a request says about its code: a cluster that blocks runs this process's own."""
    return "live" if cluster.blocks else manifest.code


def _as_theirs(run: RunFolder, recipe: Recipe, cluster: Cluster, wish: Wish, theirs: Manifest) -> Manifest:
    """The code of a run that somebody else has stored, in a folder of this user's: jobs run nothing of theirs unasked.

    Raises:
        CldError: it is not that of this user's checkout, and not trusted.
    """
    if theirs.kind != "copy" or cluster.blocks:
        return store(run, recipe, cluster, replace(wish, live=theirs.asked))
    source = run.path / "code"
    is_mine_too = _has(code.ROOT, theirs)
    if not is_mine_too and not wish.trusted:
        owner = ownership.user_name(source.lstat().st_uid)
        text = f"{source}: it was stored by {owner}, is not the code of your checkout, and the job would run it"
        update = command(f"resume {run.name} --update-code", run)
        raise CldError(f"{text}. If you trust it, add --allow-plugin; to run your own: `{update}`.")
    _require_whole(run, source, theirs)
    files, theirs = code.place(source, theirs), replace(theirs, shared=None)
    with draft_in(run.path) as draft:
        for name in theirs.files:
            copy_file(code.ROOT if is_mine_too else files, draft, name)
        others = [(files, plugin.file) for plugin in theirs.plugins]
        others += [(place, name) for place, name in ((files, code.PATCH), (source, code.RECIPE))
                   if os.path.isfile(place / name)]  # fmt: skip
        for place, name in others:
            copy_file(place, draft, name)
        write_manifest(draft, theirs)
        put_in_place(code.own_folder(run.path), draft)
    return theirs


def _has(root: Path, manifest: Manifest) -> bool:
    """Whether a checkout holds the very files of a manifest."""
    try:
        return all(checksum(root / name) == sha256 for name, sha256 in manifest.files.items())
    except OSError:
        return False


def _with_new_plugins(run: RunFolder, folder: Path, manifest: Manifest, recipe: Recipe) -> Manifest:
    """Copy those plug-ins of ``recipe`` that the run's code lacks, such as one that an override names."""
    if manifest.kind == "live":
        return manifest
    copies = {str(code.place(folder, manifest) / plugin.file) for plugin in manifest.plugins}
    # One that is named by the path of its original is wanted as it is now.
    new = [place for place in plugin_files(recipe) if place not in copies]
    if not new:
        return manifest
    # A copy of the run's own: the others of a group go on without what is added, and so does this one without a job.
    files = code.place(folder, manifest)
    with draft_in(run.path) as draft:
        for name in (*manifest.files, *(plugin.file for plugin in manifest.plugins)):
            copy_file(files, draft, name)
        if (files / code.PATCH).exists():
            copy_file(files, draft, code.PATCH)
        if (folder / code.EARLIER).is_dir():
            shutil.copytree(folder / code.EARLIER, draft / code.EARLIER)
        store_recipe(draft, run)
        added = [copy_plugin(draft, Path(place), place) for place in new]
        kept = [plugin for plugin in manifest.plugins if plugin.path not in new]
        manifest = replace(manifest, plugins=(*kept, *added), shared=None)
        write_manifest(draft, manifest)
        put_in_place(folder, draft)
    return manifest


def _require_whole(run: RunFolder, folder: Path, manifest: Manifest) -> None:
    """Refuse code that is not what was stored."""
    problem = code.problem_of(folder, manifest)
    if problem is not None:
        raise _damaged(run, problem)


def _damaged(run: RunFolder, problem: str) -> CldError:
    folder = code.folder_of(run.path)
    update = command(f"resume {run.name} --update-code", run)
    text = f"{folder}: the code of the run is not what was stored with it: {problem}"
    return code.DamagedCode(f"{text}. Restore it from a backup, or take that of your checkout: `{update}`.")


def _keep_earlier(folder: Path, draft: Path) -> None:
    """Of the code that is replaced, manifest, patch and plug-ins stay: what earlier attempts ran can be made again."""
    if (folder / code.EARLIER).is_dir():
        shutil.copytree(folder / code.EARLIER, draft / code.EARLIER)
    before = code.read(folder)
    if before is None:
        return
    # As `status` names it, which is not what it is without its plug-ins.
    kept = draft / code.EARLIER / before.code[:16]
    kept.mkdir(parents=True, exist_ok=True)
    files = code.place(folder, before)
    for name in (code.MANIFEST, code.PATCH, *(plugin.file for plugin in before.plugins)):
        if os.path.isfile(files / name):
            copy_file(files, kept, name)


def left_out_code(run: RunFolder) -> str | None:
    """The Python files that were not copied with the code of a run, so that a job would miss them; None if all were."""
    manifest = code.read(code.own_folder(run.path))
    left = {} if manifest is None else manifest.left_out
    missed = [f"{name} ({why})" for name, why in left.items() if name.endswith(".py") and why != "it was deleted"]
    more = [f"{len(missed) - _SHOWN} more"] if len(missed) > _SHOWN else []
    return f"not copied with the code: {', '.join([*missed[:_SHOWN], *more])}" if missed else None


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
    write_json(folder / code.MANIFEST, to_plain(manifest))


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
    return [place for place in dict.fromkeys(recipe.plugins) if place.endswith(".py")]


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

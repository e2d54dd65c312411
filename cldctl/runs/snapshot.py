"""The code that a run was submitted with is stored in its folder, and its jobs run that (`cld_core.run.code`).

The runs of a group share one copy in the folder of the group, to which each of them points.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from cld_core import ownership
from cld_core.codec import to_plain
from cld_core.config import Recipe
from cld_core.digests import checksum, digest
from cld_core.errors import CldError, UsageError
from cld_core.files import read_bytes, write_json
from cld_core.run import RunFolder, code
from cld_core.run.code import Manifest, Plugin
from cld_core.run.groups import Group
from cld_core.run.identity import identity
from cld_core.version import __version__
from cldctl.clusters.base import Cluster

from . import checkout
from .selection import command

# Of the files that are left out, so many are named.
_SHOWN = 5
# A plug-in is somebody's own Python file.
_MAX_PLUGIN_BYTES = 4 * 2**20


def kind_for(cluster: Cluster, live: bool = False) -> Literal["copy", "installed", "live"]:
    """What `Manifest.kind` would be now: a cluster that blocks runs in this process."""
    if live or cluster.blocks:
        return "live"
    return "copy" if code.installed() is None else "installed"


def requested(manifest: Manifest, cluster: Cluster) -> str:
    """What a request says about its code: a cluster that blocks runs this process's own."""
    return "live" if cluster.blocks else manifest.code


def store(run: RunFolder, recipe: Recipe, cluster: Cluster, *, live: bool = False, update: bool = False) -> Manifest:
    """Store the code of this process, and the plug-ins of ``recipe``, in place of what the run has had.

    Args:
        live: run the checkout itself, whatever it becomes.
        update: take plug-ins from where they were at first, not the run's own copies.

    Raises:
        UsageError: it is too large, or the path of the run cannot be searched for modules.
        RecipeError: a plug-in cannot be read.
        CldError: it cannot be written.
    """
    folder = code.own_folder(run.path)
    with _draft_in(run.path) as draft:
        files = [] if live else plugin_files(run, recipe.plugins, renew=update)
        plugins = [_copy_plugin(draft, file, original) for file, original in files if file.endswith(".py")]
        manifest = _filled(draft, run.path.parent, cluster, live, run.identity(), plugins)
        if (before := code.read(folder)) is not None:
            # What earlier attempts ran can be made again. As `status` names it, not what it is without its plug-ins.
            kept, place = draft / code.EARLIER / before.code[:16], code.place(folder, before)
            _copy(place, kept, (code.MANIFEST, code.PATCH, *(plugin.file for plugin in before.plugins)))
        _put_in_place(run, draft)
    return manifest


def shared_folder(group: Group) -> Path:
    """Where the code of the first sweep of a group is."""
    return group.path / "code"


def store_shared(
    group: Group, recipes: Sequence[Recipe], file: Path, cluster: Cluster, *, live: bool = False
) -> Manifest | None:
    """Store the code of this process for new runs of a group, unless the group has it already.

    Args:
        file: where the recipes were read from.

    Returns:
        What `point` takes; None if there is nothing to share: jobs run an installed package, or the checkout itself.

    Raises:
        UsageError, RecipeError, CldError: as `store`.
    """
    if not recipes or kind_for(cluster, live) != "copy":
        return None
    with _draft_in(group.path) as draft:
        files = dict.fromkeys(path for recipe in recipes for path in recipe.plugins if path.endswith(".py"))
        plugins = [_copy_plugin(draft, path, path) for path in files]
        manifest = _filled(draft, group.root, cluster, live, identity(group.name, file), plugins)
        folder = shared_folder(group)
        if folder.exists() and not _holds(folder, manifest):
            folder = folder.with_name(f"code-{manifest.code[:12]}")
        if not _holds(folder, manifest):
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
    return replace(manifest, shared=str(folder.relative_to(group.root)))


def _holds(folder: Path, manifest: Manifest) -> bool:
    """Whether a folder has this very code, and nobody else can have changed it."""
    found = code.read(folder)
    is_same = found is not None and found.code == manifest.code and ownership.is_mine(folder)
    return is_same and code.problem_of(folder, manifest) is None


def point(run: RunFolder, manifest: Manifest) -> None:
    """Let a new run of a group use the code that its runs share."""
    assert manifest.shared is not None, "only a group's code is shared"
    with _draft_in(run.path) as draft:
        write_json(draft / code.MANIFEST, to_plain(code.Pointer(shared=manifest.shared, code=manifest.code)))
        _put_in_place(run, draft)


def for_continuation(
    run: RunFolder, recipe: Recipe, cluster: Cluster, checked: set[Path], *, update: bool = False, trusted: bool = False
) -> Manifest:
    """The code with which a run continues: its own, unless another one is wished for or it has none.

    Args:
        checked: folders of code that are known to be whole, to which this one is added: many runs may share one.
        update: take that of the checkout in its place.
        trusted: whether code that somebody else has stored may run.

    Raises:
        CldError: it is damaged, or somebody else stored it; names the fix.
    """
    settle(run)
    folder = code.own_folder(run.path)
    manifest = code.read(folder)
    if update:
        return store(run, recipe, cluster, update=True)
    if manifest is None:
        if (theirs := code.read(run.path / "code")) is not None:
            return _as_theirs(run, recipe, cluster, theirs, trusted)
        had_code = os.path.lexists(code.folder_of(run.path)) and run.ledger.history().code not in (None, "live")
        if had_code or os.path.lexists(folder / code.MANIFEST):
            raise _damaged(run, f"{code.MANIFEST} cannot be read")
    if manifest is None or manifest.kind == "installed" or (manifest.kind == "live" and not manifest.asked):
        return store(run, recipe, cluster)
    if manifest.kind == "live":
        return manifest
    place = code.place(folder, manifest)
    for entry in {folder, place}:
        ownership.require_private(entry, "the job would run what is in it")
    if place not in checked:
        _require_whole(run, folder, manifest)
        checked.add(place)
    # One that is named by the path of its original is wanted as it is now.
    copies = code.copies_of(run.path)
    new = [path for path in dict.fromkeys(recipe.plugins) if path.endswith(".py") and path not in copies]
    # A copy of the run's own: the others of a group go on without what is added, and so does this one without a job.
    return _copy_of(run, folder, manifest, new) if new else manifest


def _as_theirs(run: RunFolder, recipe: Recipe, cluster: Cluster, theirs: Manifest, trusted: bool) -> Manifest:
    """The code of a run that somebody else has stored, in a folder of this user's: jobs run nothing of theirs unasked.

    Raises:
        CldError: it is not that of this user's checkout, and not trusted.
    """
    if theirs.kind != "copy" or cluster.blocks:
        return store(run, recipe, cluster, live=theirs.asked)
    source, is_mine_too = run.path / "code", False
    with contextlib.suppress(OSError):
        is_mine_too = all(checksum(code.ROOT / name) == sha256 for name, sha256 in theirs.files.items())
    if not is_mine_too and not trusted:
        owner = ownership.user_name(source.lstat().st_uid)
        text = f"{source}: it was stored by {owner}, is not the code of your checkout, and the job would run it"
        update = command(f"resume {run.name} --update-code", run)
        raise CldError(f"{text}. If you trust it, add --allow-plugin; to run your own: `{update}`.")
    _require_whole(run, source, theirs)
    return _copy_of(run, source, theirs)


def _copy_of(run: RunFolder, source: Path, manifest: Manifest, new: Sequence[str] = ()) -> Manifest:
    """A copy of the code in ``source``, with further plug-ins, in this user's folder of code."""
    with _draft_in(run.path) as draft:
        plugins = (plugin.file for plugin in manifest.plugins)
        _copy(code.place(source, manifest), draft, (*manifest.files, code.PATCH, *plugins))
        added = [_copy_plugin(draft, path, path) for path in new]
        kept = [plugin for plugin in manifest.plugins if plugin.path not in new]
        manifest = replace(manifest, plugins=(*kept, *added), shared=None)
        # Others may have changed what was whole a moment ago.
        _require_whole(run, draft, manifest)
        write_json(draft / code.MANIFEST, to_plain(manifest))
        _put_in_place(run, draft)
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


def left_out_code(run: RunFolder) -> str | None:
    """The Python files that were not copied with the code of a run, so that a job would miss them; None if all were."""
    manifest = code.read(code.own_folder(run.path))
    left = {} if manifest is None else manifest.left_out
    missed = [f"{name} ({why})" for name, why in left.items() if name.endswith(".py") and why != "it was deleted"]
    more = [f"{len(missed) - _SHOWN} more"] if len(missed) > _SHOWN else []
    return f"not copied with the code: {', '.join([*missed[:_SHOWN], *more])}" if missed else None


def plugin_files(run: RunFolder, plugins: Sequence[str], *, renew: bool) -> list[tuple[str, str]]:
    """Where each plug-in is imported from, and what it was called at first.

    Args:
        renew: in place of the run's own copies, what they were made of, unless that is gone.
    """
    copies, found = code.copies_of(run.path), []
    for path in dict.fromkeys(plugins):
        original = copies[path].path if path in copies else path
        found.append((original if renew and os.path.isfile(original) else path, original))
    return found


def _filled(
    draft: Path, root: Path, cluster: Cluster, live: bool, about: Mapping[str, Any], plugins: Sequence[Plugin]
) -> Manifest:
    """Fill the folder ``draft`` with the code of this process, and describe what is in it.

    Args:
        root: the folder of the runs.
        live: as in `store`.
        about: the identity of the run or group.
        plugins: those that were copied into it.
    """
    kind, git = kind_for(cluster, live), about.get("git") or {}
    files: dict[str, str] = {}
    left_out: dict[str, str] = {}
    stored = ""
    if kind == "copy":
        if os.pathsep in str(draft):
            text = f"Python cannot import from a path with '{os.pathsep}'"
            raise UsageError(f"{draft.parent}: {text}. Use another --runs-dir, or pass --live-code.")
        files, left_out = checkout.copy(draft, root)
        stored = digest(files)
        (draft / code.PATCH).write_bytes(checkout.patch(left_out).encode(errors="surrogateescape"))
    elif kind == "installed":
        git, stored = {}, code.installed() or ""
    manifest = Manifest(
        kind=kind,
        asked=live,
        digest=stored,
        commit=git.get("commit"),
        dirty=git.get("dirty"),
        version=__version__,
        root=str(code.ROOT),
        files=files,
        left_out=left_out,
        plugins=tuple(plugins),
    )
    write_json(draft / code.MANIFEST, to_plain(manifest))
    return manifest


def _copy(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy those files that are there: there need be no patch, and of a group's code, the manifest is elsewhere."""
    for name in names:
        if os.path.isfile(source / name):
            checkout.write(target / name, read_bytes(source / name))


def _copy_plugin(folder: Path, source: str, original: str) -> Plugin:
    """Copy a plug-in file, which may be a link, into a folder of code."""
    content = read_bytes(Path(source), limit=_MAX_PLUGIN_BYTES, follow=True)
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"{code.PLUGINS}/{sha256[:16]}/{Path(source).name}"
    checkout.write(folder / name, content)
    return Plugin(path=original, file=name, sha256=sha256)


@contextlib.contextmanager
def _draft_in(folder: Path) -> Iterator[Path]:
    """A folder inside ``folder`` to be filled, which is gone afterwards unless it was given a name.

    Meanwhile nobody else gets the right to write into new files: a job will run what is in them.

    Raises:
        CldError: it cannot be written.
    """
    draft = folder / f".code.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    umask = os.umask(0o077)
    os.umask(umask | 0o022)
    try:
        draft.mkdir()
        yield draft
    except OSError as error:
        place = error.filename or draft
        text = f"{place}: the code of the run cannot be stored ({error.strerror or error})"
        raise CldError(f"{text}. Fix that, or pass --live-code.") from error
    finally:
        os.umask(umask)
        shutil.rmtree(draft, ignore_errors=True)


def _put_in_place(run: RunFolder, draft: Path) -> None:
    """Make a draft the code of a run, with the recipe as it was submitted, and what is kept of earlier code.

    What had its name is kept aside: see `settle`.
    """
    folder, original = code.own_folder(run.path), code.folder_of(run.path) / code.RECIPE
    (draft / code.RECIPE).write_bytes(read_bytes(original if original.exists() else run.recipe_file))
    if os.path.lexists(folder):
        if (folder / code.EARLIER).is_dir():
            shutil.copytree(folder / code.EARLIER, draft / code.EARLIER, dirs_exist_ok=True)
        shutil.rmtree(_aside(folder), ignore_errors=True)
        folder.rename(_aside(folder))
    draft.rename(folder)


def settle(run: RunFolder, *, has_job: bool | None = None) -> None:
    """Which code the run has after it was replaced: the new one if a job runs it, else the one before.

    Args:
        has_job: None after a command that was killed between the code and the job: the ledger says which code was
            asked for.
    """
    folder = code.own_folder(run.path)
    if not os.path.lexists(_aside(folder)):
        return
    if has_job is None:
        stored = code.read(folder)
        has_job = stored is not None and stored.code == run.ledger.history().code
    if has_job:
        shutil.rmtree(_aside(folder), ignore_errors=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        _aside(folder).rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")

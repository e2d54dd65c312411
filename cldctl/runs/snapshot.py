"""The code that a run was submitted with is stored in its folder, and its jobs run that (`cld_core.run.code`)."""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cld_core import ownership
from cld_core.digests import checksum
from cld_core.errors import CldError, UsageError
from cld_core.recipe import Recipe
from cld_core.run import RunFolder, code
from cld_core.run.atomic import write_json
from cld_core.run.code import Manifest, Plugin
from cld_core.small_files import read_bytes
from cld_core.version import __version__
from cldctl.clusters.base import Cluster
from cldctl.hints import command

from . import checkout

# A plug-in is somebody's own Python file.
_MAX_PLUGIN_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What somebody wants of the code of a run.

    Attributes:
        live: run the checkout itself, whatever it becomes.
        update: of a run that has code, take that of the checkout in its place.
        trusted: whether code that somebody else has stored may run.
    """

    live: bool = False
    update: bool = False
    trusted: bool = False


def kind_for(cluster: Cluster, live: bool = False) -> str:
    """What `Manifest.kind` would be now: a cluster that blocks runs in this process."""
    if live or cluster.blocks:
        return "live"
    return "copy" if code.installed() is None else "installed"


def store(run: RunFolder, recipe: Recipe, cluster: Cluster, wish: Wish = Wish()) -> Manifest:
    """Store the code of this process, and the plug-ins of ``recipe``, in place of what the run has had.

    Raises:
        UsageError: it is too large, or the path of the run cannot be searched for modules.
        RecipeError: a plug-in cannot be read.
        CldError: it cannot be written.
    """
    folder = code.own_folder(run.path)
    if os.pathsep in str(folder):
        text = f"Python cannot import from a path with '{os.pathsep}'"
        raise UsageError(f"{run.path}: {text}. Use another --runs-dir, or pass --live-code.")
    with _draft(run) as draft:
        manifest = _filled(draft, run, recipe, kind_for(cluster, wish.live), asked=wish.live)
        _keep_earlier(folder, draft)
        _replace(folder, draft)
    return manifest


def for_continuation(run: RunFolder, recipe: Recipe, cluster: Cluster, wish: Wish) -> Manifest:
    """The code with which a run continues: its own, unless another one is wished for or it has none.

    Raises:
        CldError: it is damaged, or somebody else stored it; names the fix.
    """
    folder = code.own_folder(run.path)
    manifest = code.read(folder)
    if manifest is None and not wish.update and (theirs := code.read(run.path / "code")) is not None:
        return _as_theirs(run, recipe, cluster, wish, theirs)
    if manifest is None and os.path.lexists(folder / code.MANIFEST) and not wish.update:
        raise _damaged(run, f"{code.MANIFEST} cannot be read")
    keeps = manifest is not None and (manifest.kind == "copy" or (manifest.kind == "live" and manifest.asked))
    if manifest is None or wish.update or not keeps:
        return store(run, recipe, cluster, wish)
    if manifest.kind == "copy":
        ownership.require_private(folder, "the job would run what is in it")
        _require_whole(run, folder, manifest)
    return _with_new_plugins(run, folder, manifest, recipe)


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
        owner = ownership.user_name(ownership.owner(source))
        text = f"{source}: it was stored by {owner}, is not the code of your checkout, and the job would run it"
        update = command(f"resume {run.name} --update-code", run)
        raise CldError(f"{text}. If you trust it, add --allow-plugin; to run your own: `{update}`.")
    _require_whole(run, source, theirs)
    with _draft(run) as draft:
        for name in theirs.files:
            _copy_file(code.ROOT if is_mine_too else source, draft, name)
        others = [name for name in (code.PATCH, code.RECIPE) if os.path.isfile(source / name)]
        for name in (*(plugin.file for plugin in theirs.plugins), *others):
            _copy_file(source, draft, name)
        _write(draft, theirs)
        _replace(code.own_folder(run.path), draft)
    return theirs


def _has(root: Path, manifest: Manifest) -> bool:
    """Whether a checkout holds the very files of a manifest."""
    try:
        return all(checksum(root / name) == sha256 for name, sha256 in manifest.files.items())
    except OSError:
        return False


def _copy_file(source: Path, target: Path, name: str) -> None:
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    (target / name).write_bytes(read_bytes(source / name))


def _filled(draft: Path, run: RunFolder, recipe: Recipe, kind: str, *, asked: bool = False) -> Manifest:
    """Fill the folder ``draft``, and describe what is in it."""
    git = run.identity().get("git") or {}
    copied, digest = checkout.Copied(), ""
    if kind == "copy":
        copied = checkout.copy(draft, run.path.parent)
        digest = copied.digest
        (draft / code.PATCH).write_bytes(checkout.patch(copied.left_out).encode(errors="surrogateescape"))
    elif kind == "installed":
        digest = code.installed() or ""
    manifest = Manifest(
        kind="copy" if kind == "copy" else "installed" if kind == "installed" else "live",
        asked=asked,
        digest=digest,
        commit=git.get("commit") if kind != "installed" else None,
        dirty=git.get("dirty") if kind != "installed" else None,
        version=__version__,
        root=str(code.ROOT),
        files=copied.files,
        left_out=copied.left_out,
        # The checkout itself, plug-ins included, is what somebody may have asked for.
        plugins=() if asked else tuple(_plugins(draft, run, recipe)),
    )
    _write(draft, manifest)
    original = code.folder_of(run.path) / code.RECIPE
    (draft / code.RECIPE).write_bytes(read_bytes(original if original.exists() else run.recipe_file))
    return manifest


def _write(folder: Path, manifest: Manifest) -> None:
    write_json(folder / code.MANIFEST, asdict(manifest))


def _plugins(draft: Path, run: RunFolder, recipe: Recipe) -> Iterator[Plugin]:
    """Copy the plug-in files of ``recipe``: from where they were at first, or if that is gone, the run's own copies."""
    before = code.folder_of(run.path)
    known = code.read(before)
    copies = {} if known is None else {str(before / plugin.file): plugin.path for plugin in known.plugins}
    for place in dict.fromkeys(code.plugin_paths(recipe).values()):
        if place.endswith(".py"):
            original = copies.get(place, place)
            source = Path(original if os.path.isfile(original) else place)
            yield _copy_plugin(draft, source, original)


def _copy_plugin(folder: Path, source: Path, original: str) -> Plugin:
    """Copy a plug-in file, which may be a link, into a folder of code."""
    content = read_bytes(source, limit=_MAX_PLUGIN_BYTES, follow=True)
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"{code.PLUGINS}/{sha256[:16]}/{source.name}"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return Plugin(path=original, file=name, sha256=sha256)


def _with_new_plugins(run: RunFolder, folder: Path, manifest: Manifest, recipe: Recipe) -> Manifest:
    """Copy those plug-ins of ``recipe`` that the run's code lacks, such as one that an override names."""
    if manifest.kind == "live":
        return manifest
    copies = {str(folder / plugin.file) for plugin in manifest.plugins}
    named = dict.fromkeys(code.plugin_paths(recipe).values())
    # One that is named by the path of its original is wanted as it is now.
    new = [place for place in named if place.endswith(".py") and place not in copies]
    if new:
        with _ours_alone():
            added = [_copy_plugin(folder, Path(place), place) for place in new]
            kept = [plugin for plugin in manifest.plugins if plugin.path not in new]
            manifest = replace(manifest, plugins=(*kept, *added))
            _write(folder, manifest)
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


@contextlib.contextmanager
def _draft(run: RunFolder) -> Iterator[Path]:
    """A folder to be filled, which is gone afterwards unless it was given a name.

    Raises:
        CldError: it cannot be written.
    """
    draft = run.path / f".code.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        with _ours_alone():
            draft.mkdir()
            yield draft
    except OSError as error:
        place = error.filename or draft
        text = f"{place}: the code of the run cannot be stored ({error.strerror or error})"
        raise CldError(f"{text}. Fix that, or pass --live-code.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _ours_alone() -> Iterator[None]:
    """In this block, nobody else gets the right to write into new files: a job will run what is in them."""
    before = os.umask(0o077)
    os.umask(before | 0o022)
    try:
        yield
    finally:
        os.umask(before)


def _keep_earlier(folder: Path, draft: Path) -> None:
    """Of the code that is replaced, manifest and patch stay, so that what earlier attempts ran can be made again."""
    before = code.read(folder)
    if before is None:
        return
    if (folder / code.EARLIER).is_dir():
        shutil.copytree(folder / code.EARLIER, draft / code.EARLIER)
    kept = draft / code.EARLIER / (before.digest[:16] or before.kind)
    kept.mkdir(parents=True, exist_ok=True)
    for name in (code.MANIFEST, code.PATCH):
        if (folder / name).exists():
            shutil.copyfile(folder / name, kept / name)


def _replace(folder: Path, draft: Path) -> None:
    """Give a draft its name. Whoever is killed in between leaves a run without code, which stores it once more."""
    if os.path.lexists(folder):
        old = draft.with_name(f"{draft.name}.old")
        folder.rename(old)
        draft.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        draft.rename(folder)


def left_out_code(manifest: Manifest) -> Mapping[str, str]:
    """The Python files that were left out, which a job would miss."""
    reasons = manifest.left_out.items()
    return {name: why for name, why in reasons if name.endswith(".py") and why != "it was deleted"}

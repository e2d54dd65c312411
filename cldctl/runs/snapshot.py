"""The code that a run was submitted with is stored in its folder, and its jobs run that (`cld_core.run.code`)."""

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from cld_core import ownership
from cld_core.digests import checksum
from cld_core.errors import CldError
from cld_core.recipe import Recipe
from cld_core.run import RunFolder, code
from cld_core.run.code import Manifest
from cldctl.clusters.base import Cluster
from cldctl.hints import command

from . import drafts

# Of the files that are left out, so many are named.
_SHOWN = 5


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
    drafts.require_importable(run.path)
    with drafts.draft_in(run.path) as draft:
        git = run.identity().get("git") or {}
        kind = drafts.kind_for(cluster, wish.live)
        plugins = () if wish.live else drafts.copied_plugins(draft, run, recipe, renew=wish.update)
        manifest = drafts.filled(draft, run.path.parent, kind, git, plugins, asked=wish.live)
        drafts.write_manifest(draft, manifest)
        drafts.store_recipe(draft, run)
        _keep_earlier(folder, draft)
        drafts.put_in_place(folder, draft)
    return manifest


def for_continuation(run: RunFolder, recipe: Recipe, cluster: Cluster, wish: Wish) -> Manifest:
    """The code with which a run continues: its own, unless another one is wished for or it has none.

    Raises:
        CldError: it is damaged, or somebody else stored it; names the fix.
    """
    drafts.settle(run)
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
        owner = ownership.user_name(ownership.owner(source))
        text = f"{source}: it was stored by {owner}, is not the code of your checkout, and the job would run it"
        update = command(f"resume {run.name} --update-code", run)
        raise CldError(f"{text}. If you trust it, add --allow-plugin; to run your own: `{update}`.")
    _require_whole(run, source, theirs)
    files, theirs = code.place(source, theirs), replace(theirs, shared=None)
    with drafts.draft_in(run.path) as draft:
        for name in theirs.files:
            drafts.copy_file(code.ROOT if is_mine_too else files, draft, name)
        others = [(files, plugin.file) for plugin in theirs.plugins]
        others += [(place, name) for place, name in ((files, code.PATCH), (source, code.RECIPE))
                   if os.path.isfile(place / name)]  # fmt: skip
        for place, name in others:
            drafts.copy_file(place, draft, name)
        drafts.write_manifest(draft, theirs)
        drafts.put_in_place(code.own_folder(run.path), draft)
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
    new = [place for place in drafts.plugin_files(recipe) if place not in copies]
    if not new:
        return manifest
    # A copy of the run's own: the others of a group go on without what is added, and so does this one without a job.
    files = code.place(folder, manifest)
    with drafts.draft_in(run.path) as draft:
        for name in (*manifest.files, *(plugin.file for plugin in manifest.plugins)):
            drafts.copy_file(files, draft, name)
        if (files / code.PATCH).exists():
            drafts.copy_file(files, draft, code.PATCH)
        if (folder / code.EARLIER).is_dir():
            shutil.copytree(folder / code.EARLIER, draft / code.EARLIER)
        drafts.store_recipe(draft, run)
        added = [drafts.copy_plugin(draft, Path(place), place) for place in new]
        kept = [plugin for plugin in manifest.plugins if plugin.path not in new]
        manifest = replace(manifest, plugins=(*kept, *added), shared=None)
        drafts.write_manifest(draft, manifest)
        drafts.put_in_place(folder, draft)
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
            drafts.copy_file(files, kept, name)


def left_out_code(run: RunFolder) -> str | None:
    """The Python files that were not copied with the code of a run, so that a job would miss them; None if all were."""
    manifest = code.read(code.own_folder(run.path))
    left = {} if manifest is None else manifest.left_out
    missed = [f"{name} ({why})" for name, why in left.items() if name.endswith(".py") and why != "it was deleted"]
    more = [f"{len(missed) - _SHOWN} more"] if len(missed) > _SHOWN else []
    return f"not copied with the code: {', '.join([*missed[:_SHOWN], *more])}" if missed else None

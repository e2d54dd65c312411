"""The code that the runs of a group share: stored once in the folder of the group, and each run points to it."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cld_core.codec import to_plain
from cld_core.config import Recipe
from cld_core.files import write_json
from cld_core.ownership import is_mine
from cld_core.run import RunFolder, code
from cld_core.run.code import Manifest
from cld_core.run.groups import Group
from cld_core.run.identity import identity
from cldctl.clusters.base import Cluster

from . import snapshot


def folder_for(group: Group) -> Path:
    """Where the code of the first sweep of a group is."""
    return group.path / "code"


def store(group: Group, recipes: Sequence[Recipe], file: Path, cluster: Cluster, live: bool = False) -> Manifest | None:
    """Store the code of this process for new runs of a group, unless the group has it already.

    Args:
        file: where the recipes were read from.

    Returns:
        What `point` takes; None if there is nothing to share: jobs run an installed package, or the checkout itself.

    Raises:
        UsageError: it is too large.
        RecipeError: a plug-in cannot be read.
        CldError: it cannot be written.
    """
    if not recipes or snapshot.kind_for(cluster, live) != "copy":
        return None
    snapshot.require_importable(group.path)
    with snapshot.draft_in(group.path) as draft:
        files = dict.fromkeys(place for recipe in recipes for place in snapshot.plugin_files(recipe))
        plugins = [snapshot.copy_plugin(draft, Path(place), place) for place in files]
        manifest = snapshot.filled(draft, group.root, "copy", identity(group.name, file).get("git") or {}, plugins)
        snapshot.write_manifest(draft, manifest)
        folder = _place_for(group, manifest)
        if not _holds(folder, manifest):
            shutil.rmtree(folder, ignore_errors=True)
            snapshot.put_in_place(folder, draft)
    return replace(manifest, shared=str(folder.relative_to(group.root)))


def _place_for(group: Group, manifest: Manifest) -> Path:
    first = folder_for(group)
    free = not first.exists() or _holds(first, manifest)
    return first if free else first.with_name(f"code-{manifest.code[:12]}")


def _holds(folder: Path, manifest: Manifest) -> bool:
    """Whether a folder has this very code, and nobody else can have changed it."""
    found = code.read(folder)
    is_same = found is not None and found.code == manifest.code and is_mine(folder)
    return is_same and code.problem_of(folder, manifest) is None


def point(run: RunFolder, manifest: Manifest) -> None:
    """Let a new run of the group use the code."""
    with snapshot.draft_in(run.path) as draft:
        assert manifest.shared is not None, "only a group's code is shared"
        write_json(draft / code.MANIFEST, to_plain(code.Pointer(shared=manifest.shared, code=manifest.code)))
        snapshot.store_recipe(draft, run)
        snapshot.put_in_place(code.own_folder(run.path), draft)

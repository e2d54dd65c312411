"""Storing the code that a run is submitted with in its folder; its jobs run that copy
(`cld_core.run.code`).

Of a checkout, git decides what the code is: everything that it does not ignore, within limits of
size.
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import os
import secrets
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from cld_core import ownership
from cld_core.config import Recipe
from cld_core.digests import checksum, digest
from cld_core.errors import CldError, UsageError
from cld_core.files import read_bytes, write_json
from cld_core.records import text, to_plain
from cld_core.run import RunFolder, code
from cld_core.run.code import Manifest, Plugin
from cld_core.run.identity import commit_of
from cld_core.version import __version__
from cldctl.clusters.base import Cluster

from .selection import command

MAX_FILE_BYTES = 2**20
MAX_BYTES = 20 * 2**20
MAX_FILES = 5000
# Bytes of the difference from the commit.
_MAX_PATCH_BYTES = 4 * 2**20
_MAX_PLUGIN_BYTES = 4 * 2**20
# The most names of left-out files in the manifest, and in a message.
_MAX_LEFT_OUT = 200
_SHOWN = 5
# If a git hook runs cldctl, its variables would lead git to another repository.
_MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
_GIT_WITHIN_S = 20.0
# Folders at the top that no job imports; the commit and the patch have them.
_NOT_RUN = ("tests", "test", "docs", "doc", ".git", ".github", ".ci")


@dataclass(frozen=True)
class Code:
    """Code that can be stored in the folder of a run.

    Attributes:
        manifest: the manifest of a folder of this code.
        files: the sources of the files that it lists, by name.
        patch: the difference of the files from the commit.
    """

    manifest: Manifest
    files: Mapping[str, Path] = field(default_factory=dict)
    patch: bytes = b""

    def with_plugins(self, plugins: Iterable[tuple[str, str]]) -> "Code":
        """This code with copies of plug-in files; the live checkout uses them where they are.

        Args:
            plugins: the path that each is read from, and its original path. Modules are left out.

        Raises:
            CldError: one cannot be read.
        """
        files = dict(self.files)
        stored = {plugin.path: plugin for plugin in self.manifest.plugins}
        for path, original in plugins:
            if not path.endswith(".py") or self.manifest.kind == "live":
                continue
            with _storing(path):
                content = read_bytes(Path(path), limit=_MAX_PLUGIN_BYTES, follow=True)
            sha256 = hashlib.sha256(content).hexdigest()
            name = f"{code.PLUGINS}/{sha256[:16]}/{Path(path).name}"
            files[name] = Path(path)
            stored[original] = Plugin(path=original, file=name, sha256=sha256)
        manifest = replace(self.manifest, plugins=tuple(stored.values()))
        return replace(self, manifest=manifest, files=files)


def of_checkout(runs: Path, cluster: Cluster, *, live: bool = False) -> Code:
    """The code of this process, as it is at this moment, without plug-ins.

    Args:
        runs: the folder of the runs.
        live: whether jobs import the checkout itself, with all later changes.

    Raises:
        UsageError: the checkout has too many files or bytes, or git does not answer in time.
    """
    about = Manifest(kind="live" if live else "process", version=__version__, root=str(code.ROOT))
    if live or cluster.blocks:
        return Code(about)
    package = code.installed()
    if package is not None:
        return Code(replace(about, kind="installed", digest=package))
    if code.importable(code.ROOT) is not None:  # This process runs the copy of another run.
        own = copy_of(code.ROOT)
        return replace(own, manifest=replace(own.manifest, plugins=()))
    files, left_out = read_checkout(code.ROOT, runs)
    manifest = replace(
        about,
        kind="copy",
        digest=digest(files),
        files=files,
        left_out=left_out,
        **(commit_of(code.ROOT) or {}),
    )
    patch = patch_of(code.ROOT).encode(errors="surrogateescape")
    return Code(manifest, {name: code.ROOT / name for name in files}, patch)


def read_checkout(root: Path, runs: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The files of a checkout that are tracked, or neither tracked nor ignored.

    Without git, these are the files of the packages.

    Args:
        runs: the folder of the runs, which is not part of the checkout.

    Returns:
        The SHA-256 of each file that is copied, by name, and why the others are left out, by name.

    Raises:
        UsageError: the checkout has too many files or bytes, or git does not answer in time.
    """
    files: dict[str, str] = {}
    left_out: dict[str, str] = {}
    # Bytes by folder at the top.
    sizes: Counter[str] = Counter()

    @functools.cache
    def is_of_run(folder: PurePosixPath) -> bool:
        """Whether a folder of the checkout is a run, holds the runs, or is in one of these."""
        if folder == PurePosixPath("."):
            return False
        path = root / folder
        return path == runs or os.path.isfile(path / "run.json") or is_of_run(folder.parent)

    for name in _names(root):
        if text(name) is None:
            continue  # Not valid Unicode: no manifest could name it.
        top = name.partition("/")[0]
        if is_of_run(PurePosixPath(name).parent):
            left_out[f"{top}/"] = "it belongs to a run"
            continue
        if top in _NOT_RUN and top != name:
            left_out[f"{top}/"] = "no job needs it"
            continue
        if name in (code.MANIFEST, code.PATCH):
            left_out[name] = "the name is used for something else"
            continue
        try:
            content = read_bytes(root / name, limit=MAX_FILE_BYTES)
        except FileNotFoundError:
            continue
        except OSError as error:
            left_out[name] = error.strerror or str(error)
            if error.errno == errno.EFBIG:
                left_out[name] = f"larger than {MAX_FILE_BYTES // 2**20} MiB"
            continue
        files[name] = hashlib.sha256(content).hexdigest()
        sizes[top] += len(content)
        if len(files) > MAX_FILES or sizes.total() > MAX_BYTES:
            largest = ", ".join(folder for folder, _ in sizes.most_common(3))
            raise UsageError(
                f"{root}: the code of a run may have {MAX_BYTES // 2**20} MiB or {MAX_FILES} "
                f"files, and this is more; most is in {largest}. List it in .gitignore if it is "
                f"data, or submit with --live-code, which runs the checkout itself."
            )
    if (more := len(left_out) - _MAX_LEFT_OUT) > 0:
        left_out = dict(itertools.islice(left_out.items(), _MAX_LEFT_OUT))
        left_out["..."] = f"and {more} more"
    return files, left_out


def patch_of(root: Path) -> str:
    """The difference of the tracked files of a checkout from its commit, as `git diff` prints it.

    Empty without git, or if the difference is larger than 4 MiB.
    """
    options = ("--relative", "--no-ext-diff", "--no-textconv", "--no-color")
    difference = _git(root, "diff", "HEAD", *options) or ""
    is_large = len(difference.encode(errors="replace")) > _MAX_PATCH_BYTES
    return "" if is_large else difference


def _names(root: Path) -> Sequence[str]:
    """The names of the files to copy, sorted."""
    listing = _git(root, "ls-files", "-co", "--exclude-standard", "-z") or ""
    names = set(filter(None, listing.split("\0")))
    # If a repository around an environment ignores it, nothing of it is listed.
    return sorted(names) if "cld_core/__init__.py" in names else code.sources()


def _git(root: Path, *words: str) -> str | None:
    """What git prints about a checkout; None if it is not one, or there is no git.

    Raises:
        UsageError: git takes too long.
    """
    git = ["git", "-C", str(root), "--literal-pathspecs", "-c", "core.fsmonitor=false"]
    env = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    try:
        done = subprocess.run(
            [*git, *words], capture_output=True, timeout=_GIT_WITHIN_S, check=True, env=env
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"{root}: git does not list the files of the checkout within {_GIT_WITHIN_S:.0f} s. "
            f"List data in .gitignore, or submit with --live-code, which runs the checkout itself."
        ) from error
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="surrogateescape")


def copy_of(folder: Path) -> Code:
    """The code in a folder."""
    manifest = code.read(folder)
    assert manifest is not None, f"{folder} was read a moment ago"
    patch = folder / code.PATCH
    with _storing(folder):
        content = read_bytes(patch) if os.path.lexists(patch) else b""
    return Code(manifest, {name: folder / name for name in manifest.checksums}, content)


def store(place: Path, new_code: Code, like: Path | None = None) -> Path:
    """Store code in the folder of a run or group, unless it is there intact; returns its folder.

    Only this user can write into new files, also while they are written: a job will run them.

    Args:
        like: a folder of code whose files are used again where they are equal.

    Raises:
        UsageError: the path cannot be searched for modules.
        CldError: the folder cannot be written, or a file has changed since it was listed.
    """
    manifest = new_code.manifest
    folder = code.place_of(place, manifest.code)
    if manifest.kind == "copy" and os.pathsep in str(folder):
        raise UsageError(
            f"{place}: Python cannot import from a path with '{os.pathsep}'. Use another "
            f"--runs-dir, or submit with --live-code."
        )
    if _is_stored(folder, manifest):
        return folder
    draft = folder.parent / f".{os.getpid()}.{secrets.token_hex(4)}.tmp"
    umask = os.umask(0o077)
    os.umask(umask)
    try:
        with _storing(draft):
            folder.parent.mkdir(parents=True, exist_ok=True)
            os.umask(umask | 0o022)
            copy = draft / folder.name
            for parent in {(copy / name).parent for name in (code.MANIFEST, *manifest.checksums)}:
                # Python would make this folder with the rights that a job's umask gives.
                (parent / "__pycache__").mkdir(parents=True, exist_ok=True)
            for name, sha256 in manifest.checksums.items():
                equal = None if like is None else like / name
                _fill(copy / name, new_code.files[name], sha256, equal)
            (copy / code.PATCH).write_bytes(new_code.patch)
            write_json(copy / code.MANIFEST, to_plain(manifest))
            if os.path.lexists(folder):  # A damaged folder is removed with the draft.
                folder.rename(draft / "damaged")
            copy.rename(folder)
    finally:
        os.umask(umask)
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _is_stored(folder: Path, manifest: Manifest) -> bool:
    """Whether a folder has this very code, and only this user can have changed it."""
    stored = code.read(folder)
    return (
        stored is not None
        and stored.code == manifest.code
        and ownership.problem_of(folder.lstat()) is None
        and code.problem_of(folder, manifest) is None
    )


def _fill(target: Path, source: Path, sha256: str, equal: Path | None) -> None:
    """Make a file of a draft: a link to an equal file that only this user can write, or a copy.

    Args:
        equal: a file that may be equal; it is preferred to ``source``, which may be edited at this
            moment.
    """
    is_executable = os.access(source, os.X_OK)
    content = b""
    if equal is not None:
        # Some file systems have no hard links, and the kernel may refuse one to a file of another
        # user.
        with contextlib.suppress(OSError):
            os.link(equal, target, follow_symlinks=False)
            is_private = ownership.problem_of(target.lstat()) is None
            has_same_mode = os.access(target, os.X_OK) == is_executable
            if is_private and has_same_mode and checksum(target) == sha256:
                return
        target.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            content = read_bytes(equal)
    if hashlib.sha256(content).hexdigest() != sha256:
        content = read_bytes(source, follow=True)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CldError(
            f"{source}: it has changed since the code was listed. Try again, or submit with "
            f"--live-code."
        )
    mode = 0o777 if is_executable else 0o666
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)


@contextlib.contextmanager
def _storing(place: Path | str) -> Iterator[None]:
    """Replace an OSError of the block by an error that names the file and the fix."""
    try:
        yield
    except OSError as error:
        raise CldError(
            f"{error.filename or place}: the code of the run cannot be stored "
            f"({error.strerror or error}). Fix that, or submit with --live-code."
        ) from error


def for_continuation(
    run: RunFolder, recipe: Recipe, cluster: Cluster, *, update: bool = False
) -> Path:
    """The folder of the code with which a run continues: its own, unless it has none or ``update``.

    Args:
        update: whether the run gets the code of the checkout, and the original plug-ins.

    Raises:
        CldError: the run's code is damaged, others can write it, or new code cannot be stored.
    """
    folder = code.folder_of(run.path)
    manifest = code.read(folder)
    if folder is not None and folder.parent.exists() and not update:
        name = None if manifest is None else manifest.code
        if name != run.ledger.history().stored:
            raise _damaged(run, folder, f"{code.MANIFEST} cannot be read")
    if folder is None or manifest is None or update or manifest.kind in ("installed", "process"):
        files = plugin_files(run, recipe.plugins, renew=update)
        return store(run.path, of_checkout(run.path.parent, cluster).with_plugins(files), folder)
    if manifest.kind == "live":
        return folder
    ownership.require_private(folder, "the job would run what is in it")
    problem = code.problem_of(folder, manifest)
    if problem is not None:
        raise _damaged(run, folder, problem)
    # A plug-in that is named by the path of its original is wanted as it is now.
    copies = code.copies_in(folder)
    new = [(path, path) for path in recipe.plugins if path.endswith(".py") and path not in copies]
    return store(run.path, copy_of(folder).with_plugins(new), folder) if new else folder


def _damaged(run: RunFolder, folder: Path, problem: str) -> CldError:
    update = command(f"resume {run.name} --update-code", run)
    return code.DamagedCode(
        f"{folder}: the code of the run is not what was stored with it: {problem}. Restore it from "
        f"a backup, or take that of your checkout: `{update}`."
    )


def left_out_code(run: RunFolder) -> str | None:
    """A line about the Python files that were not copied with the code of a run; None if all were.

    Its jobs would miss them.
    """
    manifest = code.read(code.folder_of(run.path))
    left_out = {} if manifest is None else manifest.left_out
    missing = [f"{name} ({why})" for name, why in left_out.items() if name.endswith(".py")]
    if len(missing) > _SHOWN:
        missing[_SHOWN:] = [f"{len(missing) - _SHOWN} more"]
    return f"not copied with the code: {', '.join(missing)}" if missing else None


def changed_plugins(
    run: RunFolder, plugins: Sequence[str], fix: str = "plugins={} takes the new one"
) -> Iterator[str]:
    """A warning for each plug-in whose original file differs from the copy that the run uses.

    Args:
        fix: the advice in the warning; "{}" in it stands for the path of the plug-in.
    """
    copies = code.copies_in(code.folder_of(run.path)) if plugins else {}
    for path in plugins:
        plugin = copies.get(path)
        if plugin is None:
            continue
        # An original that is gone is no reason to warn.
        with contextlib.suppress(OSError):
            if checksum(Path(plugin.path)) != plugin.sha256:
                yield (
                    f"{plugin.path} has changed since it was copied; {run.name} uses its own copy "
                    f"({fix.format(plugin.path)})"
                )


def plugin_files(run: RunFolder, plugins: Sequence[str], *, renew: bool) -> list[tuple[str, str]]:
    """The path that each plug-in is copied from, and its original path.

    Args:
        renew: whether originals replace the run's own copies, unless an original is gone.
    """
    copies = code.copies_in(code.folder_of(run.path))
    paths = []
    for path in dict.fromkeys(plugins):
        original = copies[path].path if path in copies else path
        paths.append((original if renew and os.path.isfile(original) else path, original))
    return paths

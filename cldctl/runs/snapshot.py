"""The code that a run was submitted with is stored in its folder, and its jobs run that
(`cld_core.run.code`)."""

import contextlib
import errno
import fnmatch
import functools
import hashlib
import os
import re
import secrets
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from cld_core import ownership
from cld_core.codec import text, to_plain
from cld_core.config import Recipe
from cld_core.digests import checksum, digest
from cld_core.errors import CldError, UsageError
from cld_core.files import read_bytes, write_json
from cld_core.run import RunFolder, code
from cld_core.run.code import Manifest, Plugin
from cld_core.run.identity import commit_of
from cld_core.version import __version__
from cldctl.clusters.base import Cluster

from .selection import command

MAX_FILE_BYTES, MAX_BYTES, MAX_FILES = 2**20, 20 * 2**20, 5000
# Of the difference from the commit.
_MAX_PATCH_BYTES = 4 * 2**20
# Of what was left out, so many names are kept.
_MAX_LEFT_OUT = 200
# Those of a hook would lead git to another repository.
_MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
_GIT_WITHIN_S = 20.0
_FIX = (
    "List it in .gitignore if it is data, or submit with --live-code, which runs the checkout "
    "itself"
)
_SECRET_FOLDERS = (
    ".ssh",
    ".aws",
    ".azure",
    ".gcloud",
    ".gnupg",
    ".kube",
    ".docker",
    ".secrets",
    "secrets",
)
_DATA = (
    *(
        ".pt",
        ".pth",
        ".ckpt",
        ".safetensors",
        ".npz",
        ".npy",
        ".lmdb",
        ".mdb",
        ".h5",
        ".hdf5",
        ".parquet",
        ".arrow",
    ),
    *(".tfrecord", ".tfrecords", ".pkl", ".pickle", ".bin", ".onnx", ".sqlite", ".db", ".mat"),
    *(
        ".png",
        ".jpg",
        ".jpeg",
        ".gif",
        ".bmp",
        ".webp",
        ".tif",
        ".tiff",
        ".pdf",
        ".mp4",
        ".avi",
        ".wav",
        ".mp3",
    ),
    *(
        ".zip",
        ".tar",
        ".gz",
        ".tgz",
        ".bz2",
        ".xz",
        ".zst",
        ".7z",
        ".whl",
        ".sif",
        ".egg",
        ".so",
        ".o",
        ".a",
        ".pyc",
    ),
)
_SECRETS = (
    *(
        ".env",
        ".env.*",
        "*.pem",
        "*.key",
        "*.p12",
        "*.pfx",
        "*.jks",
        "*.keystore",
        "*.kdbx",
        "*.gpg",
        "*.ppk",
    ),
    *(
        "id_rsa*",
        "id_dsa*",
        "id_ecdsa*",
        "id_ed25519*",
        "credentials*",
        "*credentials.json",
        "secret*",
        "*.secret",
    ),
    *(
        ".netrc",
        "_netrc",
        ".pypirc",
        ".npmrc",
        ".git-credentials",
        ".htpasswd",
        ".pgpass",
        ".vault*",
    ),
    *(
        "token",
        "token.*",
        "*_token",
        "*_token.*",
        "*-token",
        "*-token.*",
        "tokens",
        "tokens.*",
        "*.token",
        ".token*",
    ),
    *(
        "service-account*.json",
        "service_account*.json",
        "kubeconfig",
        "password*",
        "passwd*",
        "*.ovpn",
    ),
)
# Python files are code more often than not.
_SECRETS_IN_PYTHON = ("credentials.py", "secrets.py", ".env*")
# Folders at the top that no job imports; the commit and the patch have them.
_NOT_RUN = ("tests", "test", "docs", "doc", ".git", ".github", ".ci")
_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY")
# Of the files that are left out, so many are named.
_SHOWN = 5
# A plug-in is somebody's own Python file.
_MAX_PLUGIN_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Code:
    """Code that runs can be given.

    Attributes:
        manifest: what theirs is to say.
        files: where those files are now that it lists, by name.
        patch: how they differ from the commit.
    """

    manifest: Manifest
    files: Mapping[str, Path] = field(default_factory=dict)
    patch: bytes = b""

    def with_plugins(self, plugins: Iterable[tuple[str, str]]) -> "Code":
        """With copies of plug-in files; where somebody asked for the live checkout, they are used
        where they are.

        Args:
            plugins: where each is read from, and what it was called at first; modules are left out.

        Raises:
            CldError: one cannot be read.
        """
        files, stored = dict(self.files), {plugin.path: plugin for plugin in self.manifest.plugins}
        for path, original in plugins:
            if path.endswith(".py") and self.manifest.kind != "live":
                with _storing(path):
                    content = read_bytes(Path(path), limit=_MAX_PLUGIN_BYTES, follow=True)
                sha256 = hashlib.sha256(content).hexdigest()
                name = f"{code.PLUGINS}/{sha256[:16]}/{Path(path).name}"
                files[name], stored[original] = (
                    Path(path),
                    Plugin(path=original, file=name, sha256=sha256),
                )
        return replace(
            self, manifest=replace(self.manifest, plugins=tuple(stored.values())), files=files
        )


def of_checkout(runs: Path, cluster: Cluster, *, live: bool = False) -> Code:
    """The code of this process, as it is at this moment, without plug-ins.

    Args:
        runs: the folder of the runs.
        live: run the checkout itself, whatever it becomes.

    Raises:
        UsageError: it is too large.
    """
    about = Manifest(kind="live" if live else "process", version=__version__, root=str(code.ROOT))
    if live or cluster.blocks:
        return Code(about)
    if (package := code.installed()) is not None:
        return Code(replace(about, kind="installed", digest=package))
    if code.importable(code.ROOT) is not None:  # This process runs the copy of another run.
        own = copy_of(code.ROOT)
        return replace(own, manifest=replace(own.manifest, plugins=()))
    files, left_out = read_checkout(code.ROOT, runs)
    manifest = replace(about, kind="copy", digest=digest(files), files=files, left_out=left_out)
    manifest = replace(manifest, **(commit_of(code.ROOT) or {}))
    patch = patch_of(code.ROOT, left_out).encode(errors="surrogateescape")
    return Code(manifest, {name: code.ROOT / name for name in files}, patch)


def read_checkout(root: Path, runs: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The files of a checkout that are tracked, or neither tracked nor ignored.

    Without git, these are the files of the packages.

    Args:
        runs: the folder of the runs, which is not part of the checkout.

    Returns:
        Their SHA-256 by name, and why the others were left out, by name.

    Raises:
        UsageError: they are too many or too large.
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
        return (
            root / folder == runs
            or os.path.isfile(root / folder / "run.json")
            or is_of_run(folder.parent)
        )

    for name in _names(root):
        if text(name) is None:
            continue  # Not valid Unicode: no manifest could name it.
        reason = (
            "it belongs to a run" if is_of_run(PurePosixPath(name).parent) else why_left_out(name)
        )
        content = b""
        if reason is None:
            try:
                content = read_bytes(root / name, limit=MAX_FILE_BYTES)
                # Python files name keys in checks such as this one.
                has_key = not name.endswith(".py") and _KEY.search(content) is not None
                reason = "it holds a private key" if has_key else None
            except FileNotFoundError:
                continue
            except OSError as error:
                is_large = error.errno == errno.EFBIG
                reason = (
                    f"larger than {MAX_FILE_BYTES // 2**20} MiB"
                    if is_large
                    else error.strerror or str(error)
                )
        if reason is not None:
            # Not the names in folders that are left out as a whole.
            is_whole = reason in ("no job needs it", "it belongs to a run")
            left_out.setdefault(f"{name.partition('/')[0]}/" if is_whole else name, reason)
            continue
        sizes[name.partition("/")[0]] += len(content)
        files[name] = hashlib.sha256(content).hexdigest()
        if len(files) > MAX_FILES or sizes.total() > MAX_BYTES:
            most = ", ".join(top for top, _ in sizes.most_common(3))
            limit = (
                f"{MAX_BYTES // 2**20} MiB or {MAX_FILES} files, and this is more; most is in "
                f"{most}"
            )
            raise UsageError(f"{root}: the code of a run may have {limit}. {_FIX}.")
    if more := max(len(left_out) - _MAX_LEFT_OUT, 0):
        left_out = {**dict(list(left_out.items())[:_MAX_LEFT_OUT]), "...": f"and {more} more"}
    return files, left_out


def patch_of(root: Path, left: Mapping[str, str]) -> str:
    """How the tracked files of a checkout differ from its commit; empty without git. Secrets and
    data are not in it."""
    changed = _git(root, "diff", "HEAD", "--name-only", "--relative", "-z")
    names = [name for name in changed.split("\0") if name] if changed else []
    shown = [
        name
        for name in names
        if _confidential(name) is None and "private key" not in left.get(name, "")
    ]
    if not shown:
        return ""
    how = ("--relative", "--no-ext-diff", "--no-textconv", "--no-color")
    difference = _git(root, "diff", "HEAD", *how, "--", *shown) or ""
    return "" if len(difference.encode(errors="replace")) > _MAX_PATCH_BYTES else difference


def _names(root: Path) -> Sequence[str]:
    """The names of the files to copy, sorted."""
    listed = _git(root, "ls-files", "-co", "--exclude-standard", "-z")
    names = set() if listed is None else {name for name in listed.split("\0") if name}
    # If a repository around an environment ignores it, nothing of it is listed.
    return sorted(names) if "cld_core/__init__.py" in names else code.sources()


def _git(root: Path, *words: str) -> str | None:
    """What git says about a checkout; None if it is not one, or there is no git.

    Raises:
        UsageError: git takes too long.
    """
    command = ["git", "-C", str(root), "--literal-pathspecs", "-c", "core.fsmonitor=false"]
    env = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    try:
        done = subprocess.run(
            [*command, *words], capture_output=True, timeout=_GIT_WITHIN_S, check=True, env=env
        )
    except subprocess.TimeoutExpired as error:
        slow = f"git does not list the files of the checkout within {_GIT_WITHIN_S:.0f} s"
        raise UsageError(f"{root}: {slow}. {_FIX}.") from error
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="surrogateescape")


def why_left_out(name: str) -> str | None:
    """Why a file of this name, relative to the checkout, is left out; None if it is copied, if it
    is small."""
    path = PurePosixPath(name)
    if path.parts[0] in _NOT_RUN and len(path.parts) > 1:
        return "no job needs it"
    if name in (code.MANIFEST, code.PATCH):
        return "the name is used for something else"
    return _confidential(name)


def _confidential(name: str) -> str | None:
    """Why the content of a file of this name is stored nowhere, not even as a difference; None if
    it may be."""
    path = PurePosixPath(name)
    base = path.name.lower()
    patterns = _SECRETS_IN_PYTHON if base.endswith(".py") else _SECRETS
    is_secret = any(fnmatch.fnmatchcase(base, pattern) for pattern in patterns)
    if is_secret or any(part.lower() in _SECRET_FOLDERS for part in path.parts[:-1]):
        return "it may hold a secret"
    return "it is data" if path.suffix.lower() in _DATA else None


def copy_of(folder: Path) -> Code:
    """The code in a folder."""
    manifest, patch = code.read(folder), folder / code.PATCH
    assert manifest is not None, f"{folder} was read a moment ago"
    with _storing(folder):
        content = read_bytes(patch) if os.path.lexists(patch) else b""
    return Code(manifest, {name: folder / name for name in manifest.checksums}, content)


def store(place: Path, wanted: Code, like: Path | None = None) -> Path:
    """The folder of this code in the folder of a run or group: it is filled, unless it is there and
    whole.

    Meanwhile nobody else gets the right to write into new files: a job will run what is in them.

    Args:
        like: a folder of code whose files are used again where they are equal.

    Raises:
        UsageError: the path cannot be searched for modules.
        CldError: it cannot be written, or a file has changed meanwhile.
    """
    manifest = wanted.manifest
    folder = code.place_of(place, manifest.code)
    if manifest.kind == "copy" and os.pathsep in str(folder):
        text = f"Python cannot import from a path with '{os.pathsep}'"
        raise UsageError(f"{place}: {text}. Use another --runs-dir, or submit with --live-code.")
    if _is_kept(folder, manifest):
        return folder
    draft = folder.parent / f".{os.getpid()}.{secrets.token_hex(4)}.tmp"
    umask = os.umask(0o077)
    os.umask(umask)
    try:
        with _storing(draft):
            folder.parent.mkdir(parents=True, exist_ok=True)
            os.umask(umask | 0o022)
            new = draft / folder.name
            for parent in {(new / name).parent for name in (code.MANIFEST, *manifest.checksums)}:
                # Python would make this folder with the rights that a job's umask gives.
                (parent / "__pycache__").mkdir(parents=True, exist_ok=True)
            for name, sha256 in manifest.checksums.items():
                _fill(new / name, wanted.files[name], sha256, None if like is None else like / name)
            (new / code.PATCH).write_bytes(wanted.patch)
            write_json(new / code.MANIFEST, to_plain(manifest))
            if os.path.lexists(folder):  # What is damaged goes with the draft.
                folder.rename(draft / "damaged")
            new.rename(folder)
    finally:
        os.umask(umask)
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _is_kept(folder: Path, manifest: Manifest) -> bool:
    """Whether a folder has this very code, and nobody else can have changed it."""
    found = code.read(folder)
    is_same = (
        found is not None
        and found.code == manifest.code
        and ownership.problem_of(folder.lstat()) is None
    )
    return is_same and code.problem_of(folder, manifest) is None


def _fill(target: Path, source: Path, sha256: str, equal: Path | None) -> None:
    """Copy a file into a draft, or give the draft an equal file of this user's that nobody else can
    write."""
    is_executable = os.access(source, os.X_OK)
    if equal is not None:
        # Another file system refuses it, and perhaps the kernel, if the file is somebody else's.
        with contextlib.suppress(OSError):
            os.link(equal, target, follow_symlinks=False)
            is_private = ownership.problem_of(target.lstat()) is None
            if (
                is_private
                and os.access(target, os.X_OK) == is_executable
                and checksum(target) == sha256
            ):
                return
        target.unlink(missing_ok=True)
    content = b""
    if equal is not None:
        # Not from the checkout, in which somebody may be at work.
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
    """Errors say what cannot be stored, and what to do."""
    try:
        yield
    except OSError as error:
        text = (
            f"{error.filename or place}: the code of the run cannot be stored "
            f"({error.strerror or error})"
        )
        raise CldError(f"{text}. Fix that, or submit with --live-code.") from error


def for_continuation(
    run: RunFolder, recipe: Recipe, cluster: Cluster, *, update: bool = False
) -> Path:
    """The folder of the code with which a run continues: its own, unless it has none or ``update``.

    Args:
        update: take the code of the checkout, and plug-ins from where they were at first.

    Raises:
        CldError: it is damaged, or others can write it; names the fix.
    """
    folder = code.folder_of(run.path)
    name = run.ledger.history().stored
    manifest = code.read(folder)
    if (
        folder is not None
        and folder.parent.exists()
        and not update
        and code.name_of(folder) != name
    ):
        raise _damaged(run, folder, f"{code.MANIFEST} cannot be read")
    if folder is None or manifest is None or update or manifest.kind in ("installed", "process"):
        files = plugin_files(run, recipe.plugins, renew=update)
        return store(run.path, of_checkout(run.path.parent, cluster).with_plugins(files), folder)
    if manifest.kind == "live":
        return folder
    ownership.require_private(folder, "the job would run what is in it")
    if (problem := code.problem_of(folder, manifest)) is not None:
        raise _damaged(run, folder, problem)
    # A plug-in that is named by the path of its original is wanted as it is now.
    copies = code.copies_in(folder)
    new = [(path, path) for path in recipe.plugins if path.endswith(".py") and path not in copies]
    return store(run.path, copy_of(folder).with_plugins(new), folder) if new else folder


def _damaged(run: RunFolder, folder: Path, problem: str) -> CldError:
    update = command(f"resume {run.name} --update-code", run)
    text = f"{folder}: the code of the run is not what was stored with it: {problem}"
    return code.DamagedCode(
        f"{text}. Restore it from a backup, or take that of your checkout: `{update}`."
    )


def left_out_code(run: RunFolder) -> str | None:
    """The Python files that were not copied with the code of a run, so that a job would miss them;
    None if all were."""
    manifest = code.read(code.folder_of(run.path))
    left = {} if manifest is None else manifest.left_out
    missed = [f"{name} ({why})" for name, why in left.items() if name.endswith(".py")]
    more = [f"{len(missed) - _SHOWN} more"] if len(missed) > _SHOWN else []
    return f"not copied with the code: {', '.join([*missed[:_SHOWN], *more])}" if missed else None


def changed_plugins(
    run: RunFolder, plugins: Sequence[str], fix: str = "plugins={} takes the new one"
) -> Iterator[str]:
    """A line for each of some plug-ins whose file has changed since the run took its copy, which is
    what runs.

    Args:
        fix: what to do about it, with braces for the file.
    """
    copies = code.copies_in(code.folder_of(run.path)) if plugins else {}
    for plugin in (copies[path] for path in plugins if path in copies):
        with contextlib.suppress(OSError):
            if checksum(Path(plugin.path)) != plugin.sha256:
                text = f"{plugin.path} has changed since it was copied"
                yield f"{text}; {run.name} uses its own copy ({fix.format(plugin.path)})"


def plugin_files(run: RunFolder, plugins: Sequence[str], *, renew: bool) -> list[tuple[str, str]]:
    """Where each plug-in is imported from, and what it was called at first.

    Args:
        renew: in place of the run's own copies, what they were made of, unless that is gone.
    """
    copies, found = code.copies_in(code.folder_of(run.path)), []
    for path in dict.fromkeys(plugins):
        original = copies[path].path if path in copies else path
        found.append((original if renew and os.path.isfile(original) else path, original))
    return found

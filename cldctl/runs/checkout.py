"""The files of the checkout that this process runs, as they are at this moment, and how they differ from the commit."""

import errno
import fnmatch
import functools
import hashlib
import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from cld_core.codec import text
from cld_core.errors import UsageError
from cld_core.files import read_bytes
from cld_core.run import code

MAX_FILE_BYTES, MAX_BYTES, MAX_FILES = 2**20, 20 * 2**20, 5000
# A submodule is a folder.
_UNREADABLE = {
    errno.ENOENT: "it was deleted",
    errno.EISDIR: "it is not a regular file",
    errno.EINVAL: "it is not a regular file",
    errno.EFBIG: f"larger than {MAX_FILE_BYTES // 2**20} MiB",
}
# Of the difference from the commit.
_MAX_PATCH_BYTES = 4 * 2**20
# Of what was left out, so many names are kept.
_MAX_LEFT_OUT = 200
# Those of a hook would lead git to another repository.
_MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
_GIT_WITHIN_S = 20.0
_FIX = "List it in .gitignore if it is data, or pass --live-code to run the checkout itself"
_SECRET_FOLDERS = (".ssh", ".aws", ".azure", ".gcloud", ".gnupg", ".kube", ".docker", ".secrets", "secrets")
_DATA = (
    *(".pt", ".pth", ".ckpt", ".safetensors", ".npz", ".npy", ".lmdb", ".mdb", ".h5", ".hdf5", ".parquet", ".arrow"),
    *(".tfrecord", ".tfrecords", ".pkl", ".pickle", ".bin", ".onnx", ".sqlite", ".db", ".mat"),
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".pdf", ".mp4", ".avi", ".wav", ".mp3"),
    *(".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".whl", ".sif", ".egg", ".so", ".o", ".a", ".pyc"),
)
# Folders at the top that no job imports; the commit and the patch have them.
_NOT_RUN = ("tests", "test", "docs", "doc", ".git", ".github", ".ci")
_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY")


def copy(target: Path, runs: Path, root: Path = code.ROOT) -> tuple[dict[str, str], dict[str, str]]:
    """Copy the files of a checkout that are tracked, or neither tracked nor ignored, into the folder ``target``.

    Without git, and in the copy of another run, these are the files of the packages.

    Args:
        runs: the folder of the runs, which is not part of the checkout.

    Returns:
        Their SHA-256 by name, and why the others were left out, by name.

    Raises:
        UsageError: they are too many or too large.
        OSError: one cannot be written.
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
        return root / folder == runs or os.path.isfile(root / folder / "run.json") or is_of_run(folder.parent)

    for name in _names(root):
        if text(name) is None:
            continue  # Not valid Unicode: no manifest could name it.
        reason = "it belongs to a run" if is_of_run(PurePosixPath(name).parent) else why_left_out(name)
        content = b""
        if reason is None:
            try:
                content = read_bytes(root / name, limit=MAX_FILE_BYTES)
                reason = "it holds a private key" if _holds_a_key(name, content) else None
            except OSError as error:
                reason = _UNREADABLE.get(error.errno or 0, error.strerror or "it cannot be read")
        if reason is not None:
            # Not the names in folders that are left out as a whole.
            is_whole = reason in ("no job needs it", "it belongs to a run")
            left_out.setdefault(f"{name.partition('/')[0]}/" if is_whole else name, reason)
            continue
        sizes[name.partition("/")[0]] += len(content)
        files[name] = hashlib.sha256(content).hexdigest()
        _require_small(root, sizes, len(files))
        write(target / name, content, executable=os.access(root / name, os.X_OK))
    if more := max(len(left_out) - _MAX_LEFT_OUT, 0):
        left_out = {**dict(list(left_out.items())[:_MAX_LEFT_OUT]), "...": f"and {more} more"}
    return files, left_out


def patch(left: Mapping[str, str], root: Path = code.ROOT) -> str:
    """How the tracked files of a checkout differ from its commit; empty without git. Secrets and data are not in it."""
    if _is_copy(root):
        return (read_bytes(root / code.PATCH, limit=_MAX_PATCH_BYTES)).decode(errors="replace")
    changed = _git(root, "diff", "HEAD", "--name-only", "--relative", "-z")
    names = [name for name in changed.split("\0") if name] if changed else []
    shown = [name for name in names if _confidential(name) is None and "private key" not in left.get(name, "")]
    if not shown:
        return ""
    how = ("--relative", "--no-ext-diff", "--no-textconv", "--no-color")
    difference = _git(root, "diff", "HEAD", *how, "--", *shown) or ""
    return "" if len(difference.encode(errors="replace")) > _MAX_PATCH_BYTES else difference


def _is_copy(root: Path) -> bool:
    manifest = code.read(root)
    return manifest is not None and manifest.kind == "copy" and os.path.lexists(root / code.PATCH)


def _names(root: Path) -> Sequence[str]:
    """The names of the files to copy, sorted."""
    manifest = code.read(root)
    if manifest is not None and manifest.kind == "copy":
        return sorted(manifest.files)
    listed = _git(root, "ls-files", "-co", "--exclude-standard", "-z")
    names = set() if listed is None else {name for name in listed.split("\0") if name}
    # If a repository around an environment ignores it, nothing of it is listed.
    return sorted(names) if "cld_core/__init__.py" in names else code.sources()


def write(target: Path, content: bytes, *, executable: bool = False) -> None:
    """Write a file of a folder of code."""
    if target.suffix == ".py":
        # Python would make this folder with the rights that a job's umask gives.
        (target.parent / "__pycache__").mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with os.fdopen(os.open(target, flags, 0o777 if executable else 0o666), "wb") as stream:
        stream.write(content)


def _require_small(root: Path, sizes: Counter[str], files: int) -> None:
    if files > MAX_FILES or sizes.total() > MAX_BYTES:
        largest = ", ".join(top for top, _ in sizes.most_common(3))
        limit = f"{MAX_BYTES // 2**20} MiB or {MAX_FILES} files"
        raise UsageError(f"{root}: the code of a run may have {limit}, and this is more; most is in {largest}. {_FIX}.")


def _git(root: Path, *words: str) -> str | None:
    """What git says about a checkout; None if it is not one, or there is no git.

    Raises:
        UsageError: git takes too long.
    """
    command = ["git", "-C", str(root), "--literal-pathspecs", "-c", "core.fsmonitor=false"]
    env = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    try:
        done = subprocess.run([*command, *words], capture_output=True, timeout=_GIT_WITHIN_S, check=True, env=env)
    except subprocess.TimeoutExpired as error:
        slow = f"git does not list the files of the checkout within {_GIT_WITHIN_S:.0f} s"
        raise UsageError(f"{root}: {slow}. {_FIX}.") from error
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="surrogateescape")


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)))


_SECRET = _any_of(
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.gpg", "*.ppk"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "credentials*", "*credentials.json", "secret*", "*.secret"),
    *(".netrc", "_netrc", ".pypirc", ".npmrc", ".git-credentials", ".htpasswd", ".pgpass", ".vault*"),
    *("token", "token.*", "*_token", "*_token.*", "*-token", "*-token.*", "tokens", "tokens.*", "*.token", ".token*"),
    *("service-account*.json", "service_account*.json", "kubeconfig", "password*", "passwd*", "*.ovpn"),
)
# Of Python files, which are code more often than not.
_SECRET_CODE = _any_of("credentials.py", "secrets.py", ".env*")


def why_left_out(name: str) -> str | None:
    """Why a file of this name, relative to the checkout, is left out; None if it is copied, if it is small."""
    path = PurePosixPath(name)
    if path.parts[0] in _NOT_RUN and len(path.parts) > 1:
        return "no job needs it"
    if name in (code.MANIFEST, code.PATCH, code.RECIPE):
        return "the name is used for something else"
    return _confidential(name)


def _confidential(name: str) -> str | None:
    """Why the content of a file of this name is stored nowhere, not even as a difference; None if it may be."""
    path = PurePosixPath(name)
    base = path.name.lower()
    patterns = _SECRET_CODE if base.endswith(".py") else _SECRET
    if any(part.lower() in _SECRET_FOLDERS for part in path.parts[:-1]) or patterns.match(base):
        return "it may hold a secret"
    return "it is data" if path.suffix.lower() in _DATA else None


def _holds_a_key(name: str, content: bytes) -> bool:
    """Whether a file holds a private key; Python files name them in checks such as this one."""
    return not name.endswith(".py") and _KEY.search(content) is not None

"""What a copy of a checkout leaves out, by name: secrets, data, and what no job needs."""

import fnmatch
import os
import re
from pathlib import Path, PurePosixPath

from cld_core.run import code


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


def by_name(name: str) -> str | None:
    """Why a file of this name, relative to the checkout, is left out; None if it is copied, if it is small."""
    path = PurePosixPath(name)
    if path.parts[0] in _NOT_RUN and len(path.parts) > 1:
        return "no job needs it"
    if name in (code.MANIFEST, code.PATCH, code.RECIPE):
        return "the name is used for something else"
    return confidential(name)


def confidential(name: str) -> str | None:
    """Why the content of a file of this name is stored nowhere, not even as a difference; None if it may be."""
    path = PurePosixPath(name)
    base = path.name.lower()
    patterns = _SECRET_CODE if base.endswith(".py") else _SECRET
    if any(part.lower() in _SECRET_FOLDERS for part in path.parts[:-1]) or patterns.match(base):
        return "it may hold a secret"
    return "it is data" if path.suffix.lower() in _DATA else None


def holds_a_key(name: str, content: bytes) -> bool:
    """Whether a file holds a private key; Python files name them in checks such as this one."""
    return not name.endswith(".py") and _KEY.search(content) is not None


class Runs:
    """The folders of a checkout that are runs, or hold them: their checkpoints and code are not part of it."""

    def __init__(self, root: Path, runs: Path) -> None:
        """``runs`` is the folder of the runs, which may lie inside of the checkout."""
        self._root = root
        is_inside = runs != root and runs.is_relative_to(root)
        self._known: dict[PurePosixPath, bool] = {PurePosixPath("."): False}
        if is_inside:
            self._known[PurePosixPath(runs.relative_to(root))] = True

    def hold(self, name: str) -> bool:
        return self._is_run(PurePosixPath(name).parent)

    def _is_run(self, folder: PurePosixPath) -> bool:
        if folder not in self._known:
            is_run = os.path.isfile(self._root / folder / "run.json")
            self._known[folder] = is_run or self._is_run(folder.parent)
        return self._known[folder]

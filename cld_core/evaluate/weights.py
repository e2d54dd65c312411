"""Files of weights that anybody may have made, handed to torch-fidelity without running what may be in them.

torch-fidelity unpickles the files that it is given, and those that it finds where torch keeps downloads. It gets a
private copy instead: of the tensors alone, which were read with ``weights_only=True``, or of a published file that is
known by all digits of its SHA-256.
"""

import contextlib
import hashlib
import os
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from cld_core import files
from cld_core.errors import CldError, UsageError

# The largest extractor of torch-fidelity, CLIP RN50x64, has 1.3 GB.
MAX_BYTES = 4 * 2**30
_BLOCK = 1 << 20


class NotWeights(Exception):
    """The file is not one of weights; the message says what it is."""


@contextlib.contextmanager
def handed_over(path: str, sha256: str | None, kind: Any, name: str) -> Iterator[str]:
    """A private file that the class ``kind`` of an extractor may load; removed afterwards.

    Args:
        sha256: what the file has to be, by content.
        name: of the extractor.

    Raises:
        UsageError: the file is gone or another one, or this extractor cannot be given weights without running them.
        NotWeights: there are not only tensors in it.
        CldError: there is no room for the copy.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cldctl-weights-")))
            (folder / "original").mkdir(mode=0o700)
            # Its own name: plug-ins may look at it.
            copy = folder / "original" / Path(path).name
            if _copied(path, copy) != sha256:
                raise UsageError(f"{path}: changed since the evaluation was asked for. Re-run the command.")
            loadable = _loadable(copy, folder, kind, name, sha256)
        except OSError as error:
            fix = "Free some space, or set TMPDIR to another folder"
            raise CldError(f"{path}: no temporary copy can be made ({error.strerror or error}). {fix}.") from error
        yield str(loadable)


def _loadable(copy: Path, folder: Path, kind: Any, name: str, sha256: str | None) -> Path:
    """What the class may load: the tensors, saved again, or the copy itself where that runs nothing of others."""
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA, FeatureExtractorCLIP
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    if issubclass(kind, FeatureExtractorInceptionV3 | FeatureExtractorVGG16):
        tensors = folder / "tensors.pth"
        with _private(tensors) as file:
            torch.save(state_of(copy), file)
        return tensors
    if issubclass(kind, FeatureExtractorCLIP):
        # TorchScript is a program.
        published = MODEL_METADATA.get(name, {}).get("hash")
        if sha256 != published:
            raise UsageError(f"'eval.fid.weights' is not the published file of {name}. Name that with {published}.")
    if issubclass(kind, FeatureExtractorDinoV2):
        raise UsageError(f"'eval.fid.extractor' {name} runs code from the internet. Choose another extractor.")
    # A plug-in is the user's own code, and reads files of its own kind.
    return copy


def state_of(path: Path) -> dict[str, torch.Tensor]:
    """The named tensors in a file of `torch.save`, and nothing else.

    Raises:
        NotWeights: the file is damaged, or there is something else in it.
    """
    try:
        with warnings.catch_warnings():
            # Of odd files; what they are is said below.
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise NotWeights("it is damaged, or there is more in it than tensors") from error
    except Exception as error:  # torch raises anything for a damaged file
        raise NotWeights(f"{type(error).__name__}: {error}") from error
    if not isinstance(state, dict):
        raise NotWeights(f"it holds a {type(state).__name__} in place of named tensors")
    for key, value in state.items():
        plain = isinstance(key, str) and isinstance(value, torch.Tensor) and value.layout is torch.strided
        if not plain or value.is_quantized or value.device.type != "cpu":
            raise NotWeights(f"it holds a {type(value).__name__} among its tensors")
    return dict(state)


def _copied(path: str, target: Path) -> str:
    """Copy a regular file of at most `MAX_BYTES`; returns the SHA-256 of what was copied."""
    sha256, size = hashlib.sha256(), 0
    with _source(path) as file, _private(target) as copy:
        while block := file.read(_BLOCK):
            size += len(block)
            if size > MAX_BYTES:
                raise UsageError(f"{path}: too large for weights. Correct eval.fid.weights.")
            sha256.update(block)
            copy.write(block)
    return sha256.hexdigest()


@contextlib.contextmanager
def _source(path: str) -> Iterator[IO[bytes]]:
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(files.opened(Path(path), follow=True))
        except OSError as error:
            text = f"gone since the evaluation was asked for ({error.strerror})"
            raise UsageError(f"{path}: {text}. Put it back, or re-run the command.") from error
        yield file


def _private(path: Path) -> IO[bytes]:
    """A new file that nobody else may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")

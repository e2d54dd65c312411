"""Files of weights of a feature extractor, of both formats of torch, damaged or crafted."""

from __future__ import annotations

import functools
import io
import random
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cld_core.digests import checksum
from cld_core.errors import UsageError
from cld_core.evaluation import weights

from .campaign import Target
from .mutations import ODD_VALUES, damaged


@functools.cache
def _valid() -> tuple[bytes, ...]:
    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.zeros(3), "n": torch.tensor(1)}
    files = []
    for is_zip in (True, False):
        file = io.BytesIO()
        torch.save(state, file, _use_new_zipfile_serialization=is_zip)
        files.append(file.getvalue())
    return tuple(files)


def _made(rng: random.Random) -> bytes:
    content = rng.choice(_valid())
    match rng.randrange(4):
        case 0 if content[:2] == b"PK":
            return _other_records(rng, content)
        case 1:
            file = io.BytesIO()
            odd = rng.choice([*ODD_VALUES, torch.zeros(2), torch.zeros(1).expand(10**9), {"a": 1}])
            torch.save(rng.choice([odd, {"a": odd}, {1: odd}, [odd]]), file)
            return file.getvalue()
    return damaged(rng, content)


def _other_records(rng: random.Random, content: bytes) -> bytes:
    """The archive with damage inside of a record, whose checksum is right again."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", rng.choice([0, 8])) as new:
        for name in old.namelist():
            record = old.read(name)
            new.writestr(name, damaged(rng, record) if rng.random() < 0.4 else record)
    return file.getvalue()


def _make(rng: random.Random, folder: Path) -> Callable[[], Any]:
    path = folder / "w.pth"
    path.write_bytes(_made(rng))

    def read() -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

        tempfile.tempdir = str(folder)
        try:
            with weights.handed_over(str(path), checksum(path), Inception, "inception-v3-compat") as copy:
                torch.load(copy, weights_only=True)
        except weights.NotWeights as error:
            # As `extractors` does.
            raise UsageError("these are not weights") from error

    return read


def _prepare() -> None:
    import torch_fidelity.feature_extractor_inceptionv3  # noqa: F401

    _valid()


TARGET = Target("weights", _make, _prepare)

"""Files of arrays: statistics of both layouts, and what shards kept."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .campaign import Target
from .mutations import ODD_VALUES, changed, damaged

_SHAPES = ("(3,)", "(0,)", "()", "(-1,)", "(1000000000000,)", "(3, 3)", "(True,)", "(1e3,)", "3", "[3]", "(3,) * 9")
_TYPES = ("<f8", "|O", "|V8", "<U1", "<U999999999", "<f2", "<c16", "|S8", "|b1", "<M8[s]", "xx", ">i4")


@cache
def _sound() -> list[dict[str, Any]]:
    import numpy as np

    rows = np.random.default_rng(1).normal(size=(6, 3))
    about = {"identity": "0" * 64, "images": 6, "extractor": "x", "layer": "y", "weights": None, "plugin": None}
    return [
        {"mu": rows.mean(0), "sigma": np.cov(rows.T), "about": np.array(json.dumps(about))},
        {"pool_3": rows.astype(np.float32)},
        {"mu": rows.mean(0), "sigma": np.cov(rows.T), "pool_3": rows, "about": np.array(json.dumps(about))},
        {"n": np.array(6), "mean": rows.mean(0), "scatter": np.cov(rows.T), "nfe": np.ones(6)},
    ]


def _array(value: Any) -> bytes:
    import numpy as np

    out = io.BytesIO()
    np.save(out, value, allow_pickle=True)
    return out.getvalue()


def _odd_member(rng: random.Random, name: str, content: bytes) -> bytes:
    import numpy as np

    match rng.randrange(5):
        case 0:
            return damaged(rng, content)
        case 1:
            text = f"{{'descr': '{rng.choice(_TYPES)}', 'fortran_order': False, 'shape': {rng.choice(_SHAPES)}, }}\n"
            head = text.encode()
            version = rng.choice((1, 1, 2, 3, 7))
            length = rng.choice((len(head), len(head), 0, 2**16 - 1, 2**32 - 1))
            size = struct.pack("<I", length) if version != 1 else struct.pack("<H", length & 0xFFFF)
            return b"\x93NUMPY" + bytes([version, 0]) + size + head + content[128:]
        case 2:
            shapes = ((3,), (3, 3), (6, 3), (0, 3), (1,), (9000,), (2, 3, 4), ())
            return _array(np.zeros(rng.choice(shapes), rng.choice(("f8", "f4", "i8", "c16", "U3", "O", "b1"))))
        case 3 if name == "about":
            return _array(np.array(json.dumps(changed(rng, {"identity": "a", "images": 6}))))
        case _:
            return _array(np.array(str(rng.choice(ODD_VALUES)).encode(errors="replace")))


def _make(rng: random.Random, folder: Path) -> Callable[[], Any]:
    from cld_core.evaluation import stats_file
    from cld_core.shards import state
    from cld_core.shards.files import Sealed

    arrays = rng.choice(_sound())
    members = {f"{name}.npy": _array(value) for name, value in arrays.items()}
    kind = rng.randrange(3)
    if kind:
        for name in rng.sample(list(members), rng.randint(1, 2) if len(members) > 1 else 1):
            try:
                members[name] = _odd_member(rng, name.removesuffix(".npy"), members[name])
            except (RecursionError, TypeError):
                del members[name]
    if rng.random() < 0.1:
        members[rng.choice(("../../x.npy", "a\x1b[31m.npy", "x" * 300, "mu"))] = b"x"
    out = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if rng.random() < 0.02:
            archive.writestr("pool_3.npy", _array(__import__("numpy").zeros((2**20, 60))))
    content = out.getvalue()
    if kind != 1:
        content = damaged(rng, content)
    path = folder / "00000-features.npz"
    path.write_bytes(content)
    state.state_file(folder, 0).write_text("{}")
    if rng.random() < 0.7:
        return lambda: stats_file.read(path, features=rng.random() < 0.5)
    return lambda: Sealed(folder, 0, "features", 0, 6).load()


def _prepare() -> None:
    from cld_core.evaluation import stats_file  # noqa: F401 (forks have it)
    from cld_core.shards import files  # noqa: F401

    _sound()


TARGET = Target("npz", _make, _prepare)

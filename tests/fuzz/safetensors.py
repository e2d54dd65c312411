"""Exported weights: damaged files, and metadata that describe something else."""

from __future__ import annotations

import json
import random
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .campaign import Target
from .manifests import json_bytes
from .mutations import ODD_VALUES, changed, damaged


@cache
def _exported() -> tuple[dict[str, Any], bytes]:
    """The header and the tensors of a file."""
    from cld_core.model import Model
    from cld_core.recipe import load
    from tests.support.paths import RECIPES

    file = Path(tempfile.mkdtemp(prefix="fuzz-safetensors-")) / "w.safetensors"
    Model(load(RECIPES / "toy.yaml", ["network.width=8", "network.layers=2"])).export(file)
    raw = file.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def _written(header: bytes, tensors: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + tensors


def _odd_recipe(rng: random.Random, recipe: dict[str, Any], folder: Path) -> Any:
    match rng.randrange(5):
        case 0:
            key = rng.choice(("width", "layers", "channels", "blocks", "multipliers", "image_size"))
            name = rng.choice(("mlp", "resnet", "ncsnpp"))
            network = {"name": name, key: rng.choice((10**6, 10**9, 10**15, 2**63, 10**30, [1] * 1000, [10**9] * 30))}
            return {**recipe, "network": network}
        case 1:
            (folder / "evil.py").write_text(f"open({str(folder.parent / 'fuzz-it-ran')!r}, 'w')\n")
            plugin = rng.choice((str(folder / "evil.py"), "this", "antigravity", "__main__", "../evil.py"))
            return {**recipe, "data": {"name": "evil", "plugin": plugin}}
        case 2:
            return {**recipe, "name": rng.choice(("${oc.env:HOME}", "${train.steps}", "${", "\\${HOME}"))}
        case _:
            return changed(rng, recipe)


def _make(rng: random.Random, folder: Path) -> Callable[[], Any]:
    import cld_core

    header, tensors = _exported()
    about = dict(header["__metadata__"])
    length = None
    match rng.randrange(6):
        case 0:
            content = damaged(rng, _written(json.dumps(header).encode(), tensors))
        case 1:
            length = rng.choice((0, 1, 2**20, 2**40, 2**63, 2**64 - 1))
            content = _written(json.dumps(header).encode(), tensors, length)
        case 2:
            content = _written(json_bytes(changed(rng, header)), tensors)
        case 3:
            name = rng.choice(list(about))
            about[name] = str(rng.choice(ODD_VALUES)) if rng.random() < 0.7 else "x" * 2**21
            content = _written(json_bytes({**header, "__metadata__": about}), tensors)
        case _:
            about["recipe"] = json_bytes(_odd_recipe(rng, json.loads(about["recipe"]), folder)).decode()
            if rng.random() < 0.3:
                about["data"] = json_bytes(changed(rng, json.loads(about["data"]))).decode()
            content = _written(json_bytes({**header, "__metadata__": about}), tensors)
    file = folder / "w.safetensors"
    file.write_bytes(content)
    return lambda: cld_core.load(file)


def _prepare() -> None:
    import torch

    from cld_core import nets  # noqa: F401 (forks have it)
    from cld_core.nets import mlp, ncsnpp, resnet  # noqa: F401

    torch.set_num_threads(1)
    _exported()


TARGET = Target("safetensors", _make, _prepare)

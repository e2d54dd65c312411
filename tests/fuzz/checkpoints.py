"""Checkpoints of runs with their sidecars, and checkpoints in the published layout."""

from __future__ import annotations

import io
import json
import pickletools
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .campaign import Target
from .manifests import json_bytes
from .mutations import changed, damaged

_STEP = 7


@cache
def _run() -> Path:
    """A run with one checkpoint."""
    from cld_core.checkpoint.write import write
    from cld_core.model import Model
    from cld_core.recipe import load
    from cld_core.run import RunFolder
    from tests.support.paths import RECIPES

    recipe = load(RECIPES / "toy.yaml", ["network.width=8", "network.layers=2"])
    root = Path(tempfile.mkdtemp(prefix="fuzz-checkpoints-"))
    folder = RunFolder.create(root / "run", recipe, {"created": 1.0})
    write(folder, _STEP, _state(recipe, Model(recipe)))
    return folder.path


def _state(recipe: Any, model: Any) -> dict[str, Any]:
    weights = model.net.state_dict()
    averages = {name: tensor.clone() for name, tensor in weights.items()}
    return {
        "model": dict(weights),
        "ema": {"updates": 3, "average": averages},
        "optimiser": {"state": {}, "param_groups": []},
        "model_digest": recipe.model_digest(),
    }


@cache
def _published() -> tuple[Any, dict[str, Any]]:
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    parameters = list(net.parameters())
    moments = {
        number: {"step": 3, "exp_avg": torch.zeros_like(one), "exp_avg_sq": torch.zeros_like(one)}
        for number, one in enumerate(parameters)
    }
    return net, {
        "model": {f"module.{name}": tensor for name, tensor in net.state_dict().items()},
        "optimizer": {"state": moments, "param_groups": [{"params": list(range(len(parameters)))}]},
        "ema": {"shadow_params": [one.detach().clone() for one in parameters], "num_updates": 3},
        "step": 3,
    }


def _saved(content: Any) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def _odd_tensors(rng: random.Random, tree: Any) -> Any:
    """`changed`, and tensors that are others."""
    import torch

    if isinstance(tree, dict):
        return {name: _odd_tensors(rng, value) for name, value in tree.items()}
    if isinstance(tree, torch.Tensor) and rng.random() < 0.2:
        choices: tuple[Callable[[], Any], ...] = (
            lambda: tree.to(torch.complex64),
            lambda: tree.to(torch.int8),
            lambda: tree.to_sparse(),
            lambda: tree.to("meta"),
            lambda: tree.flatten(),
            lambda: torch.zeros(1).expand(10**6, 10**6),
            lambda: torch.nn.Parameter(tree.float()),
            lambda: torch.quantize_per_tensor(tree.float(), 0.1, 0, torch.qint8),
        )
        return rng.choice(choices)()
    return tree


def _odd_archive(rng: random.Random, content: bytes) -> bytes:
    """The pickle in it is damaged, the archive around it is whole."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    data = bytearray(members[name])
    if rng.random() < 0.5:
        data = bytearray(damaged(rng, bytes(data)))
    else:
        places = [place for _, _, place in pickletools.genops(bytes(data)) if place]
        for place in sorted(rng.sample(places, 2), reverse=True):
            data[place : place + rng.randrange(2)] = rng.choice(
                (
                    b"\x8a\x08" + struct.pack("<q", rng.choice((2**40, -1, 2**62))),
                    b"r" + struct.pack("<I", 2**31),
                    b"cos\nsystem\n",
                    b"ctorch.storage\nUntypedStorage\n",
                    b"(" * 5000,
                    b"}" + b")" + b"2\x86" * 60 + b"Ns",
                    bytes([rng.randrange(256)]),
                )
            )
    members[name] = bytes(data)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member, raw in members.items():
            archive.writestr(member, raw)
    return out.getvalue()


def _spoilt(rng: random.Random, content: Any) -> bytes:
    """A file of the changed content, or the file of the content changed."""
    import torch

    match rng.randrange(4):
        case 0:
            return damaged(rng, _saved(content))
        case 1:
            return _odd_archive(rng, _saved(content))
        case 2:
            tree = _odd_tensors(rng, content)
        case _:
            tree = changed(rng, content)
    try:
        raw = _saved(tree)
        torch.load(io.BytesIO(raw), weights_only=True)
    except Exception:
        return damaged(rng, _saved(content))
    return raw


def _make(rng: random.Random, folder: Path) -> Callable[[], Any]:
    import torch

    from cld_core.checkpoint import published
    from cld_core.checkpoint.verify import Sidecar
    from cld_core.digests import checksum
    from cld_core.model import Model
    from cld_core.recipe.optim import OptimSpec
    from cld_core.run import RunFolder

    if rng.random() < 0.4:
        net, content = _published()
        (folder / "p.pth").write_bytes(_spoilt(rng, content))
        return lambda: published.read(folder / "p.pth", net, OptimSpec())
    shutil.copytree(_run(), folder / "run")
    run = RunFolder(folder / "run")
    path = run.checkpoint_file(_STEP)
    sidecar = path.with_suffix(".json")
    if rng.random() < 0.3:
        text = sidecar.read_bytes()
        tree = json.loads(text)
        sidecar.write_bytes(damaged(rng, text) if rng.random() < 0.3 else json_bytes(changed(rng, tree)))
    else:
        state = torch.load(path, weights_only=True)
        path.write_bytes(_spoilt(rng, state))
        if rng.random() < 0.8:
            size = path.stat().st_size
            Sidecar(format=1, step=_STEP, bytes=size, sha256=checksum(path)).write(sidecar)
    return lambda: Model.from_run(run.path, rng.choice(("last", _STEP)))


def _prepare() -> None:
    import torch

    torch.set_num_threads(1)
    _run(), _published()


TARGET = Target("checkpoints", _make, _prepare)

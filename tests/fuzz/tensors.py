"""Files of tensors: checkpoints and their sidecars, published checkpoints, weights, exported
models, arrays."""

import io
import json
import shutil
import struct
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

import cld_core
from cld_core import importing, optim
from cld_core.checkpoint import load, write
from cld_core.config.train import OptimSpec
from cld_core.evaluate import stats_file
from cld_core.model import Model
from cld_core.nets import mlp, ncsnpp  # noqa: F401 (forks have them)
from cld_core.run import RunFolder
from cld_core.run.checkpoints import weights_file
from cld_core.run.shards import Rows
from tests.support.made_up import run_with, vouch
from tests.support.recipes import toy_recipe

from .campaign import Target
from .mutations import ODD_VALUES, changed, damaged, json_bytes

STEP = 7
SMALL = ("network.width=8", "network.layers=2")


def _prepare():
    torch.set_num_threads(1)
    _run()
    _exported()
    _arrays()
    # The first optimiser imports a part of torch that makes a folder of its own.
    optim.build(OptimSpec(), published()[0].parameters())


# --- what torch saves


@cache
def _run():
    """A run with one checkpoint."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-checkpoints-")) / "run"
    folder = run_with(path, overrides=SMALL)
    recipe = folder.recipe()
    weights = dict(Model(recipe).net.state_dict())
    state = {
        "model": weights,
        "ema": {"updates": 3, "average": {name: it.clone() for name, it in weights.items()}},
    }
    about = {"optimiser": {"state": {}, "param_groups": []}, "model_digest": recipe.model_digest()}
    write(folder, STEP, {**state, **about})
    return folder.path


@cache
def published():
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


def _saved(content):
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def _odd_tensors(rng, tree):
    if isinstance(tree, dict):
        return {name: _odd_tensors(rng, value) for name, value in tree.items()}
    if not isinstance(tree, torch.Tensor) or rng.random() > 0.2:
        return tree
    odd = (
        lambda: tree.to(torch.complex64),
        lambda: tree.to(torch.int8),
        tree.to_sparse,
        lambda: tree.to("meta"),
        tree.flatten,
        lambda: torch.zeros(1).expand(10**6, 10**6),
        lambda: torch.nn.Parameter(tree.float()),
    )
    return rng.choice(odd)()


def _spoilt(rng, content):
    """A file of the changed content, or the file of the content changed."""
    whole = _saved(content)
    try:
        raw = _saved(rng.choice((_odd_tensors, changed))(rng, content))
        torch.load(io.BytesIO(raw), weights_only=True)
    except Exception:
        return damaged(rng, whole)
    return raw


def _checkpoint(rng, folder):
    if rng.random() < 0.4:
        net, content = published()
        (folder / "p.pth").write_bytes(_spoilt(rng, content))
        return lambda: importing.read(folder / "p.pth", net, OptimSpec())
    shutil.copytree(_run(), folder / "run")
    run = RunFolder(folder / "run")
    path = run.checkpoint_file(STEP)
    sidecar = path.with_suffix(".json")
    if rng.random() < 0.2:
        text = sidecar.read_bytes()
        sidecar.write_bytes(
            rng.choice((damaged(rng, text), json_bytes(changed(rng, json.loads(text)))))
        )
    else:
        path.write_bytes(_spoilt(rng, torch.load(path, weights_only=True)))
        if rng.random() < 0.5:
            weights = weights_file(run, STEP)
            weights.write_bytes(damaged(rng, weights.read_bytes()))
        if rng.random() < 0.8:
            vouch(run, STEP, model=run.recipe().model_digest())
    return rng.choice(
        (lambda: Model.from_run(run.path, rng.choice(("last", STEP))), lambda: load(run, STEP))
    )


# --- exported models


@cache
def _exported():
    """The header and the tensors of a file."""
    file = Path(tempfile.mkdtemp(prefix="fuzz-safetensors-")) / "w.safetensors"
    Model(toy_recipe(*SMALL)).export(file)
    raw = file.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def _odd_recipe(rng, recipe, folder):
    match rng.randrange(3):
        case 0:
            key = rng.choice(("width", "layers", "channels", "blocks", "multipliers", "image_size"))
            size = rng.choice((10**6, 10**9, 2**63, 10**30, [1] * 1000, [10**9] * 30))
            return {
                **recipe,
                "network": {"name": rng.choice(("mlp", "resnet", "ncsnpp")), key: size},
            }
        case 1:
            (folder / "evil.py").write_text(f"open({str(folder.parent / 'fuzz-it-ran')!r}, 'w')\n")
            plugin = rng.choice(
                (str(folder / "evil.py"), "this", "antigravity", "__main__", "../evil.py")
            )
            return {**recipe, "plugins": [plugin], "data": {"name": "evil"}}
        case _:
            return changed(rng, recipe)


def _safetensors(rng, folder):
    header, tensors = _exported()
    about = dict(header["__metadata__"])

    def written(head):
        return struct.pack("<Q", len(head)) + head + tensors

    match rng.randrange(4):
        case 0:
            content = damaged(rng, written(json_bytes(header)))
        case 1:
            content = written(json_bytes(changed(rng, header)))
        case 2:
            about[rng.choice(list(about))] = (
                str(rng.choice(ODD_VALUES)) if rng.random() < 0.7 else "x" * 2**21
            )
            content = written(json_bytes({**header, "__metadata__": about}))
        case _:
            about["recipe"] = json_bytes(
                _odd_recipe(rng, json.loads(about["recipe"]), folder)
            ).decode()
            content = written(json_bytes({**header, "__metadata__": about}))
    file = folder / "w.safetensors"
    file.write_bytes(content)
    return lambda: cld_core.load(file)


# --- arrays


def array_bytes(value):
    """A file of an array, of objects, too."""
    out = io.BytesIO()
    np.save(out, value, allow_pickle=True)
    return out.getvalue()


@cache
def _arrays():
    """Statistics of both layouts, and what shards keep."""
    rows = np.random.default_rng(1).normal(size=(6, 3))
    about = {
        "identity": "0" * 64,
        "images": 6,
        "extractor": "x",
        "layer": "y",
        "weights": None,
        "plugin": None,
    }
    moments = {"mu": rows.mean(0), "sigma": np.cov(rows.T), "about": np.array(json.dumps(about))}
    sharded = {"n": np.array(6), "mean": rows.mean(0), "scatter": np.cov(rows.T), "nfe": np.ones(6)}
    sets = [moments, {"pool_3": rows.astype(np.float32)}, {**moments, "pool_3": rows}, sharded]
    return [{name: array_bytes(value) for name, value in one.items()} for one in sets]


def _npz(rng, folder):
    members = dict(rng.choice(_arrays()))
    name = rng.choice(list(members))
    shape = rng.choice(((3,), (3, 3), (6, 3), (0, 3), (9000,), ()))
    odd = np.zeros(shape, rng.choice(("f8", "i8", "U3", "O")))
    members[name] = rng.choice(
        (
            damaged(rng, members[name]),
            array_bytes(odd),
            array_bytes(np.array(rng.choice(ODD_VALUES[:12]))),
        )
    )
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    path = folder / "000000-000006.npz"
    path.write_bytes(damaged(rng, out.getvalue()) if rng.random() < 0.5 else out.getvalue())
    if rng.random() < 0.7:
        return lambda: stats_file.read(path, features=rng.random() < 0.5)
    return lambda: Rows(folder, 6).load(0, 6)


TARGETS = [
    Target("checkpoints", _checkpoint, _prepare),
    Target("safetensors", _safetensors, _prepare),
    Target("npz", _npz, _prepare),
]

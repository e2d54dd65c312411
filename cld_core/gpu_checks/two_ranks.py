"""Two ranks compute what one does: over NCCL on two cards, over gloo on CPUs."""

import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import torch
import torch.multiprocessing as multiprocessing

from cld_core import numerics
from cld_core.config import Recipe
from cld_core.place import Place
from cld_core.ranks import Ranks, join
from cld_core.train.forms import Choice
from cld_core.train.step import Trainer

from . import states
from .findings import Context, Finding, judged
from .setups import image_recipe

# float32 without TF32, in which only the order of sums differs; as in `parity`.
_TOLERANCE = 2.0**-12
_STEPS = 3
_LIMIT_S, _COMPILING_S = 180.0, 420.0
_ADVICE = "Run it again with NCCL_DEBUG=INFO, and with NCCL_P2P_DISABLE=1, which avoids direct copies between cards."


def check(context: Context, form: Literal["eager", "compiled"] = "eager") -> Finding:
    """The gradients of one step of one and of two ranks, and the weights that both ranks have after some.

    Args:
        form: of the two ranks. The one is not compiled.
    """
    cards = torch.cuda.device_count() if context.on_gpu else 2
    if cards < 2:
        return Finding("skip", f"needs two cards, and torch sees {cards}")
    shallow = () if context.small else ("network.blocks=1",)
    exact = ("train.precision=fp32", "train.tf32=false", "train.channels_last=true")
    # Masks of dropout are keyed by the rank, and the branches of a new network are nearly zero.
    network = ("network.dropout=0", "network.init_scale=1")
    one, two = (
        image_recipe(context, "cifar10", *network, *exact, *shallow, f"train.compile={compile}")
        for compile in ("false", str(form == "compiled").lower())
    )
    expected = _trained(one, Ranks(device=torch.device(context.device)))
    how = f"{'NCCL' if context.on_gpu else 'gloo'}, {Choice.plain(two.train)}"
    with tempfile.TemporaryDirectory(dir=context.work) as folder:
        if not _finished(two, context.on_gpu, folder):
            return Finding("fail", f"over {how}: two ranks did not finish within {_limit_s(two):.0f} s", _ADVICE)
        first, second = (torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2))
    error = states.distance(first["gradients"], expected["gradients"])
    apart = states.changed(first, second)
    found = f"over {how}: gradients of two ranks and of one differ by {error:.1e} (at most {_TOLERANCE:.1e})"
    if apart:
        found += f"; {' and '.join(apart)} of the two ranks differ"
    return judged(error <= _TOLERANCE and not apart, found, _ADVICE)


def _finished(recipe: Recipe, gpu: bool, folder: str) -> bool:
    """Run both ranks; False if they hang, as they do where cards cannot reach each other."""
    ranks = multiprocessing.spawn(_rank, args=(recipe, gpu, folder), nprocs=2, join=False)
    deadline = time.monotonic() + _limit_s(recipe)
    while not ranks.join(timeout=1.0):
        if time.monotonic() > deadline:
            for process in ranks.processes:
                process.kill()
            return False
    return True


def _limit_s(recipe: Recipe) -> float:
    return _LIMIT_S + (_COMPILING_S if recipe.train.compile is True else 0.0)


def _rank(rank: int, recipe: Recipe, gpu: bool, folder: str) -> None:
    if not gpu:
        torch.set_num_threads(1)
    place = Place(rank, 2, local_rank=rank, local_world_size=2, init_method=f"file://{folder}/meeting")
    ranks = join(place, gpu=gpu, timeout_s=_limit_s(recipe))
    torch.save(_trained(recipe, ranks), Path(folder) / f"{rank}.pt")
    ranks.leave()


def _trained(recipe: Recipe, ranks: Ranks) -> dict[str, Any]:
    """The gradients of the first step, and the weights after some, on the CPU."""
    with numerics.using(tf32=False):
        trainer = Trainer(recipe, ranks)
        trainer.warm_up()
        gradients: dict[str, torch.Tensor] = {}

        def take() -> None:
            if not gradients:
                named = trainer.net.named_parameters()
                gradients.update({name: p.grad.detach().cpu().clone() for name, p in named if p.grad is not None})

        for step in range(_STEPS):
            trainer.step(step, before_update=take)
        weights = {name: value.cpu() for name, value in trainer.net.state_dict().items()}
        trainer.close()
    return {"gradients": gradients, "weights": weights}

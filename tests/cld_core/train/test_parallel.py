"""Compiled networks on several ranks: they train as uncompiled ones, and their graph is cut where DDP's buckets end."""

import pytest
import torch
import torch.multiprocessing as multiprocessing

from cld_core.config import load
from cld_core.nets import compiled
from cld_core.ranks import join
from cld_core.rendezvous import Place
from cld_core.train.step import Trainer
from tests.support import tracing
from tests.support.paths import RECIPES
from tests.support.tools import same

# Two matrices of 1 MiB, so that their gradients do not fit into one bucket.
WIDE = ("network.width=512", "network.layers=4", "train.batch_size=9", "train.bucket_mb=1")
STEPS = 3


def _join(rank, world_size, meeting):
    torch.set_num_threads(1)
    compiled.BACKEND = tracing.differentiate
    return join(Place(rank, world_size, init_method=f"file://{meeting}"), gpu=False, timeout_s=300)


def trained(recipe, ranks, *, stop_at=None):
    """After `STEPS` steps; with ``stop_at``, the state of that step went into another trainer, as on resuming."""
    made = Trainer(recipe, ranks)
    made.warm_up()
    for step in range(STEPS):
        if step == stop_at:
            state = made.state_dict()
            made = Trainer(recipe, ranks)
            made.load_state_dict(state)
            made.warm_up()
        made.step(step)
    return made


def _compare(rank, world_size, meeting, out):
    ranks, found = _join(rank, world_size, meeting), {}
    for name, more in {"whole": (), "cut": ("train.micro_batch=2",)}.items():
        plain, compiling = (load(RECIPES / "toy.yaml", [*WIDE, *more, f"train.compile={it}"]) for it in (False, True))
        eager = trained(plain, ranks)
        before = len(tracing.graphs)
        fast = trained(compiling, ranks)
        found[name] = {
            "graphs": len(tracing.graphs) - before,
            "eager": eager.net.state_dict(),
            "compiled": fast.net.state_dict(),
            "resumed": trained(compiling, ranks, stop_at=2).net.state_dict(),
        }
    torch.save(found, f"{out}.{rank}")
    ranks.leave()


@pytest.mark.slow
def test_compiled_ranks_train_as_others_and_resume_to_the_last_bit(tmp_path):
    """With three ranks, the rounding of a sum depends on the bucket that it is in."""
    arguments = (3, str(tmp_path / "meeting"), str(tmp_path / "out"))
    multiprocessing.spawn(_compare, args=arguments, nprocs=3)
    results = [torch.load(tmp_path / f"out.{rank}", weights_only=True) for rank in range(3)]
    for name, found in results[0].items():
        # Of one size of batch, or two if the last micro-batch is smaller, and more than one piece of each.
        assert found["graphs"] >= 2, name
        for weight, tensor in found["eager"].items():
            torch.testing.assert_close(found["compiled"][weight], tensor, rtol=1e-3, atol=1e-5)
        assert same(found["resumed"], found["compiled"])
        assert all(same(result[name]["compiled"], found["compiled"]) for result in results)

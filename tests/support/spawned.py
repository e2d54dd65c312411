"""Ranks of a test that are processes of their own and meet at a file."""

import torch
import torch.multiprocessing as multiprocessing

from cld_core.ranks import join
from cld_core.rendezvous import Place

# What every rank would import again: processes begin as forks of one that has.
multiprocessing.set_forkserver_preload(["cld_core.train.session", __name__])


def start(work, size, *arguments):
    """Call ``work(rank, *arguments)``, a function of a module, in processes, and wait for all."""
    multiprocessing.start_processes(work, args=arguments, nprocs=size, start_method="forkserver")


def spawned(work, folder, size, *arguments, gpu=False):
    """By rank, the tensors that ``work(ranks, *arguments)``, a function of a module, returns."""
    start(_rank, size, size, folder, gpu, work, arguments)
    return [torch.load(folder / f"out.{rank}", weights_only=True) for rank in range(size)]


def _rank(rank, size, folder, gpu, work, arguments):
    place = Place(
        rank, size, local_rank=rank, local_world_size=size, init_method=f"file://{folder}/meeting"
    )
    ranks = join(place, gpu=gpu, timeout_s=600.0)
    if not gpu:
        torch.set_num_threads(1)
    torch.save(work(ranks, *arguments), folder / f"out.{rank}")
    ranks.leave()

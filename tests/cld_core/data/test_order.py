import random

import pytest
import torch

from cld_core.data.order import indices, mirrored


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_every_index_once_an_epoch_however_often_training_is_resumed(world, seed):
    chance = random.Random(100 * world + seed)
    n, batch_size = chance.randint(5, 60), chance.randint(3, 40)
    steps = 4 * n // batch_size + 3
    seen: list[int] = []
    step = 0
    while step < steps:
        killed_at = min(steps, step + chance.randint(1, 5))
        ranks = chance.choice([1, 2, 3]) if seed % 2 else world  # also on another number of ranks
        for now in range(step, killed_at):
            for rank in range(ranks):
                seen += indices(now, batch_size, n, seed)[
                    batch_size * rank // ranks : batch_size * (rank + 1) // ranks
                ].tolist()
        step = killed_at
    epochs = len(seen) // n
    assert epochs >= 3
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert len({tuple(seen[epoch * n : (epoch + 1) * n]) for epoch in range(epochs)}) == epochs


def test_a_step_knows_its_images_without_the_steps_before():
    late = indices(1_000_003, 64, 50_000, seed=7)
    assert torch.equal(late, indices(1_000_003, 64, 50_000, seed=7))
    assert not torch.equal(late, indices(1_000_003, 64, 50_000, seed=8))
    assert (late.dtype, late.shape) == (torch.int64, (64,))


def test_a_batch_larger_than_the_set():
    got = indices(0, 25, 10, seed=0)
    assert torch.equal(got[:10].sort().values, torch.arange(10))
    assert torch.equal(got[10:20].sort().values, torch.arange(10))
    assert len(set(got[20:].tolist())) == 5


def test_what_is_given_out_is_the_callers_own():
    first = indices(0, 10, 10, seed=0)
    kept = first.clone()
    first.zero_()
    assert torch.equal(indices(0, 10, 10, seed=0), kept)


def test_half_are_mirrored_others_in_each_epoch():
    n = 4000
    first, second = (mirrored(epoch, n, n, seed=0) for epoch in (0, 1))
    assert first.dtype == torch.bool
    assert abs(first.float().mean() - 0.5) < 0.03
    assert 0.4 < (first == second).float().mean() < 0.6

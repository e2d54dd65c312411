"""Noise of samples: the same numbers on any device, because it is always drawn on the CPU."""

from unittest.mock import Mock

import pytest
import torch

from cld_core import seeds
from cld_core.seeds import SAMPLE_BLOCK, SampleNoise, generator

DRAWS = {
    "normal": lambda noise: noise.normal((3, 2)),
    "uniform": lambda noise: noise.uniform((3, 2)),
    "uniform in float64": lambda noise: noise.uniform((), torch.float64),
    "rademacher": lambda noise: noise.rademacher((3, 2)),
}


@pytest.mark.parametrize(("first", "last"), [(0, 5), (30, 70), (64, 96)])
def test_a_sample_has_the_numbers_of_its_block(first, last):
    noise = SampleNoise(3, "sample", first=first, last=last)
    blocks = range(first // SAMPLE_BLOCK, (last - 1) // SAMPLE_BLOCK + 1)
    generators = [generator(3, "sample", "block", block) for block in blocks]
    for shape in ((3, 2), (5,)):  # one call after another
        whole = torch.cat([torch.randn(SAMPLE_BLOCK, *shape, generator=g) for g in generators])
        start = first - blocks[0] * SAMPLE_BLOCK
        assert torch.equal(noise.normal(shape), whole[start : start + last - first])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_another_device_gets_the_numbers_of_the_cpu(draw, monkeypatch):
    """A device without generators stands for a GPU, whose generators depend on the model of the
    card."""
    delivered, to = [], torch.Tensor.to

    def record(tensor, *args, **keywords):
        if torch.device("meta") in args:
            delivered.append(tensor)
        return to(tensor, *args, **keywords)

    monkeypatch.setattr(torch.Tensor, "to", record)
    wanted = draw(SampleNoise(3, first=30, last=70))
    found = draw(SampleNoise(3, first=30, last=70, device="meta"))
    assert (found.device.type, found.shape, found.dtype) == ("meta", wanted.shape, wanted.dtype)
    (numbers,) = delivered
    assert torch.equal(numbers, wanted)


def test_what_goes_to_a_gpu_is_pinned_and_nobody_waits_for_it():
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 1)
    for device, target, is_pinned in ((cpu, gpu, True), (gpu, gpu, False), (cpu, cpu, False)):
        numbers = Mock(device=device)
        seeds.delivered(numbers, target)
        assert numbers.pin_memory.called == is_pinned, "pinning needs a GPU"
        sent = numbers.pin_memory() if is_pinned else numbers
        sent.to.assert_called_once_with(target, non_blocking=target is gpu)

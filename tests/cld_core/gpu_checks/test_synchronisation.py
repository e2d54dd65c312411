"""On the meta device, which has no values to wait for, a step runs as on a GPU, and no read goes unnoticed."""

from dataclasses import replace

import pytest
import torch

from cld_core.gpu_checks import synchronisation
from cld_core.train.gradients import GradientFilter
from tests.support import meta


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Moments are there after the first step; nothing else is to be warmed up."""
    monkeypatch.setattr(synchronisation, "_WARM_UP", 1)
    monkeypatch.setattr(synchronisation, "_STEPS", 2)


def check(context, precision):
    with meta.in_place_of_a_gpu() as no_blocking_copies:
        return synchronisation.check(replace(context, device="meta"), precision, forbidden=lambda: no_blocking_copies)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_step_reads_nothing_back(context, precision):
    finding = check(context, precision)
    assert finding.verdict == "ok", finding.found
    assert precision in finding.found


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.item(),
        lambda x: bool(x > 1.0),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: torch.nonzero(x),
        lambda x: torch.ones(3).to(x.device),
    ],
    ids=["item", "bool", "cpu", "tolist", "nonzero", "copy"],
)
def test_a_wait_is_found_with_its_place(context, monkeypatch, wait):
    whole = GradientFilter.check

    def waiting(self, norm):
        wait(norm)
        return whole(self, norm)

    monkeypatch.setattr(GradientFilter, "check", waiting)
    finding = check(context, "fp32")
    assert finding.verdict == "fail"
    assert "a step waits or fails at step.py:" in finding.found


def test_a_cpu_is_not_waited_for(context):
    assert synchronisation.check(context, "fp32").verdict == "skip"


def test_torch_is_told_to_refuse_waits_and_then_not_to(monkeypatch):
    modes = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.raises(RuntimeError, match="in a step"), synchronisation.waits_are_errors():
        raise RuntimeError("in a step")
    assert modes == [0, "error", 0]

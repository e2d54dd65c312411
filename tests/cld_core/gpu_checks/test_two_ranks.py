"""Two ranks that compute something else than one, or each other, are found; test_registry starts real ones."""

from dataclasses import replace

import torch

from cld_core.gpu_checks import two_ranks
from cld_core.ranks import Ranks


def without_processes(monkeypatch, spoil=lambda rank, result: None):
    """Let both ranks be this process."""

    def finished(recipe, gpu, folder):
        for rank in range(2):
            result = two_ranks._trained(recipe, Ranks())
            spoil(rank, result)
            torch.save(result, f"{folder}/{rank}.pt")
        return True

    monkeypatch.setattr(two_ranks, "_finished", finished)


def test_equal_ranks_pass(context, monkeypatch):
    without_processes(monkeypatch)
    assert two_ranks.check(context).verdict == "ok"


def test_gradients_that_are_not_averaged_are_found(context, monkeypatch):
    def spoil(rank, result):
        for gradient in result["gradients"].values():
            gradient.mul_(2.0)

    without_processes(monkeypatch, spoil)
    finding = two_ranks.check(context)
    assert finding.verdict == "fail"
    assert "differ by 1.0e+00" in finding.found


def test_ranks_that_drift_apart_are_found(context, monkeypatch):
    def spoil(rank, result):
        next(iter(result["weights"].values())).add_(1e-6 * rank)

    without_processes(monkeypatch, spoil)
    finding = two_ranks.check(context)
    assert finding.verdict == "fail"
    assert "weights of the two ranks differ" in finding.found


def test_ranks_that_hang_are_killed_and_found(context, monkeypatch):
    killed = []

    class Process:
        def kill(self):
            killed.append(self)

    class Hanging:
        processes = (Process(), Process())

        def join(self, timeout):
            return False

    monkeypatch.setattr(two_ranks.multiprocessing, "spawn", lambda *_, **__: Hanging())
    monkeypatch.setattr(two_ranks, "_LIMIT_S", 0.0)
    finding = two_ranks.check(context)
    assert finding.verdict == "fail"
    assert "did not finish" in finding.found
    assert len(killed) == 2


def test_one_card_is_not_enough(context, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    finding = two_ranks.check(replace(context, device="cuda"))
    assert (finding.verdict, finding.found) == ("skip", "needs two cards, and torch sees 1")

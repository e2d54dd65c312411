"""Checks of GPUs on the CPU, with small networks."""

from collections.abc import Iterator

import pytest
import torch

from cld_core.gpu_checks import two_ranks
from cld_core.gpu_checks.findings import Context
from cld_core.nets import compiled
from cld_core.train import tuning
from tests.support import tracing


@pytest.fixture(scope="session")
def context(tmp_path_factory) -> Context:
    return Context(work=tmp_path_factory.mktemp("gpu-checks"), device="cpu", scale="small")


def rank_without_code(*arguments, rank=two_ranks._rank) -> None:
    """The process of a rank, which starts without what a test has changed."""
    compiled.BACKEND = tracing.differentiate
    rank(*arguments)


@pytest.fixture(autouse=True)
def no_code(monkeypatch) -> Iterator[None]:
    """Generating code takes minutes, as timing does; tests of `compiled` and `tuning` have their own.

    Backward graphs take seconds. Two ranks have them, in processes of their own.
    """
    monkeypatch.setattr(tuning, "WARM_UP", 1)
    monkeypatch.setattr(tuning, "PASSES", 1)
    monkeypatch.setattr(compiled, "BACKEND", tracing.trace)
    monkeypatch.setattr(two_ranks, "_rank", rank_without_code)
    yield
    torch.compiler.reset()

"""Checks of GPUs on the CPU, with small networks."""

from collections.abc import Iterator

import pytest
import torch

from cld_core.gpu_checks.findings import Context
from cld_core.nets import compiled
from cld_core.train import tuning
from tests.support import tracing


@pytest.fixture(scope="session")
def context(tmp_path_factory) -> Context:
    return Context(work=tmp_path_factory.mktemp("gpu-checks"), device="cpu", scale="small")


@pytest.fixture(autouse=True)
def no_code(monkeypatch) -> Iterator[None]:
    """Generating code takes minutes, as timing does; tests of `compiled` and `tuning` have their own."""
    monkeypatch.setattr(tuning, "WARM_UP", 1)
    monkeypatch.setattr(tuning, "PASSES", 1)
    monkeypatch.setattr(compiled, "BACKEND", tracing.differentiate)
    yield
    torch.compiler.reset()

"""Checks of GPUs on the CPU, with small networks."""

import pytest

from cld_core.gpu_checks.findings import Context


@pytest.fixture(scope="session")
def context(tmp_path_factory) -> Context:
    return Context(work=tmp_path_factory.mktemp("gpu-checks"), device="cpu", scale="small")

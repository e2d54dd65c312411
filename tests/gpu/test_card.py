"""Every check of GPUs, on this machine's (`make test-gpu`). What they found is printed with `-s`."""

import pytest

from cld_core.gpu_checks import running
from cld_core.gpu_checks.findings import Context
from cld_core.gpu_checks.registry import CHECKS


@pytest.fixture(scope="session")
def context(tmp_path_factory) -> Context:
    return Context(work=tmp_path_factory.mktemp("gpu-checks"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_this_card(check, context):
    finding = running.run(check, context, catch=False)
    print(f"{finding.name}: {finding.found} {finding.advice}")
    if finding.verdict == "skip":
        pytest.skip(finding.found)
    assert finding.verdict == "ok", f"{finding.found}. {finding.advice}"

"""The table of checks: its names lead somewhere, it loads no torch, and every check in it works on the CPU."""

import subprocess
import sys
from dataclasses import replace

import pytest

from cld_core.config import load
from cld_core.errors import UsageError
from cld_core.gpu_checks import registry, running
from cld_core.gpu_checks.registry import CHECKS, find
from tests.support.paths import RECIPES

# They start processes, or compute much.
SLOW = ("two ranks", "two ranks compiled", "resume", "fid", "auto", "parity bf16 compiled", "parity fp16 compiled")
# What a CPU cannot be asked; their own tests fake it.
SKIPPED = ("no waiting fp32", "no waiting fp16", "no waiting compiled", "no waiting graphs")

# The time of every form, and how far the fastest is from the reference.
AUTO = ("eager ", "channels_last ", "polyphase upsampling ", "compiled with CUDA graphs ", " -> ", "errors: loss")


@pytest.mark.parametrize(
    "check", [pytest.param(c, id=c.name, marks=[pytest.mark.slow] if c.name in SLOW else []) for c in CHECKS]
)
def test_every_check_works_on_the_cpu(check, context):
    if check.name == "checkpoint":
        # By a clock that stands still: a real one could find a slow disk.
        context = replace(context, clock=lambda: 0.0)
    finding = running.run(check, context, catch=False)
    assert finding.name == check.name
    assert finding.verdict == ("skip" if check.name in SKIPPED else "ok"), finding.found
    assert check.name != "auto" or all(part in finding.found for part in AUTO)


def test_names_are_unique_and_some_are_quick():
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    quick = [check.name for check in find(quick=True)]
    assert {"parity fp32", "step cifar10", "no waiting fp16", "overflow"} <= set(quick)
    assert len(quick) < len(CHECKS)
    assert [check.name for check in find(["overflow", "tf32"])] == ["tf32", "overflow"]
    with pytest.raises(UsageError, match=r"'parity fp23' is not a check of GPUs\. Did you mean 'parity fp32'"):
        find(["parity fp23"])


def test_every_recipe_that_trains_on_gpus_is_checked():
    assert {file.stem for file in RECIPES.glob("*.yaml") if load(file).cluster.uses_gpu} == set(registry.RECIPES)


def test_the_table_loads_no_torch():
    code = "import sys, cld_core.gpu_checks.registry; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_what_a_check_raises_is_a_finding(context):
    check = registry.Check("broken", "no_such_file:check")
    finding = running.run(check, context)
    assert finding.verdict == "fail"
    assert "it raised ModuleNotFoundError" in finding.found
    assert "--debug 'broken'" in finding.advice

"""The settings of torch for float32 on GPUs: set for a block, restored after it, and set nowhere else."""

import re
from pathlib import Path

import pytest
import torch

import cld_core
import cldctl
from cld_core import numerics


def current() -> tuple[bool, bool, bool]:
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("fixed_shapes", [True, False])
def test_settings_hold_inside_the_block_and_are_restored(tf32, fixed_shapes):
    before = current()
    with numerics.using(tf32=tf32, fixed_shapes=fixed_shapes):
        assert current() == (tf32, tf32, fixed_shapes)
        with numerics.using(tf32=not tf32):
            assert current() == (not tf32, not tf32, False)
        assert current() == (tf32, tf32, fixed_shapes)
    assert current() == before


def test_nothing_else_sets_them():
    setting = re.compile(r"allow_tf32\s*=|cudnn\.benchmark\s*=|set_float32_matmul_precision|fp32_precision")
    folders = [Path(package.__file__).parent for package in (cld_core, cldctl)]
    files = [file for folder in folders for file in folder.rglob("*.py") if file.name != "numerics.py"]
    assert len(files) > 100
    assert [str(file) for file in files if setting.search(file.read_text())] == []

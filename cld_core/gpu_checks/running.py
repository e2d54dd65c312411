"""Runs a check."""

import gc
import traceback
from dataclasses import replace

import torch

from .findings import Context, Finding
from .registry import Check


def card() -> str | None:
    """Name and memory of the card that checks run on; None if torch sees none."""
    if not torch.cuda.is_available():
        return None
    about = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f"{about.name}, {about.total_memory / 2**30:.0f} GiB"


def run(check: Check, context: Context, *, catch: bool = True) -> Finding:
    """The finding of a check; what it raises is a failure if ``catch``."""
    try:
        finding = check.function(context, *check.arguments)
    except Exception as error:
        if not catch:
            raise
        lines = traceback.format_exception_only(error)[-1].strip().splitlines()
        advice = f"`python -m cld_core.gpu_checks --debug '{check.name}'` shows where."
        finding = Finding("fail", f"it raised {lines[0]}", advice)
    gc.collect()
    if context.on_gpu:
        torch.cuda.empty_cache()
    return replace(finding, name=check.name)

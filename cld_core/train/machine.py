"""What trains: the GPU of this process and its driver, as the ledger records them."""

import re
from pathlib import Path

import torch

# Its first line: NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build ...
_DRIVER = Path("/proc/driver/nvidia/version")
_VERSION = re.compile(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", re.MULTILINE)


def gpu(device: torch.device) -> str | None:
    """The name of a GPU; None for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def driver(device: torch.device, file: Path = _DRIVER) -> str | None:
    """The version of the driver of a GPU; None for a CPU, and where nobody tells."""
    if device.type != "cuda":
        return None
    try:
        found = _VERSION.search(file.read_text(errors="replace"))
    except OSError:
        return None
    return found[1] if found else None

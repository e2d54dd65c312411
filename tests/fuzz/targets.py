"""The readers under fuzz, by name: "module:attribute" of a `campaign.Target`."""

from __future__ import annotations

from cld_core.imports import resolve

from .campaign import Target

TARGETS: dict[str, str] = {
    "weights": "tests.fuzz.weights:TARGET",
    "recipes": "tests.fuzz.recipes:TARGET",
    "command_lines": "tests.fuzz.command_lines:TARGET",
    "slurm_output": "tests.fuzz.slurm_output:TARGET",
    "run_folders": "tests.fuzz.run_folders:TARGET",
    "archives": "tests.fuzz.archives:TARGET",
    "checkpoints": "tests.fuzz.checkpoints:TARGET",
    "images": "tests.fuzz.images:TARGET",
    "lmdb": "tests.fuzz.lmdb:TARGET",
    "manifests": "tests.fuzz.manifests:TARGET",
    "npz": "tests.fuzz.npz:TARGET",
    "safetensors": "tests.fuzz.safetensors:TARGET",
    "tfrecord": "tests.fuzz.tfrecord:TARGET",
}


def find(name: str) -> Target:
    """The target of this name."""
    target: Target = resolve(TARGETS[name])
    return target

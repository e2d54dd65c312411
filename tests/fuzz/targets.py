"""The readers under fuzz, by name: "module:attribute" of a `campaign.Target`."""

from __future__ import annotations

from cld_core.imports import resolve

from .campaign import Target

TARGETS: dict[str, str] = {
    "run_folders": "tests.fuzz.run_folders:TARGET",
}


def find(name: str) -> Target:
    """The target of this name."""
    target: Target = resolve(TARGETS[name])
    return target

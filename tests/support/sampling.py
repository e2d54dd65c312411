"""Sampling specs by the name of their method, for tests that run over several."""

from typing import Any

from cld_core.config.registry import SECTIONS
from cld_core.config.sampling import SamplingSpec


def spec_of(method: str, **keys: Any) -> SamplingSpec:
    made: SamplingSpec = SECTIONS["sampling"].find(method).spec(**keys)
    return made

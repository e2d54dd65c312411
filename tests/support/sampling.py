"""Sampling specs by the name of their method, for tests that run over several."""

from cld_core.config.registry import SECTIONS


def spec_of(method, **keys):
    made = SECTIONS["sampling"].find(method).spec(**keys)
    return made

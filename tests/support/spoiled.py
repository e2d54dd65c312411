"""Samplers that diverge for some samples."""

import dataclasses
import math
from collections.abc import Collection

import pytest

from cld_core.model import Model
from cld_core.samplers import Samples


def spoil(monkeypatch: pytest.MonkeyPatch, numbers: Collection[int], value: float = math.nan) -> None:
    """Let one number of the samples of these numbers be ``value``."""
    drawing = Model.draw

    def draw(self: Model, n: int, *, first: int = 0, **settings) -> Samples:
        drawn = drawing(self, n, first=first, **settings)
        x = drawn.x.clone()
        for number in set(numbers) & set(range(first, first + n)):
            x[number - first].view(-1)[-1] = value
        return dataclasses.replace(drawn, x=x)

    monkeypatch.setattr(Model, "draw", draw)

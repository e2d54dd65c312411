"""Samplers that diverge for some samples."""

import dataclasses
import math

from cld_core.model import Model


def spoil(monkeypatch, numbers):
    """Let one number of the samples of these numbers be NaN."""
    drawing = Model.draw

    def draw(self, n, *, first=0, **settings):
        drawn = drawing(self, n, first=first, **settings)
        x = drawn.x.clone()
        for number in set(numbers) & set(range(first, first + n)):
            x[number - first].view(-1)[-1] = math.nan
        return dataclasses.replace(drawn, x=x)

    monkeypatch.setattr(Model, "draw", draw)

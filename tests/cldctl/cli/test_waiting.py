"""What `sample` says while it works."""

import pytest

from cldctl.runs import sample
from tests.support.made_up import run_with


class Noted:
    """In place of `Working`: what it is told."""

    def __init__(self):
        self.counts, self.phases = [], []

    def phase(self, what):
        self.phases.append(what)

    def at(self, done, total, unit=""):
        self.counts.append((done, total, unit))


class Drawing:
    """In place of a model: it draws in batches, with so many network evaluations for each."""

    def __init__(self, recipe, evaluations):
        self.recipe, self.evaluations = recipe, evaluations

    def draw(self, n, *, seed, batch_size, progress):
        for first in range(0, n, batch_size):
            for evaluation in range(1, self.evaluations + 1):
                progress(first, evaluation)
        return "drawn"


@pytest.mark.parametrize(("method", "is_fixed"), [("em", True), ("ode", False)])
def test_samples_are_counted(tmp_path, method, is_fixed):
    settings = (f"sampling.method={method}", *(("sampling.nfe=4",) if is_fixed else ()), "eval.batch_size=8")
    recipe, noted = run_with(tmp_path / "a", overrides=settings).recipe(), Noted()
    assert sample._drawn(Drawing(recipe, 4), 20, 0, noted) == "drawn"
    assert noted.phases == [f"drawing 20 samples ({method})"]
    done = [count for count, _, _ in noted.counts]
    assert done == sorted(done)
    if is_fixed:
        assert noted.counts[0] == (2, 20, "")
        assert noted.counts[-1] == (20, 20, "")
    else:
        assert noted.counts[-1] == (16, 20, "done, 4 NFE")

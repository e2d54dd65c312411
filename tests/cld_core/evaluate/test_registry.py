"""The tables of metrics and of rows: their names lead somewhere, and a metric is a function and an entry."""

from typing import get_type_hints

import pytest

from cld_core.errors import UsageError
from cld_core.evaluate import registry
from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.registry import Metric, Quantity, RowKind
from cld_core.evaluate.reports import numbers
from cld_core.evaluate.request import EvalRequest
from cld_core.evaluate.rows import RowComputer
from cld_core.imports import resolve
from cld_core.ranks import Ranks
from cld_core.run.work import KINDS, Work

pytestmark = pytest.mark.usefixtures("no_pictures")


class DrawRows(RowComputer):
    """Samples themselves, of data that need not be images."""

    def compute(self, first, last):
        return {"x": self.model.draw(last - first, seed=self.request.seed, first=first).x.numpy()}


DRAWS = RowKind(over="samples", depends=("sampling",), implementation=f"{__name__}:DrawRows")
SPREAD = Metric(
    name="spread",
    help="Standard deviation of the samples.",
    rows="draws",
    quantities=(Quantity(key="spread", label="spread"),),
    section=lambda joined: {"value": float(joined.arrays["x"].std()), "n": len(joined.arrays["x"])},
    how=lambda request: request.sampling.method,
)


def test_every_name_leads_somewhere():
    for name in registry.METRICS:
        metric = registry.metric(name)
        assert (metric.name, metric.flag) == (name, f"--{name}")
        assert metric.rows in registry.ROWS
        assert callable(resolve(metric.section))
        fields = EvalRequest.__dataclass_fields__
        depends = {*metric.same, *registry.ROWS[metric.rows].depends}
        assert {place.partition(".")[0] for place in depends} <= fields.keys()
    for kind in registry.ROWS:
        assert issubclass(resolve(registry.ROWS[kind].implementation), RowComputer)
    for kind, name in KINDS.items():
        work = resolve(name)
        assert issubclass(work, Work)
        assert get_type_hints(work)["request"].kind == kind
    keys = [quantity.key for _, quantity in registry.quantities()]
    assert len(keys) == len(set(keys))


def test_metrics_are_listed_in_the_order_of_the_table():
    assert registry.parse_metrics(" elbo,fid ") == ("fid", "elbo")
    assert registry.parse_metrics(None) == ()
    with pytest.raises(UsageError, match=r"'elb' is not a metric.*'elbo'"):
        registry.parse_metrics("elb")
    with pytest.raises(UsageError, match="names no metric"):
        registry.parse_metrics(",")
    assert registry.draws_samples(["kid", "elbo"])
    assert not registry.draws_samples(["loss", "elbo"])


def test_a_metric_and_a_kind_of_rows_are_an_entry_each(toy, monkeypatch, chunks):
    chunks(35)
    monkeypatch.setitem(registry.ROWS, "draws", DRAWS)
    monkeypatch.setitem(registry.METRICS, "spread", f"{__name__}:SPREAD")
    work = Evaluation(EvalRequest.of(toy.recipe(), ("spread",), 20, shards=2).save(toy))
    assert work.compute(Ranks())
    assert work.report["spread"]["n"] == 70
    assert numbers(work.report)["spread"].value > 0
    with pytest.raises(UsageError, match=r"--fid compares images.*Ask for --w2 .* or --loss or --spread"):
        EvalRequest.of(toy.recipe(), ("fid", "spread"), 20)

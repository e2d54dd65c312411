"""The id of an evaluation is made of everything that its numbers depend on, and of nothing else."""

from dataclasses import replace
from typing import get_type_hints

import pytest

from cld_core import metrics as registry
from cld_core.config.eval import FlowSpec
from cld_core.config.sampling import EmSpec, OdeSpec
from cld_core.config.train import EmaSpec, ObjectiveSpec
from cld_core.digests import digest
from cld_core.errors import UsageError
from cld_core.evaluate.request import request_of
from cld_core.evaluate.rows import RowComputer
from cld_core.imports import resolve
from cld_core.metrics import Metric, Quantity, RowKind
from cld_core.ranks import Ranks
from cld_core.run.evaluations import EvalRequest, Evaluation, numbers
from cld_core.run.work import KINDS, Work


def asked(sampling):
    return EvalRequest(
        files={},
        batch_size=64,
        metrics=("fid", "elbo"),
        checkpoint_step=120,
        model_digest="3210ba733eb3d63c",
        seed=0,
        samples=2000,
        points=4,
        sampling=sampling,
        objective=ObjectiveSpec(),
    )


def test_another_division_is_the_same_evaluation():
    request = asked(OdeSpec())
    assert replace(request, shards=3, batch_size=7, retries=0, files={"fid": "/elsewhere"}).id == request.id
    for changes in ({"seed": 1}, {"samples": 1999}, {"ema": EmaSpec(length=0.1)}, {"sampling": EmSpec(nfe=50)}):
        assert replace(request, **changes).id != request.id


def test_the_flow_is_reused_for_another_number_of_samples():
    def flow(**keys):
        spec = replace(FlowSpec(), **keys)
        return replace(asked(OdeSpec()), metrics=("flow-distance",), flow=spec)

    few, many, finer = flow(samples=100), flow(samples=200), flow(samples=100, rtol=1e-7)
    assert few.row_settings("flow") == many.row_settings("flow") != finer.row_settings("flow")
    assert len({few.id, many.id, finer.id}) == 3
    assert (few.sizes, many.sizes) == ({"flow": 100}, {"flow": 200})


def test_another_precision_is_another_evaluation():
    requests = [asked(replace(OdeSpec(), precision=name)) for name in ("fp32", "tf32", "bf16", "fp16")]
    assert len({request.id for request in requests}) == 4
    settings = [{kind: digest(request.row_settings(kind)) for kind in ("vectors", "elbo")} for request in requests]
    assert len({its["vectors"] for its in settings}) == 4
    assert len({its["elbo"] for its in settings}) == 1, "bounds are always computed in float32"


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
    assert registry.parse_metrics((" elbo,fid ",)) == ("fid", "elbo")
    assert registry.parse_metrics(()) == ()
    with pytest.raises(UsageError, match=r"'elb' is not a metric.*'elbo'"):
        registry.parse_metrics(("elb",))
    with pytest.raises(UsageError, match="names no metric"):
        registry.parse_metrics((",",))
    assert registry.draws_samples(["kid", "elbo"])
    assert not registry.draws_samples(["loss", "elbo"])


def test_a_metric_and_a_kind_of_rows_are_an_entry_each(toy, monkeypatch, chunks):
    chunks(35)
    monkeypatch.setitem(registry.ROWS, "draws", DRAWS)
    monkeypatch.setitem(registry.METRICS, "spread", f"{__name__}:SPREAD")
    work = Evaluation(request_of(toy.recipe(), ("spread",), 20, shards=2).save(toy))
    assert work.compute(Ranks())
    assert work.report["spread"]["n"] == 70
    assert numbers(work.report)["spread"].value > 0
    with pytest.raises(UsageError, match=r"--fid compares images.*Ask for --w2 .* or --loss or --spread"):
        request_of(toy.recipe(), ("fid", "spread"), 20)

"""The id of an evaluation is made of everything that its numbers depend on, and of nothing else."""

from dataclasses import replace

from cld_core.config.eval import FlowSpec
from cld_core.config.sampling import EmSpec, OdeSpec, SamplingSpec
from cld_core.config.train import EmaSpec, ObjectiveSpec
from cld_core.digests import digest
from cld_core.evaluate.request import EvalRequest


def asked(sampling: SamplingSpec) -> EvalRequest:
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

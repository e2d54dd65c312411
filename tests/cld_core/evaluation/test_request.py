"""Ids of evaluations stay what older versions made them: a key that was added later is in none at its default."""

from dataclasses import replace

import pytest

from cld_core.evaluation.request import EvalRequest
from cld_core.recipe.eval import FlowSpec
from cld_core.recipe.objective import ObjectiveSpec
from cld_core.recipe.sampling import EmSpec, ExponentialSpec, OdeSpec, SamplingSpec


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


@pytest.mark.parametrize(
    ("sampling", "digests"),
    [
        (OdeSpec(), ("11c0c0ee", "bc326f66", "eff04653")),
        (ExponentialSpec(nfe=20).canonical(), ("d84bdd11", "3d97ae1a", "6c1d0a7c")),
        (EmSpec(nfe=50, grid="quadratic"), ("059987c2", "0a050147", "713d314c")),
    ],
    ids=lambda value: getattr(value, "method", ""),
)
def test_ids_are_those_of_the_first_format_2(sampling, digests):
    """Computed by version 0.1.0 before `sampling.precision` was added."""
    request = asked(sampling)
    assert (request.id, request.settings, request.rows_id("features")) == (
        f"fid-elbo-00000120-{digests[0]}",
        *digests[1:],
    )


def test_the_flow_is_reused_for_another_number_of_samples():
    def flow(**keys):
        spec = replace(FlowSpec(), **keys)
        return replace(asked(OdeSpec()), metrics=("flow-distance",), flow=spec)

    few, many, finer = flow(samples=100), flow(samples=200), flow(samples=100, rtol=1e-7)
    assert few.rows_id("flow") == many.rows_id("flow") != finer.rows_id("flow")
    assert len({few.id, many.id, finer.id}) == 3
    assert (few.sizes, many.sizes) == ({"flow": 100}, {"flow": 200})


def test_another_precision_is_another_evaluation():
    requests = [asked(replace(OdeSpec(), precision=name)) for name in ("fp32", "tf32", "bf16", "fp16")]
    assert len({request.id for request in requests}) == 4
    assert len({request.rows_id("features") for request in requests}) == 4
    assert len({request.rows_id("elbo") for request in requests}) == 1, "bounds are always computed in float32"

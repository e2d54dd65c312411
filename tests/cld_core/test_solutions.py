"""Which of several solutions a sampler follows, and which stored ones are not those of a
sampler."""

import math
from dataclasses import replace

import pytest

from cld_core.config.sampling import TunedSpec
from cld_core.errors import UsageError
from cld_core.run.tunings import (
    Flow,
    Network,
    SamplerCoefficients,
    Solutions,
    TunedSampler,
    moved_on,
)

FLOW = Flow(eps=1e-3, denoise=True)
SOLUTION = TunedSampler(
    coefficients=SamplerCoefficients((1.0, 0.1), (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)),) * 2),
    flow=FLOW,
    step=20,
    checkpoint="abc",
    rms={"untuned": 0.5},
    about={"created": 1.0},
)
NETWORK, SPEC = Network(step=20, checkpoint="abc"), TunedSpec(nfe=2)


def of(*solutions):
    return Solutions(lambda: solutions, "mine")


def test_what_is_stored_is_read_again():
    one = replace(SOLUTION, flow=replace(FLOW, labels=True, guidance=1.5), ema_length=0.1)
    assert TunedSampler.of_content(one.content()) == one


@pytest.mark.parametrize(
    "changes",
    [
        {"coefficients": SamplerCoefficients((1.0, math.nan), SOLUTION.coefficients.matrices)},
        {"ema_length": "long"},
        {"rms": {"untuned": math.nan}},
    ],
)
def test_what_is_not_a_solution_is_refused(changes):
    with pytest.raises(ValueError):
        TunedSampler.of_content(replace(SOLUTION, **changes).content())


def test_numbers_that_were_not_written_are_refused():
    content = SOLUTION.content()
    with pytest.raises(ValueError, match="written"):
        TunedSampler.of_content(
            {**content, "coefficients": {**content["coefficients"], "times": [1.0, 0.2]}}
        )


def test_equal_weights_come_before_the_nearest_step_and_the_newest():
    other = replace(SOLUTION, checkpoint="replaced", about={"created": 9.0})
    average = replace(SOLUTION, ema_length=0.1, about={"created": 8.0})
    early = replace(SOLUTION, step=10, checkpoint="early", about={"created": 7.0})
    newer = replace(SOLUTION, about={"created": 2.0})
    solutions = of(SOLUTION, other, average, early, newer)
    assert solutions.chosen(SPEC, NETWORK) is newer
    assert solutions.chosen(SPEC, replace(NETWORK, checkpoint="replaced")) is other
    assert solutions.chosen(SPEC, replace(NETWORK, ema_length=0.1)) is average
    assert solutions.chosen(SPEC, Network(step=12, checkpoint="x")) is early
    assert solutions.chosen(SPEC, Network(step=20)) is other, (
        "the newest, if nothing is known of the checkpoint"
    )


def test_what_a_network_that_has_moved_on_is_told():
    assert moved_on(SOLUTION, NETWORK) is None
    assert moved_on(SOLUTION, Network(step=20)) is None
    assert "to step 20, not 30" in moved_on(SOLUTION, replace(NETWORK, step=30))
    assert "a checkpoint of step 20 that has been replaced" in moved_on(
        SOLUTION, replace(NETWORK, checkpoint="x")
    )
    assert "ema.length=null, not 0.1" in moved_on(SOLUTION, replace(NETWORK, ema_length=0.1))


def test_a_file_carries_the_solutions_of_its_weights_only():
    average = replace(SOLUTION, ema_length=0.1)
    solutions = of(
        SOLUTION, average, replace(SOLUTION, checkpoint="replaced"), replace(SOLUTION, step=10)
    )

    def carried(network):
        return list(Solutions.of_file(solutions.carried(network)).read())

    assert carried(NETWORK) == [SOLUTION]
    assert carried(replace(NETWORK, ema_length=0.1)) == [average]
    assert carried(replace(NETWORK, checkpoint="other")) == []


@pytest.mark.parametrize(
    ("spec", "network", "said"),
    [
        (
            TunedSpec(nfe=2, eps=0.01),
            NETWORK,
            r"sampling.eps=0.001, not 0.01. .* --nfe 2 sampling.eps=0.01`",
        ),
        (
            SPEC,
            replace(NETWORK, labels=True),
            r"was fitted without labels. Tune again: `cldctl tune mine --nfe 2`",
        ),
    ],
)
def test_another_flow_is_refused(spec, network, said):
    with pytest.raises(UsageError, match=said):
        of(SOLUTION).chosen(spec, network)


def test_guidance_is_that_of_the_flow():
    labelled = replace(FLOW, labels=True)
    usual = replace(SOLUTION, flow=labelled)
    guided = replace(SOLUTION, flow=replace(labelled, guidance=1.5, guidance_to=0.5))
    network, solutions = replace(NETWORK, labels=True), of(guided, usual, SOLUTION)
    assert solutions.chosen(SPEC, network) is usual
    assert solutions.chosen(replace(SPEC, guidance_to=0.3), network) is usual, "it has no effect"
    assert solutions.chosen(replace(SPEC, guidance=1.5, guidance_to=0.5), network) is guided
    with pytest.raises(UsageError, match=r"fitted with sampling.guidance=1.5, not 2.0"):
        of(guided).chosen(replace(SPEC, guidance=2.0, guidance_to=0.5), network)
    with pytest.raises(UsageError, match=r"fitted with sampling.guidance_to=0.5, not 1.0"):
        of(guided).chosen(replace(SPEC, guidance=1.5), network)

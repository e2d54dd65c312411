"""2,048 toy samples from each sampler, at equal numbers of evaluations.

python -m benchmarks sampling
"""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks import baseline, models
from benchmarks.harness import BASELINE, Report, Settings, against_published, interleaved, rows_of
from benchmarks.limits import product_rate
from cld_core.model import Model
from cld_core.samplers import ended
from cld_core.score import at_each
from cld_core.solver import Solution, solve

# harness.PUBLISHED_ON, for 2,048 samples; the adaptive flow takes the evaluations that it needs.
PUBLISHED_S = {"ode": 0.273, "em": 0.743, "sscs": 0.891}
LEAST = {"ode": 1.75, "em": 2.04, "sscs": 2.20}
EPS = 1e-3
ONE_STEP_SIZE = "ode, one step size for all"


def topic(settings: Settings) -> Report:
    n, steps = (64, 10) if settings.quick else (2048, 500)
    model = models.toy_model(settings.device, steps=20 if settings.quick else 1500)
    plain = models.plain_toy(model)
    times = model.sde.schedule.grid("linear", steps - 1, EPS)
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(n, 4, generator=generator)

    theirs = {
        "ode": lambda: baseline.sample_ode(plain, noise()),
        "em": lambda: baseline.sample_em(plain, noise(), times),
        "sscs": lambda: baseline.sample_sscs(plain, noise(), times),
    }
    report = Report(
        topic="sampling", title=f"{n} toy samples; {steps} evaluations for fixed-step methods"
    )
    for method, plainly in theirs.items():
        more = {} if method == "ode" else {"nfe": steps}
        calls: dict[str, Callable[[], object]] = {
            BASELINE: plainly,
            method: partial(model.draw, n, method=method, **more),
        }
        notes: dict[str, str] = {}
        scale: dict[str, float] = {}
        if method == "ode":
            calls[ONE_STEP_SIZE] = lambda: with_one_step_size(model, noise())
            evaluations = {
                BASELINE: plainly()[1],
                method: model.draw(n, method=method).nfe,
                ONE_STEP_SIZE: int(with_one_step_size(model, noise()).nfe) + 1,
            }
            notes = {
                name: f"{count:.0f} evaluations per sample" for name, count in evaluations.items()
            }
            scale = {name: count / evaluations[BASELINE] for name, count in evaluations.items()}
        if method == "sscs":
            calls["sscs, order 2"] = partial(model.draw, n, method="sscs", nfe=steps, sscs_order=2)
        measured = interleaved(calls, settings.rounds, settings, burst_s=0.0)
        theirs_row, ours, *others = rows_of(measured, notes=notes, scale=scale)
        report.rows.append(replace(theirs_row, name=f"{method}, baseline"))
        report.rows += [
            against_published(ours, PUBLISHED_S[method], LEAST[method], settings),
            *others,
        ]
        if method == "ode":
            pairs = zip(measured[method], measured[ONE_STEP_SIZE], strict=True)
            price = statistics.median(ours / others for ours, others in pairs)
            report.notes.append(
                f"ratios of ode are at equal evaluations; its time is {price:.2f} of "
                f"{ONE_STEP_SIZE!r}"
            )
    limit = models.toy_flops(n) / product_rate(settings)
    report.notes.append(
        f"limit: the products of one evaluation take {1e3 * limit:.2f} ms, of {steps}: "
        f"{1e3 * steps * limit:.0f} ms"
    )
    others = {
        f"exponential, {nfe} evaluations": partial(model.draw, n, method="exponential", nfe=nfe)
        for nfe in (10, 20, 50)
    }
    report.rows += rows_of(interleaved(others, settings.rounds, settings, burst_s=0.05))
    return report


@torch.no_grad()
def with_one_step_size(model: Model, noise: Tensor) -> Solution:
    """The flow of `cld_core.samplers.ode` for the batch as one row of the solver, which has one
    step size.

    Args:
        noise: (B, 4), standard normal.
    """
    sde, score, spec = model.sde, model.score, model.recipe.sampling
    u = sde.prior(noise.to(model.device))

    def field(stage, y: Tensor, rows: Tensor) -> Tensor:
        t, score_then = stage
        now = y.to(u.dtype).view_as(u)
        return sde.flow(now, score_then(now), t).view(1, -1)

    def prepare(times: Tensor) -> list:
        return list(zip(times, at_each(score, times, u.dtype), strict=True))

    solution = solve(
        field, u.view(1, -1), 1.0, EPS, rtol=spec.rtol, atol=spec.atol, prepare=prepare
    )
    y = solution.y.to(u.dtype).view_as(u)
    y, _ = ended(score, sde, replace(spec, eps=EPS, denoise=True), y, 0)
    return replace(solution, y=y)

"""2,048 toy samples from each sampler, at equal numbers of evaluations. `python -m benchmarks sampling`."""

from dataclasses import replace
from functools import partial

import torch

from benchmarks import baseline, models
from benchmarks.harness import BASELINE, Report, Settings, against_published, interleaved, rows_of
from benchmarks.limits import product_rate
from cld_core.sampling import grids

# Seconds that the published code takes for 2,048 samples on 2 idle cores, and evaluations of its adaptive flow.
PUBLISHED, PUBLISHED_NFE = {"ode": 0.47, "em": 1.35, "sscs": 1.47}, 165
EPS = 1e-3
TARGET = 3.0


def topic(settings: Settings) -> Report:
    n, steps = (64, 10) if settings.quick else (2048, 500)
    model = models.toy_model(settings.device, steps=20 if settings.quick else 1500)
    plain = models.plain_toy(model)
    times = grids.linear(steps - 1, EPS)
    generator = torch.Generator().manual_seed(0)

    def noise() -> torch.Tensor:
        return torch.randn(n, 4, generator=generator)

    theirs = {
        "ode": lambda: baseline.sample_ode(plain, noise()),
        "em": lambda: baseline.sample_em(plain, noise(), times),
        "sscs": lambda: baseline.sample_sscs(plain, noise(), times),
    }
    report = Report(topic="sampling", title=f"{n} toy samples; {steps} evaluations for fixed-step methods")
    for method, plainly in theirs.items():
        more = {} if method == "ode" else {"nfe": steps}
        calls = {BASELINE: plainly, method: partial(model.draw, n, method=method, **more)}
        if method == "sscs":
            calls["sscs, order 2"] = partial(model.draw, n, method="sscs", nfe=steps, sscs_order=2)
        measured = interleaved(calls, settings.rounds, settings, burst_s=0.0)
        notes: dict[str, str] = {}
        scale: dict[str, float] = {}
        to_published = 1.0
        if method == "ode":
            own, evaluations = model.draw(n, method="ode").nfe, plainly()[1]
            notes = {
                BASELINE: f"{evaluations} evaluations",
                "ode": f"{own:.0f} evaluations per sample; ratios at equal numbers",
            }
            scale, to_published = {"ode": own / evaluations}, own / PUBLISHED_NFE
        theirs_row, *ours = rows_of(measured, notes=notes, scale=scale)
        report.rows.append(replace(theirs_row, name=f"{method}, baseline"))
        report.rows += [against_published(row, PUBLISHED[method], TARGET, settings, to_published) for row in ours]
    limit = models.toy_flops(n) / product_rate(settings)
    report.notes.append(
        f"limit: the products of one evaluation take {1e3 * limit:.2f} ms, of {steps}: {1e3 * steps * limit:.0f} ms"
    )
    others = {
        f"exponential, {nfe} evaluations": partial(model.draw, n, method="exponential", nfe=nfe) for nfe in (10, 20, 50)
    }
    report.rows += rows_of(interleaved(others, settings.rounds, settings, burst_s=0.05))
    return report

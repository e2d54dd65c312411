"""The likelihood bound of 512 toy points at equal tolerance. `python -m benchmarks likelihood`."""

import torch

from benchmarks import baseline, models
from benchmarks.harness import BASELINE, Report, Settings, against_published, interleaved, rows_of
from benchmarks.limits import product_rate
from cld_core.likelihood import likelihood
from cld_core.seeds import SampleNoise

PUBLISHED_S, LEAST = 0.480, 2.65  # harness.PUBLISHED_ON


def topic(settings: Settings) -> Report:
    n = 16 if settings.quick else 512
    model = models.toy_model(settings.device, steps=20 if settings.quick else 1500)
    plain, x = models.plain_toy(model), model.source.dequantised_test_data(0, 0, n)
    on_device = x.to(settings.device)

    def bound():
        noise = SampleNoise(0, "elbo", first=0, last=n, device=settings.device)
        return likelihood(model.score, model.sde, model.recipe.eval.elbo, noise, on_device)

    torch.manual_seed(0)
    times = interleaved(
        {BASELINE: lambda: baseline.elbo(plain, x), "cldctl": bound},
        settings.rounds,
        settings,
        burst_s=0.0,
    )
    (theirs, evaluations), ours = baseline.elbo(plain, x), bound()
    notes = {
        BASELINE: f"{evaluations} evaluations; {float(theirs.mean()):.2f} nats",
        "cldctl": (
            f"{ours.nfe:.0f} evaluations per example; {ours.mean:.2f} +- "
            f"{ours.standard_error:.2f} nats"
        ),
    }
    rows = rows_of(times, notes=notes)
    rows[1] = against_published(rows[1], PUBLISHED_S, LEAST, settings)
    report = Report(
        topic="likelihood", title=f"bound of {n} toy points, rtol = atol = 1e-5", rows=rows
    )
    limit = ours.nfe * models.toy_flops(n, passes=2) / product_rate(settings)
    report.notes.append(
        f"limit: the products of {ours.nfe:.0f} evaluations, both passes, take {1e3 * limit:.0f} ms"
    )
    report.notes.append(
        "each example has its own step sizes, so its bound does not depend on its neighbours"
    )
    return report

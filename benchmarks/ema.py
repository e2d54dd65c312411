"""Averaging the weights of NCSN++ at once, compared with one parameter at a time.

python -m benchmarks ema
"""

from benchmarks import baseline, models
from benchmarks.harness import BASELINE, Report, Settings, interleaved, rows_of
from benchmarks.limits import memory_bandwidth
from cld_core.averages import Ema


def topic(settings: Settings) -> Report:
    net = models.image_net(models.ncsnpp_recipe(settings.quick)).to(settings.device)
    parameters = [p for p in net.parameters() if p.requires_grad]
    ema = Ema(net, 0.9999)
    average = [p.detach().clone() for p in net.parameters()]
    calls = {
        BASELINE: lambda: baseline.update_average(average, net, 0.9999),
        "cldctl": ema.update,
    }
    times = interleaved(calls, settings.rounds, settings)
    moved = 3 * sum(p.nbytes for p in parameters)  # reads both, writes one
    limit = moved / memory_bandwidth(settings)
    report = Report(
        topic="ema",
        title=f"{len(parameters)} tensors, {moved / 3 / 2**20:.0f} MiB",
        rows=rows_of(times),
    )
    report.notes.append(
        f"memory: {moved / 1e6:.0f} MB are moved: {1e3 * limit:.2f} ms at the bandwidth of a copy; "
        f"cldctl takes {min(times['cldctl']) / limit:.2f} times that"
    )
    return report

"""Moments of 2048 features, at once and in many parts. `python -m benchmarks fid`."""

import importlib
import time

import numpy as np

from benchmarks.harness import BASELINE, Report, Settings, at_most, interleaved, rows_of

SHARDS, DIMENSIONS, LIMIT_S = 64, 2048, 30.0


def topic(settings: Settings) -> Report:
    shards, d, n = (4, 16, 64) if settings.quick else (SHARDS, DIMENSIONS, 512)
    report = Report(topic="fid", title=f"{shards} shards of {d} features")
    if importlib.util.find_spec("cld_core.evaluate.stats_file") is None:
        report.notes.append("cld_core.evaluate.stats_file does not exist")
        return report
    from cld_core.evaluate.stats_file import Moments

    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, d), dtype=np.float32)
    times = interleaved(
        {BASELINE: lambda: _plain(features), "cldctl": lambda: Moments.of([features])},
        settings.rounds,
        settings,
        burst_s=0.0,
    )
    flops = 2.0 * n * d * d
    notes = {name: f"{flops / min(seconds) / 1e9:.0f} GFLOP/s" for name, seconds in times.items()}
    report.rows += rows_of(times, notes=notes)
    report.notes.append(f"baseline: numpy's mean and cov; both compute the moments of {n} features in float64")
    taken = []
    for _ in range(min(settings.rounds, 5)):
        begin = time.perf_counter()
        total = Moments.of(features for _ in range(shards))
        taken.append(time.perf_counter() - begin)
    assert total.n == shards * n, "rows were lost"
    note = f"{2e-9 * total.n * d * d / min(taken):.0f} GFLOP/s"
    report.rows.append(at_most(f"moments of {shards} parts", sorted(taken)[len(taken) // 2], LIMIT_S, note, min(taken)))
    return report


def _plain(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return features.mean(0, dtype=np.float64), np.cov(features, rowvar=False)

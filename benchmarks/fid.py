"""Moments of 2048 features for each shard, and merging them. `python -m benchmarks fid`."""

import time

import numpy as np

from benchmarks.harness import BASELINE, Report, Settings, at_most, interleaved, rows_of
from benchmarks.limits import memory_bandwidth
from cld_core.evaluate.moments import Moments

SHARDS, DIMENSIONS, LIMIT_S = 64, 2048, 3.0


def topic(settings: Settings) -> Report:
    shards, d, n = (4, 16, 64) if settings.quick else (SHARDS, DIMENSIONS, 512)
    report = Report(topic="fid", title=f"{shards} shards of {d} features")
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, d), dtype=np.float32)
    times = interleaved(
        {BASELINE: lambda: _plain(features), "cldctl": lambda: Moments.of(features)},
        settings.rounds,
        settings,
        burst_s=0.0,
    )
    flops = 2.0 * n * d * d
    notes = {name: f"{flops / min(seconds) / 1e9:.0f} GFLOP/s" for name, seconds in times.items()}
    report.rows += rows_of(times, notes=notes)
    report.notes.append(f"baseline: numpy's mean and cov; both compute the moments of {n} features in float64")
    parts = [Moments.of(features + 0.01 * i) for i in range(4)]
    merged = []
    for _ in range(min(settings.rounds, 5)):
        begin = time.perf_counter()
        total = Moments.merged(parts[i % len(parts)] for i in range(shards))
        merged.append(time.perf_counter() - begin)
    assert total.n == shards * n, "the merge lost rows"
    moved = shards * d * d * 8
    limit = moved / memory_bandwidth(settings)
    note = f"{moved / 1e9:.1f} GB of scatter matrices are read: {1e3 * limit:.0f} ms at the bandwidth of a copy"
    report.rows.append(
        at_most(f"merging {shards} shards", sorted(merged)[len(merged) // 2], LIMIT_S, note, min(merged))
    )
    return report


def _plain(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return features.mean(0, dtype=np.float64), np.cov(features, rowvar=False)

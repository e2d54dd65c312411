"""Moments of 2048 features. `python -m benchmarks fid`."""

import numpy as np

from benchmarks.harness import BASELINE, Report, Settings, interleaved, rows_of

DIMENSIONS = 2048


def topic(settings: Settings) -> Report:
    from cld_core.evaluate.stats_file import moments

    d, n = (16, 64) if settings.quick else (DIMENSIONS, 512)
    report = Report(topic="fid", title=f"moments of {d} features")
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, d), dtype=np.float32)
    times = interleaved(
        {BASELINE: lambda: _plain(features), "cldctl": lambda: moments([features])},
        settings.rounds,
        settings,
        burst_s=0.0,
    )
    flops = 2.0 * n * d * d
    notes = {name: f"{flops / min(seconds) / 1e9:.0f} GFLOP/s" for name, seconds in times.items()}
    report.rows += rows_of(times, notes=notes)
    report.notes.append(f"baseline: numpy's mean and cov; both compute the moments of {n} features in float64")
    return report


def _plain(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return features.mean(0, dtype=np.float64), np.cov(features, rowvar=False)

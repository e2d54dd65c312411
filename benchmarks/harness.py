"""Measuring side by side, and reporting as tables and JSON. Shared by all topics."""

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

ROUNDS, QUICK_ROUNDS = 7, 1
BASELINE = "baseline"
# Where the published code took the times of the topics' PUBLISHED_S, beside cldctl in one run.
PUBLISHED_ON = "on 2 idle Zen 5 cores with torch 2.13, 2026-11-25"
Clock = Callable[[], float]
# "cpu" counts CPU seconds of this process, which can be compared even if others use the machine.
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How thoroughly to measure, and on which device."""

    quick: bool = False
    rounds: int = ROUNDS
    device: str = "cpu"
    work: Path = Path("/tmp")  # for temporary files
    clock: Clock = time.perf_counter

    @property
    def is_gpu(self) -> bool:
        return self.device.startswith("cuda")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. ``ratio``: how many times faster than the baseline, the median over the
    rounds."""

    name: str
    seconds: float | None  # median
    best: float | None = None  # minimum: what the machine does when nothing disturbs it
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""


@dataclass(kw_only=True)
class Report:
    topic: str
    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def missed(self) -> list[str]:
        return [f"{self.topic}: {row.name} ({row.target})" for row in self.rows if row.met is False]


Times = dict[str, list[float]]


def interleaved(
    calls: dict[str, Callable[[], Any]],
    rounds: int,
    settings: Settings,
    *,
    burst_s: float = 0.2,
    before: Callable[[], Any] = lambda: None,
) -> Times:
    """Seconds per call for each of ``calls``, taking turns A B A B ..., so that disturbances affect
    all of them.

    Args:
        rounds: number of turns each call gets.
        burst_s: seconds that the calls of one turn should fill, measured by a first call; 0 makes
            one call per turn.
        before: called before each turn; its time does not count.
    """
    counts = {}
    for name, call in calls.items():
        call()
        counts[name] = (
            max(1, min(1000, int(burst_s / max(seconds(call, settings), 1e-7)))) if burst_s else 1
        )
    times: Times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            before()
            times[name].append(seconds(call, settings, counts[name]))
    return times


def seconds(call: Callable[[], Any], settings: Settings, count: int = 1) -> float:
    """Seconds per call, averaged over ``count`` calls in a row."""
    synchronise(settings.device)
    begin = settings.clock()
    for _ in range(count):
        call()
    synchronise(settings.device)
    return (settings.clock() - begin) / count


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def rows_of(
    times: Times,
    *,
    targets: dict[str, float] | None = None,
    notes: dict[str, str] | None = None,
    baseline: str = BASELINE,
    scale: dict[str, float] | None = None,
) -> list[Row]:
    """Rows with their ratios to ``baseline`` and whether they meet their ``targets`` (minimum
    ratios).

    ``scale`` multiplies the ratio of a name if it did not do the same amount of work as the
    baseline.
    """
    rows = []
    for name, values in times.items():
        factor = (scale or {}).get(name, 1.0)
        ratio = None
        if baseline in times and name != baseline:
            pairs = zip(times[baseline], values, strict=True)
            ratio = factor * statistics.median(a / b for a, b in pairs)
        target = (targets or {}).get(name)
        met = None if target is None or ratio is None else ratio >= target
        rows.append(
            Row(
                name=name,
                seconds=statistics.median(values),
                best=min(values),
                ratio=ratio,
                target="" if target is None else f">= {target:g}x",
                met=met,
                note=(notes or {}).get(name, ""),
            )
        )
    return rows


def against_published(row: Row, published_s: float, least: float, settings: Settings) -> Row:
    """The row with the target of being ``least`` times as fast as the published code was
    `PUBLISHED_ON`, in the median.

    The published figures are for full sizes and wall-clock time; otherwise, the row is returned
    unchanged.
    """
    assert row.seconds is not None, "a row without a measurement cannot be compared"
    if settings.quick or settings.clock is not time.perf_counter:
        return row
    ratio = published_s / row.seconds
    note = f"{ratio:.2f}x published" + (f"; {row.note}" if row.note else "")
    return replace(row, target=f">= {least:g}x published", met=ratio >= least, note=note)


def table(title: str, headings: Iterable[str]) -> Table:
    """An empty table without lines, whose cells are not wrapped."""
    made = Table(title=title, title_justify="left", box=SIMPLE)
    for heading in headings:
        made.add_column(heading, no_wrap=True)
    return made


def console(width: int = 160) -> Console:
    """As wide as the terminal, or else ``width``."""
    return Console(width=None if sys.stdout.isatty() else width, highlight=False)


def machine() -> dict[str, Any]:
    """The machine on which the numbers were measured."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def print_report(report: Report, out: Console) -> None:
    """Print a report."""
    shown = table(f"{report.topic}: {report.title}", ("", "median", "best", "ratio", "target"))
    shown.add_column("")
    for row in report.rows:
        colour = {True: "[green]", False: "[red]", None: ""}[row.met]
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        shown.add_row(
            row.name, _time(row.seconds), _time(row.best), ratio, colour + row.target, row.note
        )
    out.print(shown)
    for note in report.notes:
        out.print(f"  {note}")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


Topic = Callable[[Settings], Report]


def run(topics: Iterable[tuple[str, Topic]], settings: Settings, file: Path | None) -> list[Report]:
    """Measure and print one topic after another; ``file`` is rewritten after each."""
    out = console(150)
    document: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "machine": machine(),
        "quick": settings.quick,
        "clock": next(name for name, clock in CLOCKS.items() if clock is settings.clock),
        "topics": {},
    }
    out.print(f"{document['date']}  {document['machine']}")
    reports = []
    for name, topic in topics:
        begin = time.monotonic()
        report = topic(settings)
        if settings.quick:
            report.rows = [replace(row, target="", met=None) for row in report.rows]
        reports.append(report)
        print_report(report, out)
        took = round(time.monotonic() - begin, 1)
        document["topics"][name] = {**asdict(report), "took_s": took, "load": os.getloadavg()}
        if file is not None:
            file.write_text(json.dumps(document, indent=1))
    return reports


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that all topics share."""
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round of small sizes, to check that everything runs",
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"rounds per comparison (default: {ROUNDS})"
    )
    parser.add_argument(
        "--threads", type=int, help="number of torch threads (default: torch's own)"
    )
    text = (
        "wall, or cpu: CPU seconds of this process, for busy machines, with --threads 1 "
        "(default: wall)"
    )
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help=text)
    parser.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")


def settings_of(parsed: argparse.Namespace, work: Path) -> Settings:
    if parsed.threads is not None:
        torch.set_num_threads(parsed.threads)
    device = parsed.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if parsed.json is not None and not parsed.json.absolute().parent.is_dir():
        raise SystemExit(
            f"--json {parsed.json}: there is no folder {parsed.json.absolute().parent}. "
            "Create it first."
        )
    rounds = QUICK_ROUNDS if parsed.quick else parsed.rounds
    return Settings(
        quick=parsed.quick, rounds=rounds, device=device, work=work, clock=CLOCKS[parsed.clock]
    )

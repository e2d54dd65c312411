"""Tables of many widths: names, which people type, are whole in each."""

import pytest
from rich.console import Console

from cld_core.evaluation import registry
from cldctl.runs.status import RunStatus
from cldctl.ui import details, tables

NAMES = ("mine", "toy-1125-102022-1152", "toy_published-1125-102022-1152")


def row(name: str) -> RunStatus:
    attempts = [{"cause": "preempted"}]
    results = {"bpd": None, "nll": -0.393, "fid": None}
    known = {"state": "RUNNING", "step": 12_350, "steps": 800_000, "loss": 123.4, "steps_per_s": 221.0, "eta_s": 3600.0}
    job = {"cluster": "slurm", "job_id": "123456", "checkpoint_step": 10_000}
    return RunStatus(name=name, path=name, attempts=attempts, evals=[{"state": "FINISHED", **results}], **known, **job)


@pytest.mark.parametrize(
    ("width", "last"), [(60, "step"), (80, "eval"), (100, "eval"), (140, "eval"), (200, "eval")], ids=str
)
def test_names_are_whole(monkeypatch, width, last):
    console = Console(width=width, record=True, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115
    monkeypatch.setattr(tables, "out", console)
    console.print(tables.overview([row(name) for name in NAMES]))
    lines = [line.rstrip() for line in console.export_text().splitlines() if line.strip()]
    assert len(lines) == 2 + len(NAMES), "a line each"
    assert all(line.split()[0] == name for line, name in zip(lines[2:], NAMES, strict=True))
    assert max(map(len, lines)) <= width
    assert lines[0].split()[-1] == last
    assert ("job" in lines[0].split()) == (width >= 200)


def test_a_stopped_evaluation_does_not_hide_the_result_of_an_earlier_one():
    stopped = {"state": "STOPPED", "bpd": None, "nll": None, "fid": None, "shards_done": 0, "shards": 2}
    known = {**stopped, "state": "FINISHED", "nll": -0.393}
    assert tables._evaluation([known, stopped]) == "nll -0.393"
    assert tables._evaluation([known, {**stopped, "state": "RUNNING"}]) == "0/2 shards"
    assert tables._evaluation([stopped]) == "-", "it was never started"
    assert tables._evaluation([{**stopped, "cause": "crashed"}]) == "0/2 crashed"
    assert tables._evaluation([known, {**stopped, "cause": "crashed"}]) == "nll -0.393"


@pytest.mark.parametrize("width", [40, 80, 100, 118, 140, 200], ids=str)
def test_numbers_are_whole(monkeypatch, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115
    monkeypatch.setattr(details, "out", console)
    results = {quantity.key: {"value": 3.14159, "stderr": 0.0123} for _, quantity in registry.quantities()}
    known = {"state": "FINISHED", "shards_done": 16, "shards": 16, "checkpoint_step": 800_000, "true_entropy": -1.4}
    console.print(
        details.evaluations([{"id": f"fid-kid-isc-prc-elbo-loss-{n}", "results": results} | known for n in "ab"])
    )
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for number in ("800,000", "3.142 ± 0.012", "3.14159", "-1.400", "16/16"):
        assert text.count(number) >= 2

"""A terminal of a given size in place of this process's output, and runs of every state to show on it."""

from collections.abc import Callable

import pytest
from rich.console import RenderableType

from cldctl.runs.status import RunStatus
from cldctl.show.console import err, out

# A name as `submit` makes it: 30 characters.
NAME = "toy_published-1125-1020{:02d}-11{:02x}"


def screen(
    monkeypatch: pytest.MonkeyPatch, width: int, height: int = 25, *, terminal: bool = True
) -> Callable[[RenderableType], list[str]]:
    """Let both consoles be a terminal of this size, without colours; returns what shows the lines of a renderable."""
    for console in (out, err):
        monkeypatch.setattr(console, "_width", width)
        monkeypatch.setattr(console, "_height", height)
        monkeypatch.setattr(console, "_force_terminal", terminal)
        monkeypatch.setattr(console, "_as_terminal", terminal)
        monkeypatch.setattr(console, "_color_system", None)

    def shown(renderable: RenderableType) -> list[str]:
        lines = out.render_lines(renderable, pad=False)
        return ["".join(segment.text for segment in line if not segment.control).rstrip() for line in lines]

    return shown


def row(name: str, state: str = "RUNNING", **known: object) -> RunStatus:
    """A run as `status` knows it: half way, with what belongs to its state, unless ``known`` says otherwise."""
    attempt = {"attempt": 0, "job_id": "4123456", "first_step": 0, "last_step": 12_350, "detail": None, "ran_s": 61.0}
    cause = {"FINISHED": "finished", "FAILED": "nonfinite", "CANCELLED": "cancelled"}.get(state, "preempted")
    begun = state != "PENDING"
    usual = {
        "step": 12_350 if begun else 0,
        "steps": 800_000,
        "loss": 123.4 if begun else None,
        "smoothed_loss": 123.4 if begun else None,
        "attempts": [{**attempt, "cause": cause}] if begun else [],
        "checkpoint_step": 10_000 if begun else None,
        "cluster": "slurm",
        "job_id": "4123456",
        **({"steps_per_s": 221.0, "eta_s": 3_563.0} if state == "RUNNING" else {}),
    }
    return RunStatus(name=name, path=f"runs/{name}", state=state, **{**usual, **known})  # type: ignore[arg-type]


def evaluation(name: str = "elbo-00800000-1f2e3d4c5b", n: int | None = 2000, **known: object) -> dict[str, object]:
    """A finished evaluation as `status` knows it."""
    results = {"nll": {"value": -0.3931, "stderr": 0.0123, "n": n}}
    numbers = {"fid": None, "bpd": None, "nll": -0.3931, "stderr": 0.0123, "true_entropy": None}
    about = {"id": name, "state": "FINISHED", "cause": None, "reason": None, "checkpoint_step": 800_000}
    shards = {"shards_done": 4, "shards": 4, "metrics": ["elbo"], "settings": "1f2e", "remarks": []}
    return {**about, **shards, **numbers, "results": results, **known}


STATES = ("FINISHED", "STOPPED", "FAILED", "CANCELLED", "LOST", "PENDING", "REQUEUED", "RUNNING")


def every_state() -> list[RunStatus]:
    """A run of each state, under names that differ in their ends only; the last one trains."""
    rows = [row(NAME.format(place, place), state) for place, state in enumerate(STATES)]
    rows[0].evals.append(evaluation())
    return rows

"""`--follow`: the progress of a run and of its evaluations until they end."""

import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cld_core.evaluation.request import EvalRequest
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json
from cldctl.cluster import launch
from cldctl.cluster.state import OVER, RunStatus, eval_status, status_of
from cldctl.evals import sweep as sweeps
from cldctl.evals.sweep import Sweep

from .console import err, out
from .details import evaluations
from .format import duration, number
from .hints import command
from .sweeps import by_step, sweep_table
from .tables import state_text

POLL_S = 0.4
SLURM_POLL_S = 2.0
ENDS_TO_BELIEVE = 3
# Seconds between two lines where stderr is no terminal.
LINE_EVERY_S = 5.0


def follow_run(run: RunFolder, names: tuple[str, ...] = ()) -> int:
    """Show a run until it ends, then its chained evaluations; returns the exit code of docs/cli.md."""
    try:
        with View() as view:
            row = _watch_run(run, view)
            if row.state == "FINISHED":
                _watch_evaluations(run, names, view)
    except KeyboardInterrupt:
        _say_it_goes_on(run)
        return 130
    saved = "" if row.checkpoint_step is None else f", checkpoint of step {row.checkpoint_step}"
    err.print(state_text(row.state), f"at step {row.step} of {row.steps}{saved}")
    if row.reason:
        err.print(row.reason, markup=False, soft_wrap=True)
    if row.state == "FINISHED":
        return finish_evaluations(run, names)
    see, resume = command(f"logs {run.name}", run), command(f"resume {run.name}", run)
    err.print(f"see {see}; go on with {resume}", markup=False, soft_wrap=True)
    return 5 if row.state == "CANCELLED" else 1


def follow_evaluations(run: RunFolder, names: tuple[str, ...], sweep: Sweep | None = None) -> int:
    """Show evaluations, or the cells of a sweep, until they end; returns the exit code."""
    try:
        with View() as view:
            _watch_evaluations(run, names, view, sweep.id if sweep is not None else None)
    except KeyboardInterrupt:
        _say_it_goes_on(run)
        return 130
    return finish_evaluations(run, names, sweep)


def finish_evaluations(run: RunFolder, names: tuple[str, ...], sweep: Sweep | None = None) -> int:
    """Print the results of evaluations; 1 where one has none."""
    look, _ = launch.look_at([run])
    rows = [eval_status(run.evals / name, look) for name in names]
    missing = [row["id"] for row in rows if row["state"] != "FINISHED"]
    if sweep is not None:
        out.print(sweep_table(sweep, sweeps.rows(run, sweep), {row["id"]: row["state"] for row in rows}))
        if not missing:
            sweeps.write_finished(run)
            out.print(str(run.evals / sweep.id / "table.csv"), markup=False, soft_wrap=True)
            out.print(str(run.evals / sweep.id / "plot.png"), markup=False, soft_wrap=True)
    elif rows:
        out.print(evaluations(rows))
        for table in by_step(rows):
            out.print(table)
    for name in missing:
        text = f"evaluation {name} is not complete; see {command(f'logs {run.name} --eval {name}', run)}"
        err.print(text, markup=False, soft_wrap=True)
    return 1 if missing else 0


def _say_it_goes_on(run: RunFolder) -> None:
    again = command(f"status {run.name} --watch", run)
    err.print(f"\nno longer watching; the job goes on. Again: {again}", markup=False, soft_wrap=True)


def _watch_run(run: RunFolder, view: "View") -> RunStatus:
    ends_seen, warned = 0, False
    while True:
        look, problem = launch.look_at([run])
        row = status_of(run, look)
        text = f"loss {number(row.loss)}  {number(row.steps_per_s, 3)} steps/s  ETA {duration(row.eta_s)}"
        if row.state == "RUNNING" and row.reason and not warned:
            warned = True
            err.print(row.reason, style="yellow", markup=False, soft_wrap=True)
        view.show(run.name, row.step, row.steps or 1, row.state, problem or text)
        # On Slurm a job that is about to go back into the queue looks over for a moment.
        ends_seen = ends_seen + 1 if row.state in OVER else 0
        if ends_seen == (ENDS_TO_BELIEVE if row.cluster == "slurm" and row.state != "FINISHED" else 1):
            return row
        time.sleep(SLURM_POLL_S if row.cluster == "slurm" else POLL_S)


def _watch_evaluations(run: RunFolder, names: tuple[str, ...], view: "View", title: str | None = None) -> None:
    """Until all are over; several share a line."""
    if not names:
        return
    title = title or (names[0] if len(names) == 1 else f"{len(names)} evaluations")
    while True:
        look, _ = launch.look_at([run])
        states = [eval_status(run.evals / name, look)["state"] for name in names]
        done, total = map(sum, zip(*(_data_done(run.evals / name) for name in names), strict=True))
        finished = "" if len(names) == 1 else f"in {states.count('FINISHED')} complete and {len(names)} in all"
        active = [state for state in ("RUNNING", "PENDING") if state in states]
        state = active[0] if active else "FINISHED" if set(states) == {"FINISHED"} else "STOPPED"
        doing = "merging and drawing" if active and done >= total else "data evaluated"
        view.show(title, done, total, state, f"{doing} {finished}".rstrip())
        if not active:
            return
        time.sleep(SLURM_POLL_S if any(job["cluster"] == "slurm" for job in launch.jobs_of(run)) else POLL_S)


def _data_done(folder: Path) -> tuple[int, int]:
    """Samples and test data of an evaluation that are computed, and how many there are to be."""
    total = sum(EvalRequest.load(folder).work.values())
    return (total if (folder / "report.json").is_file() else rows_done(folder)), total


def rows_done(folder: Path) -> int:
    """Samples and data that the shards in a folder have done."""
    states: list[dict[str, Any]] = [read_json(file) or {} for file in (folder / "shards").glob("*.json")]
    return sum(part["done"] for state in states for part in state.get("work", {}).values())


class View:
    """A bar a task on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}", markup=False),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
            TextColumn("{task.fields[text]}", markup=False),
        )
        self._progress = Progress(*columns, console=err, expand=True) if err.is_terminal else None
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, tuple[float, str]] = {}

    def __enter__(self) -> "View":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, name: str, done: int, total: int, state: str, text: str) -> None:
        if self._progress is not None:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=total, state=state, text=text)
            self._progress.update(self._tasks[name], completed=done, total=total, state=state, text=text)
            return
        when, before = self._printed.get(name, (-LINE_EVERY_S, ""))
        if state != before or time.monotonic() - when > LINE_EVERY_S:
            self._printed[name] = (time.monotonic(), state)
            err.print(f"{name} {state} {done}/{total} {text}", markup=False, soft_wrap=True)

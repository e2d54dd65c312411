"""Runs: which `cldctl status` shows, a line each, the runs of a group, and everything about one;
what `why` says."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group as Lines
from rich.console import RenderableType, group
from rich.live import Live
from rich.text import Text

from cld_core.run import RunFolder
from cld_core.run.state import ALIVE, STATES
from cld_core.sanitize import one_line
from cldctl.clusters.base import HELD
from cldctl.runs import selection, survey
from cldctl.runs.index import Found, Index
from cldctl.runs.logs import FirstFailure
from cldctl.runs.selection import command
from cldctl.runs.status import WAITING, RunStatus, named_status
from cldctl.runs.why import Why

from .console import age, count, duration, err, number, out, short
from .tables import (
    MANY,
    Cell,
    attempts,
    facts,
    progress_bar,
    short_keys,
    state_text,
    table,
    usage_line,
)

# The newest attempts, and the last words, that `why` shows, so that its answer fits on a screen.
_MOST_ATTEMPTS, _MOST_LINES = 4, 6
# The newest evaluations, and tunings, that it shows.
_MOST_WORKS = 4
# The results that the overview has room for, with their labels and decimals.
_SHOWN = {"nll": ("NLL bound", 3), "bpd": ("bits/dim", 3), "fid": ("FID", 2)}
_EVAL = "eval"
# What the axes of a group cannot be called beside them.
_HEADINGS = ("run", "state", "step", "loss", "steps/s", "ETA", "saved", "attempts", "job", "tags")
# Lines of a screen that are no rows: headings of runs and of groups, the last line, and the cursor.
_AROUND, _AROUND_RUNS = 10, 6


def overview(rows: Sequence[RunStatus]) -> RenderableType:
    """Runs, a line each, with the newest result of each."""
    present = {
        name for row in rows for entry in row.evals for name in _SHOWN if entry[name] is not None
    }
    # What they are if all are of one kind, so that the cells need not say it.
    heading = _SHOWN[present.pop()][0] if len(present) == 1 else _EVAL
    return _table(
        rows,
        {},
        {heading: [newest_result(row.evals, is_labelled=heading == _EVAL) for row in rows]},
    )


def _table(
    rows: Sequence[RunStatus],
    own: Mapping[str, Sequence[Cell]],
    results: Mapping[str, Sequence[Cell]],
    *,
    is_short: bool = False,
) -> RenderableType:
    """Runs, a line each; with the age of a state whose cluster could not be asked.

    Args:
        own: what each run of a group has of its own.
        is_short: there are few lines, so that no run may become a list: what it has of its own goes
            before that.
    """
    bars = out.is_terminal and len(rows) <= MANY
    columns: dict[str, Sequence[Cell]] = {
        "run": [row.name for row in rows],
        **own,
        "state": [state_text(row.state) for row in rows],
        **(
            {"as of": [age(row.as_of) for row in rows]}
            if any(row.as_of is not None for row in rows)
            else {}
        ),
        "step": [f"{short(row.step)}/{short(row.steps)}" for row in rows],
        **({"": [progress_bar(row) for row in rows]} if bars else {}),
        "loss": [number(row.shown_loss) for row in rows],
        "steps/s": [number(row.steps_per_s, 3) for row in rows],
        "ETA": [duration(row.eta_s) for row in rows],
        "saved": [short(row.checkpoint_step) for row in rows],
        "attempts": [str(len(row.attempts)) for row in rows],
        "last end": [row.attempts[-1]["cause"] or "-" if row.attempts else "-" for row in rows],
        "job": [f"{row.cluster} {row.job_id}" if row.job_id else "-" for row in rows],
        **results,
        **({"tags": [" ".join(row.tags) for row in rows]} if any(row.tags for row in rows) else {}),
    }
    # What a group is compared by stays.
    optional = (
        "tags",
        "",
        "job",
        "last end",
        "attempts",
        "saved",
        *([] if own else results),
        "steps/s",
        "loss",
        "ETA",
    )
    left = ("run", "state", "as of", "", "last end", "job", "tags", *(() if own else results))
    last = ("step", *(own if is_short else ())) if own else ()
    return table(columns, left=left, optional=(*optional, *last), names="run")


def newest_result(evals: Sequence[Mapping[str, Any]], *, is_labelled: bool = True) -> str:
    """The newest result, or how many shards of it are done and why the others are not being
    computed."""
    if not evals:
        return "-"
    known = [entry for entry in evals if any(entry[name] is not None for name in _SHOWN)]
    # An evaluation that is stopped, or has other numbers, does not hide those of an earlier one.
    last = evals[-1] if evals[-1]["state"] == "RUNNING" or not known else known[-1]
    values = {
        label: f"{last[name]:.{digits}f}"
        for name, (label, digits) in _SHOWN.items()
        if last[name] is not None
    }
    if values:
        results = [f"{label} {value}" if is_labelled else value for label, value in values.items()]
        from .evaluations import counts_of  # What shows evaluations is loaded where there are some.

        of = counts_of(last, show=short)
        return ", ".join(results) + (f" ({', '.join(of)})" if of else "")
    what = "shards" if last["state"] == "RUNNING" else last.get("cause")
    return f"{last['shards_done']}/{last['shards']} {what}" if what else "-"


def overview_with_groups(
    rows: Sequence[RunStatus],
    height: int | None = None,
    *,
    is_grouped: bool = True,
    is_sorted: bool = False,
) -> RenderableType:
    """Runs, a line each, and below them groups of several runs, a line each.

    Args:
        height: lines that there are: runs and groups that are alive come first, and what does not
            fit is counted.
        is_grouped: False to show the runs of groups among the others.
        is_sorted: somebody asked for this order, so that it stays.
    """
    sizes: Counter[str | None] = Counter(
        row.group for row in rows if row.group is not None and is_grouped
    )
    items: list[Sequence[RunStatus]] = [[row] for row in rows if sizes[row.group] < 2]
    items += [
        [row for row in rows if row.group == name] for name, size in sizes.items() if size > 1
    ]
    shown, note = _on_screen(items, height, is_sorted=is_sorted)
    runs, groups = (
        [item[0] for item in shown if len(item) == 1],
        [item for item in shown if len(item) > 1],
    )
    tables = [overview(runs)] if runs or not groups else []
    tables += [_groups(groups)] if groups else []
    return Lines(*tables, *note)


def _on_screen(
    items: Sequence[Sequence[RunStatus]], height: int | None, *, is_sorted: bool = False
) -> tuple[Sequence[Sequence[RunStatus]], list[Text]]:
    """What there are lines for, the most important at the top, and a line about the others if there
    are any.

    Args:
        items: each a run, or the runs of a group of several.
    """
    if height is None:
        return items, []
    room = max(height - (_AROUND if any(len(item) > 1 for item in items) else _AROUND_RUNS), 1)
    if len(items) <= room:
        return items, []
    newest_first = [*reversed(items)]
    ranked = sorted(newest_first, key=_importance)
    shown = [item for item in items if any(item is it for it in ranked[:room])]
    if not is_sorted:
        shown.sort(key=lambda item: _importance(item) >= len(ALIVE))
    numbers = Counter(row.state for item in ranked[room:] for row in item)
    running = f" ({numbers['RUNNING']:,} RUNNING)" if numbers["RUNNING"] else ""
    text = f"… and {numbers.total():,} more{running}: --all, or --state, --since, --tag"
    return shown, [Text(text, style="dim")]


def _importance(item: Sequence[RunStatus]) -> int:
    """What trains comes first, then what waits, then all that is over."""
    return min(ALIVE.index(row.state) if row.state in ALIVE else len(ALIVE) for row in item)


def _groups(groups: Sequence[Sequence[RunStatus]]) -> RenderableType:
    columns: dict[str, Sequence[Cell]] = {
        "group": [rows[0].group or "" for rows in groups],
        "runs": [str(len(rows)) for rows in groups],
        "states": [states(rows) for rows in groups],
        "done": [f"{_share(rows):.0%}" for rows in groups],
    }
    return table(columns, left=("group", "states"), names="group", wraps="states")


def states(rows: Iterable[RunStatus]) -> str:
    """How many runs are in which state: "1 RUNNING, 4 FINISHED"."""
    numbers = Counter(row.state for row in rows)
    return ", ".join(f"{numbers[state]} {state}" for state in STATES if state in numbers)


def _share(rows: Sequence[RunStatus]) -> float:
    steps = sum(row.steps or 0 for row in rows)
    return sum(min(row.step, row.steps or 0) for row in rows) / steps if steps else 0.0


def group_details(
    name: str, members: Sequence[RunStatus], height: int | None = None
) -> RenderableType:
    """The runs of a group by what each has of its own: state, step, loss and newest results.

    Args:
        height: lines that there are: what does not fit is counted.
    """
    from cldctl.evals.results import quantities_in

    from .evaluations import result_of

    shown, note = _on_screen([[row] for row in members], height and height - 1)
    rows = [row for (row,) in shown]
    heads = short_keys(list(dict.fromkeys(key for row in members for key in row.sweep)), _HEADINGS)
    own = {head: [row.sweep.get(key, "-") for row in rows] for key, head in heads.items()}
    results: dict[str, Sequence[Cell]] = {}
    for quantity in quantities_in(entry["results"] for row in rows for entry in row.evals):
        known = [[entry for entry in row.evals if quantity.key in entry["results"]] for row in rows]
        results[quantity.label] = [
            result_of(it[-1], quantity, with_count=True) if it else "-" for it in known
        ]
    title = Text.assemble("group ", (name, "bold"), f"  {states(members)}")
    reasons = (
        []
        if height is not None
        else [Text(f"{row.name}: {row.reason}", "yellow") for row in rows if row.reason]
    )
    return Lines(title, _table(rows, own, results, is_short=height is not None), *reasons, *note)


@group()
def details(row: RunStatus) -> Iterator[RenderableType]:
    """Everything about a run: facts, attempts, evaluations, sweeps, tunings."""
    from .evaluations import by_step, evaluations, remarks, tunings

    swept = {name for entry in row.sweeps for name in entry["evaluations"]}
    alone = [entry for entry in row.evals if entry["id"] not in swept]
    yield facts(_facts(row))
    if row.attempts:
        yield from (Text(), attempts(row.attempts, reason=row.reason, title="attempts"))
    if alone:
        yield from (Text(), evaluations(alone), *remarks(alone))
    for drawn in by_step(alone):
        yield from (Text(), drawn)
    yield from _sweeps(row)
    if row.tunings:
        reasons = (
            Text(f"{it['id']}: {it['reason']}", "yellow") for it in row.tunings if it["reason"]
        )
        yield from (Text(), tunings(row.tunings), *reasons)
    yield Text()


def _facts(row: RunStatus) -> Iterator[tuple[str, Cell]]:
    when = f" as of {age(row.as_of)}" if row.as_of is not None else ""
    # The reason of a run that waits says that it waits.
    phase = None if row.phase == WAITING and row.reason else row.phase
    share = f"  ({100 * row.step / row.steps:.1f}%)" if row.steps else ""
    smoothed = (
        "-"
        if row.loss is None
        else f"{number(row.smoothed_loss, 5)} (smoothed), last {number(row.loss, 5)}"
    )
    rate = (
        None
        if row.steps_per_s is None
        else f"{number(row.steps_per_s, 3)} steps/s, ETA {duration(row.eta_s)}"
    )
    where = f" on {row.host}" if row.host else ""
    known: dict[str, Cell | None] = {
        "run": Text(row.name, style="bold"),
        "state": Text.assemble(
            state_text(row.state), when, *(f"  {text}" for text in (phase, row.reason) if text)
        ),
        "step": f"{count(row.step)} of {count(row.steps)}{share}",
        "": progress_bar(row) if out.is_terminal else None,
        "loss": smoothed,
        "rate": rate,
        "checkpoint": "none"
        if row.checkpoint_step is None
        else f"step {count(row.checkpoint_step)}",
        "updated": age(row.updated),
        "tags": " ".join(row.tags) or None,
        "note": row.note,
        "job": None if row.job_id is None else f"{row.cluster} {row.job_id}{where}",
        "folder": row.path,
    }
    yield from ((name, cell) for name, cell in known.items() if cell is not None)
    yield from _remarks(row)


def _remarks(row: RunStatus) -> Iterator[tuple[str, Text]]:
    """What a run has used, and what is to be known about it before it goes on."""
    if row.started_from is not None:
        yield "begun", Text(row.started_from)
    if row.usage is not None and row.usage["used"] > 0:
        yield "usage", Text(usage_line(row.usage))
    if row.code == "live":
        yield "code", Text("the live checkout (--live-code)")
    yield from (("changed", Text(change, "yellow")) for change in row.changes)
    yield from (("problem", Text(problem, "yellow")) for problem in row.problems)


def _sweeps(row: RunStatus) -> Iterator[RenderableType]:
    from cld_core.run.evaluations import Sweep
    from cldctl.evals.results import rows as sweep_rows

    from .evaluations import remarks, sweep_table

    evals = {entry["id"]: entry for entry in row.evals}
    run = RunFolder(row.path)
    for entry in row.sweeps:
        sweep = Sweep.load(run.evals / entry["id"])
        if sweep is not None:
            title = (
                f"{entry['id']}: {entry['done']} of {len(entry['evaluations'])} evaluations "
                f"complete"
            )
            yield from (
                Text(),
                Text(title, style="bold"),
                sweep_table(sweep, sweep_rows(run, sweep), evals),
            )
            yield from remarks([evals[name] for name in sweep.evaluations if name in evals])


@dataclass(frozen=True)
class Look:
    """What was seen in one look.

    Attributes:
        seen: all runs, those that are not listed, too.
        rows: that are listed.
        older: how many more ended over a week ago.
        problem: why nothing could be seen.
    """

    seen: Found = field(default_factory=Found)
    rows: Sequence[RunStatus] = ()
    older: int = 0
    problem: str | None = None


@dataclass
class Query:
    """Which runs are shown, and in which order.

    Attributes:
        chosen: those that somebody named; none for all that ``which`` selects.
        groups: those whose runs are among ``chosen`` because somebody named the group.
    """

    index: Index
    which: selection.Selection
    everything: bool = False
    chosen: Sequence[RunFolder] = ()
    groups: Sequence[str] = ()
    sort: str = "created"
    reverse: bool = False

    def look(self) -> Look:
        """What there is now."""
        if self.chosen:
            answers = survey.of_runs(self.chosen, max_age_s=survey.TO_LOOK_S)
            seen = Found([named_status(run, answers) for run in self.chosen], answers)
        else:
            seen = self.index.look(max_age_s=survey.TO_LOOK_S)
        rows = recent = self.which.of(seen.rows)
        if not self.chosen and not self.everything and self.which.is_empty:
            recent = selection.recent(rows)
        if not self.chosen or self.sort != "created":
            recent = selection.in_order(recent, self.sort, reverse=self.reverse)
        return Look(seen, recent, len(rows) - len(recent))

    def view(self, rows: Sequence[RunStatus], height: int | None) -> RenderableType:
        """How rows are shown.

        Args:
            height: lines that there are: what does not fit is counted. None to show all.
        """
        others = [row for row in rows if row.group not in self.groups]
        if self.chosen and (height is None or len(self.groups) + len(others) == 1):
            groups = {name: [row for row in rows if row.group == name] for name in self.groups}
            return Lines(
                *(group_details(*it, height) for it in groups.items()), *map(details, others)
            )
        is_sorted = self.sort != "created"
        # Who asks for certain runs, or for their order, wants to see these runs.
        is_any = not self.everything and self.which.is_empty and not is_sorted
        is_grouped = bool(self.chosen) or (out.is_terminal and is_any)
        return overview_with_groups(rows, height, is_grouped=is_grouped, is_sorted=is_sorted)


def watch(query: Query) -> None:
    """Show runs on a terminal, again every second, until it is interrupted."""
    with Live(console=out, auto_refresh=False) as live:
        while True:
            look = query.look()
            remarks = [Text(remark, "yellow") for remark in look.seen.remarks]
            height = out.height - sum(len(remark.wrap(out, out.width)) for remark in remarks)
            live.update(Lines(*remarks, query.view(look.rows, height)), refresh=True)
            time.sleep(1.0)


def show(query: Query) -> None:
    """Print runs, or why there are none."""
    look = query.look()
    for remark in look.seen.remarks:
        err.print(remark, style="yellow")
    if not look.rows:
        err.print(nothing(query.index.root, query.which, look.older))
        return
    fits = out.is_terminal and not query.everything and not query.chosen
    out.print(query.view(look.rows, out.height if fits else None))
    if query.chosen:
        return
    if look.older:
        err.print(f"{look.older:,} that ended over a week ago: --all", style="dim")
    for row in look.rows:
        if not row.is_readable:
            err.print(f"{row.name}: {row.reason}", style="yellow")
    # Tasks of an array are held by the hundred.
    held: dict[str, list[RunStatus]] = {}
    for row in look.rows:
        if HELD in (row.reason or ""):
            held.setdefault(str(row.reason).partition(HELD)[0], []).append(row)
    for rows in held.values():
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        err.print(f"{rows[0].name}{more}: {rows[0].reason}", style="yellow")


def nothing(root: Path, which: selection.Selection, older: int) -> str:
    """Why there are no rows, and what to do."""
    if not which.is_empty:
        return f"no run in {root} matches these filters; --all shows every run"
    if older:
        return f"no recent runs in {root}; {older:,} ended over a week ago: --all"
    return f"no runs in {root}. Start one: cldctl submit toy_demo"


@group()
def explanation(why: Why) -> Iterator[RenderableType]:
    """The answer of `cldctl why`, on one screen, the most important first."""
    row = why.row
    yield Text.assemble(
        (row.name, "bold"), "  ", state_text(row.state), f"  {why.headline}", overflow="fold"
    )
    if why.waiting is not None and why.waiting.expected is not None:
        yield _fact(
            "begins", f"in {duration(why.waiting.expected - time.time())}, as the scheduler expects"
        )
    if why.attempts:
        yield attempts([{**row, "detail": None} for row in why.attempts[-_MOST_ATTEMPTS:]])
        if len(why.attempts) > _MOST_ATTEMPTS:
            yield Text(
                f"{len(why.attempts) - _MOST_ATTEMPTS} earlier attempts: cldctl status", style="dim"
            )
    if why.failed is not None:
        yield from _failure(why.failed, RunFolder(row.path))
    yield from _unfinished(row)
    if why.excluded:
        yield _fact("avoids", f"nodes {', '.join(why.excluded)}")
    for name, known in _remarks(row):
        yield _fact(name, known.plain, str(known.style))
    if why.do:
        yield _fact("do", why.do)
    for place, text in enumerate(why.next):
        fact = _fact(
            "next" if place == 0 else "or",
            command(text, RunFolder(row.path)),
            "bold" if place == 0 else "",
        )
        # The terminal breaks it, so that it can be copied.
        fact.no_wrap, fact.overflow = True, "ignore"
        yield fact


def _fact(name: str, text: str, style: str = "") -> Text:
    return Text.assemble((f"{name:8}", "dim"), (text, style), overflow="fold")


def _unfinished(row: RunStatus) -> Iterator[Text]:
    """The newest evaluations and tunings that are not finished, a line each."""
    for name, entries, unit in (("eval", row.evals, "shards"), ("tuning", row.tunings, "rows")):
        left = [entry for entry in entries if entry["state"] != "FINISHED"]
        for entry in left[-_MOST_WORKS:]:
            done = f"{entry[f'{unit}_done']} of {entry[unit]} {unit}"
            reason = f": {entry['reason']}" if entry["reason"] else ""
            yield _fact(name, f"{entry['id']}  {entry['state']}, {done}{reason}")
        if len(left) > _MOST_WORKS:
            yield _fact("", f"{len(left) - _MOST_WORKS} more: cldctl status", "dim")


def _failure(failed: FirstFailure, run: RunFolder) -> Iterator[Text]:
    when = f", {age(failed.time)}" if failed.time else ""
    reason = f": {one_line(failed.reason, out.width)}" if failed.reason else ""
    yield _fact("failed", f"{failed}{when}{reason}", "red")
    if failed.file is not None:
        yield _fact("", _shown(failed.file, run))
    for line in failed.lines[-_MOST_LINES:]:
        # A long line is cut, not folded: the screen is for the last words, `logs --failed` for all
        # of them.
        yield Text(f"  {line}", style="dim", overflow="ellipsis", no_wrap=True)


def _shown(file: Path, run: RunFolder) -> str:
    """A path as it can be opened from here, the shorter one."""
    relative = os.path.relpath(file)
    return min(relative, str(file), key=len) if file.is_relative_to(run.path) else str(file)

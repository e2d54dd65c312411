"""What is shown of the run or group that is selected, as lines of a width."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from cld_core.evaluation.definitions import Quantity
from cld_core.run.timeline import Stretch
from cldctl.runs.state import WAITS
from cldctl.runs.status import RunStatus
from cldctl.show.format import age, count, duration, number
from cldctl.show.tables import STATE_STYLE, present_in, result_of, state_text

from .arrange import GroupLine, counts
from .detail import Detail
from .fitting import cut, cut_in_the_middle, wrapped
from .shards import Shards, ShardState
from .sparks import sparkline
from .timeline import style_of, time_line

# Lines of a reason, and of shards of one evaluation, at most.
_REASON_LINES, _GRID_LINES = 3, 8
_MARKS: dict[ShardState, tuple[str, str]] = {
    "done": ("■", "green"),
    "running": ("▶", "bold cyan"),
    "waiting": ("░", "yellow"),
    "failed": ("×", "bold red"),
    "missing": ("·", "dim"),
}
_BAR, _LEAST_BAR = 20, 6
_LABEL = 9
_GAP = " · "


def of_run(detail: Detail, losses: Sequence[float], width: int) -> list[Text]:
    """Everything about a run."""
    return [line for part in (_head, _facts, _attempts, _evaluations, _table) for line in part(detail, losses, width)]


def of_group(line: GroupLine, width: int) -> list[Text]:
    """What a group of runs is doing: how many runs are in which state, and how far all of them are."""
    done = sum(min(row.step, row.steps or 0) for row in line.rows)
    steps = sum(row.steps or 0 for row in line.rows)
    states = [Text(f"  {number} {state}", STATE_STYLE.get(state, "")) for state, number in counts(line.rows)]
    text = Text.assemble((cut_in_the_middle(line.name, width - 8), "bold"), "  group")
    share = f"  {100 * done / steps:.1f}%" if steps else ""
    bar = Text.assemble(("steps".ljust(_LABEL), "dim"), *_bar(done, steps), share)
    hint = f"space {'unfolds' if line.is_folded else 'folds'} it; r and c act on all of its runs"
    return [text, bar, *states, Text(cut(hint, width), "dim")]


def _head(detail: Detail, losses: Sequence[float], width: int) -> Iterator[Text]:
    row = detail.row
    old = f" as of {age(row.as_of)}" if row.as_of is not None else ""
    room = width - len(row.state) - len(old) - 2
    yield Text.assemble((cut_in_the_middle(row.name, room), "bold"), "  ", state_text(row.state), (old, "dim"))
    style = "red" if row.state in ("FAILED", "LOST") else "yellow" if row.state in WAITS else ""
    reason = row.reason or ""
    if (waiting := detail.waiting) is not None:
        reason = waiting.reason + (f". {waiting.advice[:1].upper()}{waiting.advice[1:]}" if waiting.advice else "")
    yield from (Text(line, style) for line in wrapped(reason, width, _REASON_LINES))
    for problem in detail.problems:
        yield from (Text(line, "yellow") for line in wrapped(problem, width, 2))


def _facts(detail: Detail, losses: Sequence[float], width: int) -> Iterator[Text]:
    row = detail.row
    if not row.is_readable:
        return
    share = f" {100 * row.step / row.steps:.1f}%" if row.steps else ""
    texts = [f"{count(row.step)}/{count(row.steps)}{share}"]
    if row.steps_per_s is not None:
        texts += [f"{number(row.steps_per_s, 3)} steps/s", f"ETA {duration(row.eta_s)}"]
    text = cut(_GAP.join(texts), width - _LABEL)
    room = min(width - _LABEL - cell_len(text) - 2, _BAR)
    bar = _bar(row.step, row.steps or 0, room) if room >= _LEAST_BAR else []
    yield Text.assemble(("step".ljust(_LABEL), "dim"), *bar, "  " if bar else "", text)
    yield from _loss(row, losses, width)
    job = f"{row.cluster} {row.job_id}" + (f" on {row.host}" if row.host else "") if row.job_id else "no job"
    saved = "no checkpoint" if row.checkpoint_step is None else f"checkpoint at step {count(row.checkpoint_step)}"
    updated = [f"updated {age(row.updated)}"] if row.updated is not None else []
    yield _fact("job", _GAP.join([job, saved, *updated]), width)
    about = [*row.tags, *([row.note] if row.note else [])]
    if about:
        yield _fact("note", _GAP.join(about), width)


def _loss(row: RunStatus, losses: Sequence[float], width: int) -> Iterator[Text]:
    loss = row.shown_loss
    value = number(losses[-1] if loss is None and losses else loss)
    span = f"  from {number(losses[0])}" if len(losses) > 1 else ""
    room = width - _LABEL - len(value) - len(span) - 2
    curve = sparkline(losses, min(room, 60))
    if curve or loss is not None:
        gap = "  " if curve else ""
        yield Text.assemble(("loss".ljust(_LABEL), "dim"), (curve, "cyan"), gap, (value, "bold"), span)


def _attempts(detail: Detail, losses: Sequence[float], width: int) -> Iterator[Text]:
    alive = detail.row.state == "RUNNING"
    lines = time_line(detail.attempts, width - _LABEL, alive=alive, waits_since=detail.waits_since)
    for place, line in enumerate(lines):
        line.truncate(width - _LABEL)
        yield Text.assemble((("attempts" if place == 0 else "").ljust(_LABEL), "dim"), line)


def _evaluations(detail: Detail, losses: Sequence[float], width: int) -> Iterator[Text]:
    shown = sorted(detail.evaluations, key=lambda it: it.entry["state"] == "FINISHED")
    quantities = present_in([it.entry for it in shown])
    for it in shown:
        yield from _evaluation(it, quantities, width)
    states = {state for it in shown if it.entry["state"] != "FINISHED" for state in it.states}
    if states:
        legend = Text(" " * _LABEL)
        for state, (mark, style) in _MARKS.items():
            if state in states:
                legend.append(mark, style).append(f" {state}  ")
        legend.truncate(width)
        yield legend


def _evaluation(shards: Shards, quantities: Sequence[Quantity], width: int) -> Iterator[Text]:
    entry = shards.entry
    is_done = entry["state"] == "FINISHED"
    results = "  ".join(_results(entry, quantities))
    count_of = "" if is_done else f"  {entry['shards_done']}/{entry['shards']} shards"
    room = width - _LABEL - len(entry["state"]) - len(count_of) - 2
    name = cut_in_the_middle(entry["id"], max(room, 12))
    line = Text.assemble(("eval".ljust(_LABEL), "dim"), name, "  ", state_text(entry["state"]), count_of)
    if line.cell_len + 2 + cell_len(results) <= width:
        yield line.append(f"  {results}")
    else:
        yield line
        yield from (Text(" " * _LABEL + text) for text in wrapped(results, width - _LABEL, 2))
    if not is_done:
        yield from _grid(shards.states, width - _LABEL)
    for remark in entry["remarks"]:
        yield from (Text(" " * _LABEL + text, "yellow") for text in wrapped(remark, width - _LABEL, 2))


def _results(entry: Mapping[str, Any], quantities: Sequence[Quantity]) -> Iterator[str]:
    for quantity in quantities:
        if quantity.key in entry["results"]:
            yield f"{quantity.label} {result_of(entry, quantity)}"
    if entry["true_entropy"] is not None:
        yield f"true entropy {entry['true_entropy']:.3f}"


def _grid(states: Sequence[ShardState], width: int) -> Iterator[Text]:
    """A mark for each shard, row by row; of very many, how many more there are."""
    fit = max(width, 1) * _GRID_LINES
    for begin in range(0, min(len(states), fit), max(width, 1)):
        line = Text(" " * _LABEL)
        for state in states[begin : min(begin + width, fit)]:
            line.append(*_MARKS[state])
        yield line
    if len(states) > fit:
        yield Text(f"{' ' * _LABEL}and {len(states) - fit:,} more shards", "dim")


def _table(detail: Detail, losses: Sequence[float], width: int) -> Iterator[Text]:
    """The attempts in words, newest first."""
    for it in reversed(detail.attempts):
        yield from (_in_words(it, detail.row, text, place) for place, text in enumerate(_words(it, detail.row, width)))


def _words(it: Stretch, row: RunStatus, width: int) -> list[str]:
    attempt = it.attempt
    last = attempt.last_step if attempt.last_step is not None else row.step
    alive = row.state == "RUNNING" and attempt.cause is None
    cause = attempt.cause or ("running" if alive else "no end recorded")
    lost = f", {count(it.lost)} lost" if it.lost else ""
    where = f" on {attempt.host}" if attempt.host else ""
    waited = f", queued {duration(it.waited_s)}" if it.waited_s >= 1 else ""
    detail = f": {attempt.detail}" if attempt.detail and attempt.detail != row.reason else ""
    steps = f"step {count(attempt.first_step)} to {count(last)}{lost}"
    text = f"{steps}, ran {duration(it.allocated_s)}{where}{waited}, {cause.replace('_', ' ')}{detail}"
    return wrapped(text, width - _LABEL, 2)


def _in_words(it: Stretch, row: RunStatus, text: str, place: int) -> Text:
    label = f"#{it.attempt.attempt}".ljust(_LABEL) if place == 0 else " " * _LABEL
    style = style_of(it.attempt.cause, alive=row.state == "RUNNING" and it.attempt.cause is None)
    return Text.assemble((label, style), text)


def _fact(name: str, text: str, width: int) -> Text:
    return Text.assemble((name.ljust(_LABEL), "dim"), cut(text, width - _LABEL))


def _bar(done: int, total: int, width: int = _BAR) -> list[tuple[str, str]]:
    full = min(width * done // total, width) if total > 0 else 0
    return [("━" * full, "green"), ("─" * (width - full), "dim")]

"""What to know about a run first: how it stands, in a sentence, and what to type next."""

from dataclasses import dataclass

from cld_core.run import RunFolder
from cld_core.texts import one_line
from cldctl.hints import command
from cldctl.runs.why import Why
from cldctl.show.format import age, duration

from .places import Places
from .results import Tile

# Of the rank that failed first.
_LAST_LINES = 8
# The states in which an error of the past is the news.
_FAILED = ("FAILED", "LOST", "STOPPED")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The first lines of a page.

    Attributes:
        sentence: how the run stands.
        progress: the share of the steps that are done, 0 to 100; None if nobody knows.
        failure: which rank failed first and why; empty unless that is why the run stands still.
        lines: its last words.
        do: what somebody has to do first; empty if nothing.
        commands: what to type next, the most useful one first.
        warnings: what may have changed results, and what is damaged.
    """

    state: str
    sentence: str
    progress: float | None
    failure: str
    lines: tuple[str, ...]
    do: str
    commands: list[str]
    warnings: list[str]


def verdict(why: Why, best: list[Tile], places: Places) -> Verdict:
    """The first lines of the page of a run."""
    row, run = why.row, RunFolder(why.row.path)
    sentence = _sentence(why)
    if best and row.state == "FINISHED":
        first = best[0]
        name, _, unit = first.label.partition(", ")
        sentence += f" Best {name}: {' '.join(filter(None, (first.value, first.error, unit)))}."
    failed = why.failed if row.state in _FAILED else None
    # What the page is or shows needs no advice.
    there = ("report ", "sample ") if _has_samples(run, row.step, places) else ("report ",)
    shows_lines = failed is not None and failed.file is not None and places.is_inside(failed.file.parent)
    return Verdict(
        state=row.state,
        sentence=sentence,
        progress=min(100.0, 100.0 * row.step / row.steps) if row.steps else None,
        failure="" if failed is None else _failure(failed.attempt, failed.rank, failed.host, failed.reason),
        lines=failed.lines[-_LAST_LINES:] if failed is not None and shows_lines else (),
        do=why.do or "",
        commands=[command(text, run) for text in why.next if not text.startswith(there)],
        warnings=[*why.changed, *why.problems],
    )


def _has_samples(run: RunFolder, step: int, places: Places) -> bool:
    return bool(places.inside(run.samples.glob(f"step_{step:08d}*.png")))


def _sentence(why: Why) -> str:
    """State and reason; of a run that trains, when it will be done."""
    row = why.row
    text = f"{row.state.capitalize()}: {why.headline}"
    if row.state == "RUNNING" and row.eta_s is not None:
        text += f"; about {duration(row.eta_s)} left"
    if row.as_of is not None:
        text += f" (as of {age(row.as_of)}: its cluster does not answer)"
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _failure(attempt: int, rank: int | None, host: str | None, reason: str | None) -> str:
    where = f" on {host}" if host else ""
    if rank is None:
        who = f"Attempt {attempt} failed{where}; which rank failed first is unknown"
    else:
        who = f"Rank {rank} failed first{where}, in attempt {attempt}"
    return who + (f": {one_line(reason, 300)}" if reason else ".")

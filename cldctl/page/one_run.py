"""The page of a run."""

import time
from dataclasses import dataclass

from cld_core.run import RunFolder
from cld_core.texts import local_time
from cldctl.runs.status import RunStatus
from cldctl.runs.why import Why, why
from cldctl.show.format import count, number
from cldctl.show.usage import usage_line

from . import attempts, recipe, results, sweeps
from .chart import Chart, curve
from .curves import LOSS, Board, read
from .freshness import mark_of
from .pictures import gallery
from .places import Places
from .rendering import render
from .verdict import verdict

# The curve that tells most, and how many others are drawn.
_CURVES = 40
# How tags of evaluations begin.
_EVALUATIONS = "evaluation/"


@dataclass(frozen=True, kw_only=True)
class _Curves:
    """Charts; the value of those that have only one; and the names of those that are too many or never finite."""

    charts: list[Chart]
    level: dict[str, str]
    more: list[str]


def page(run: RunFolder, *, follow: bool = False) -> str:
    """The whole page as text; it refers to nothing outside.

    Args:
        follow: also read folders that links lead out of the run to.
    """
    found, places = why(run), Places(run, follow=follow)
    row = found.row
    board = read(run.tensorboard, follow=follow)
    asked = results.asked_of(run)
    resolved = recipe.shown(run)
    best = results.best_of(row, asked, resolved.base)
    # Of a run whose files cannot be read, the verdict tells.
    stretches = found.stretches if row.is_readable else ()
    swept = {name for entry in row.sweeps for name in entry["evaluations"]}
    curves = _curves(board)
    return render(
        "run.html",
        generator=mark_of(row, follow=follow),
        title=run.name,
        made=local_time(time.time()),
        verdict=verdict(found, best, places),
        tiles=[*best, *_effort(row)],
        gallery=gallery(run, board, places),
        loss=curve("loss", board.scalars.get(LOSS, ()), most=600, large=True, may_be_log=True),
        curves=curves,
        left_out=places.left_out,
        tunings=results.tunings(row.tunings),
        evaluations=results.table([entry for entry in row.evals if entry["id"] not in swept], asked),
        against_step=results.against_step(row.evals, asked),
        remarks=results.remarks(row.evals),
        sweeps=sweeps.shown(run, row),
        time_line=attempts.time_line(stretches, alive=row.state == "RUNNING"),
        attempts=attempts.table(stretches),
        recipe=resolved,
        facts=_facts(run, found),
        note=row.note,
        tags=row.tags,
    )


def _effort(row: RunStatus) -> list[results.Tile]:
    """The loss, and what the training took, as they stand beside the best results."""
    found = [] if row.shown_loss is None else [_loss(row)]
    if row.usage is not None and row.usage["used"] > 0:
        used, _, about = usage_line(row.usage).partition(": ")
        value, _, unit = used.partition(" ")
        found.append(results.Tile(label="used", value=value, error=unit, made=about))
    return found


def _loss(row: RunStatus) -> results.Tile:
    """The smoothed loss, and below it the last one."""
    step = f"step {count(row.step)}"
    made = step if row.loss is None else f"{step}; last loss {number(row.loss)}"
    return results.Tile(label="loss (smoothed)", value=number(row.smoothed_loss), made=made)


def _curves(board: Board) -> _Curves:
    """The curves of the training, those of `train/` first. The evaluations have charts of their own."""
    tags = [tag for tag in board.scalars if tag != LOSS and not tag.rpartition(": ")[2].startswith(_EVALUATIONS)]
    charts: list[Chart] = []
    level: dict[str, str] = {}
    more: list[str] = []
    for tag in sorted(tags, key=lambda tag: (not tag.startswith("train/"), tag)):
        values = {value for _, value in board.scalars[tag]}
        if len(values) == 1:
            level[tag] = number(values.pop())
        elif len(charts) < _CURVES and (drawn := curve(tag, board.scalars[tag])) is not None:
            charts.append(drawn)
        else:
            more.append(tag)
    return _Curves(charts=charts, level=level, more=more)


def _facts(run: RunFolder, found: Why) -> dict[str, str]:
    """Versions, code and machines, in words."""
    row, identity = found.row, run.identity()
    last = found.history.last if row.is_readable else None
    git = identity.get("git") or {}
    versions = {**identity.get("versions", {}), **(last.versions if last is not None else {})}
    created = local_time(row.created, unknown="")
    hosts = list(dict.fromkeys(last.hosts)) if last is not None else []
    facts = {
        "recipe": row.recipe,
        "created": " by ".join(filter(None, (created, row.user))),
        "submitted from": identity.get("host"),
        "group": " ".join([row.group or "", *(f"{key}={value}" for key, value in row.sweep.items())]).strip(),
        "newest checkpoint": None if row.checkpoint_step is None else f"step {count(row.checkpoint_step)}",
        "used": None if row.usage is None else usage_line(row.usage),
        "commit": git.get("commit") and f"{str(git['commit'])[:12]}{' with changes' if git.get('dirty') else ''}",
        "code": row.code if row.code in (None, "live") else str(row.code)[:12],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machines": ", ".join(hosts) or row.host,
        "GPU": last.gpu if last is not None else None,
        "driver": last.driver if last is not None else None,
        "folder": str(run.path),
    }
    return {name: str(value) for name, value in facts.items() if value}

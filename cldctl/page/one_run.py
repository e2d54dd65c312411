"""The page of a run: how it stands, its results, samples and curves, and how it was made."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cld_core.errors import CldError
from cld_core.evaluation import registry
from cld_core.evaluation.published import published
from cld_core.evaluation.sweeps import Sweep
from cld_core.recipe import Recipe, dump, load
from cld_core.recipe.reading import to_yaml_line
from cld_core.recipe.tree import leaves
from cld_core.run import RunFolder
from cld_core.run.causes import state_after
from cld_core.run.timeline import Stretch
from cld_core.texts import local_time, one_line
from cldctl.evals.table import keys_of, lines_of, rows
from cldctl.hints import command
from cldctl.lookup import recipe_files
from cldctl.runs.status import RunStatus
from cldctl.runs.why import Why, why
from cldctl.show.evaluations import cell_text, tuning_columns
from cldctl.show.format import age, count, duration, keys_differ, number
from cldctl.show.tables import attempt_columns
from cldctl.show.usage import usage_line

from .curves import LOSS, Points, is_inside, read
from .document import Section, code, colour_of, part, render, table, text
from .figures import SOFT, Line, chart, curve, gallery, overlay, unlike
from .freshness import mark_of
from .results import Finding, best_of, findings_of, results_table

# A smaller difference than this share of a value is none.
_CONSTANT = 0.005
# Losses by time, and the tags of results, which have charts of their own.
_BY_TIME, _EVALUATIONS = "train/loss_at_t/", "evaluation/"
# The states in which an error of the past is the news, and how many of its last words are shown.
_FAILED, _LAST_LINES = ("FAILED", "LOST", "STOPPED"), 8
_WORDS = {
    LOSS: "loss",
    "train/grad_norm": "norm of the gradient",
    "train/lr": "learning rate",
    "train/first_step_s": "seconds to the first step",
    "train/data_wait_s": "seconds waiting for data",
    "train/memory_gib": "memory, GiB",
    "train/steps_per_s": "steps per second",
    "periodic/nfe": "network evaluations of a sample",
}


def page(run: RunFolder, *, follow: bool = False) -> str:
    """The whole page as text; it refers to nothing outside.

    Args:
        follow: also read folders that links lead out of the run to.
    """
    found = why(run)
    row, findings = found.row, findings_of(run)
    recipe, _ = shipped(run)
    best, curves, pictures = best_of(findings), read(run, follow=follow), gallery(run, follow=follow)
    # Of a run whose files cannot be read, the verdict tells.
    stretches = found.stretches if row.is_readable else ()
    swept = {name for entry in row.sweeps for name in entry["evaluations"]}
    loss = curve("loss", curves.get(LOSS, [])) or text("No loss has been recorded.")
    sections = [
        Section("", list(_verdict(found, best, follow)), "lines"),
        Section("", [*(_tile(it, recipe) for it in best), *_effort(row)], "tiles"),
        Section("", [loss, *pictures[:1]], "pair"),
        Section("", [_outside(run, follow)]),
        Section("Attempts", _attempts(found, stretches)),
        Section(
            "Evaluations",
            [*_by_step(findings), results_table([it for it in findings if it.evaluation not in swept]), *_remarks(row)],
        ),
        *_sweeps(run, row),
        Section("Tuned samplers", _tunings(row)),
        Section("Curves", list(_curves(curves))),
        Section("Samples", pictures[1:]),
        Section("Recipe", list(_recipe(run))),
        Section("Code and machines", [_facts(run, found)]),
    ]
    pills = [(row.state, colour_of(row.state)), *((tag, "dim") for tag in row.tags)]
    return render(run.name, mark_of(row, follow=follow), pills, sections)


def _verdict(found: Why, best: Sequence[Finding], follow: bool) -> Iterator[Markup]:
    """How the run stands, in a sentence, and what to type next."""
    row, run = found.row, RunFolder(found.row.path)
    sentence = f"{row.state.capitalize()}: {found.headline}"
    if row.state == "RUNNING" and row.eta_s is not None:
        sentence += f"; about {duration(row.eta_s)} left"
    if row.as_of is not None:
        sentence += f" (as of {age(row.as_of)}: its cluster does not answer)"
    sentence = sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."
    if best and row.state == "FINISHED":
        name, _, unit = best[0].quantity.label.partition(", ")
        sentence += f" Best {name}: {f'{best[0].text} {unit}'.strip()}."
    yield text(sentence, "verdict")
    if row.steps:
        yield part("progress", share=min(100.0, 100.0 * row.step / row.steps))
    failed = found.failed if row.state in _FAILED else None
    if failed is not None:
        who = "The rank that failed first is unknown" if failed.rank is None else f"Rank {failed.rank} failed first"
        where = f" on {failed.host}" if failed.host else ""
        reason = f": {one_line(failed.reason, 300)}" if failed.reason else "."
        yield text(f"{who}{where}, in attempt {failed.attempt}{reason}", "failed")
        if failed.file is not None and is_inside(run, failed.file.parent, follow=follow):
            yield part("folded", summary="Last output", content="\n".join(failed.lines[-_LAST_LINES:]))
    # What the page is or shows needs no advice.
    has_samples = any(run.samples.glob(f"step_{row.step:08d}*.png"))
    there = ("report ", "sample ") if has_samples else ("report ",)
    following = [code(command(words, run)) for words in found.next if not words.startswith(there)]
    if following or found.do:
        yield text(Markup(" ").join(["Next:", *([found.do] if found.do else []), *following]))
    if row.note is not None:
        yield text(row.note, "note")
    for warning in (*found.changed, *found.problems):
        yield text(warning, "warning")


def _outside(run: RunFolder, follow: bool) -> Markup:
    """Which folders are left out; empty if none is."""
    folders = [run.tensorboard, run.samples, run.evals, run.logs]
    links = [folder for folder in (*run.evals.glob("*"), *run.tensorboard.glob("*")) if folder.is_symlink()]
    names = [str(it.relative_to(run.path)) for it in (*folders, *links) if not is_inside(run, it, follow=follow)]
    what = f"Left out, because a link leads out of the run: {', '.join(names)}. Add --follow-links to read it."
    return text(what) if names else Markup()


def _tile(best: Finding, recipe: str | None) -> Markup:
    """A result beside the true entropy, or the published value of its recipe."""
    known = published(recipe, best.quantity.key) if recipe is not None else None
    about = []
    if best.truth is not None:
        digits, gap = best.quantity.digits, best.result.number.value - best.truth
        about.append(f"true entropy {best.truth:.{digits}f}, gap {gap:.{digits}f}")
    elif known is not None:
        about.append(f"published {'≤ ' if known.bound else ''}{known.value:g} ({known.how})")
    about.append(
        ", ".join(filter(None, [f"step {best.step:,}", best.average, best.of, best.nfe and f"{best.nfe} NFE"]))
    )
    value, _, error = best.text.partition(" ")
    return part("tile", label=best.quantity.label, value=value, error=error, about=about)


def _effort(row: RunStatus) -> Iterator[Markup]:
    """The loss, and what the training took."""
    if row.shown_loss is not None:
        about = f"step {count(row.step)}; last loss {number(row.loss)}"
        yield part("tile", label="loss (smoothed)", value=number(row.shown_loss), error="", about=[about])
    if row.usage is not None and row.usage["used"] > 0:
        used, _, about = usage_line(row.usage).partition(": ")
        value, _, unit = used.partition(" ")
        yield part("tile", label="used", value=value, error=unit, about=[about])


def _attempts(found: Why, stretches: Sequence[Stretch]) -> list[Markup]:
    if not stretches:
        return [text("There are no attempts yet.")]
    columns = attempt_columns(found.attempts, local_time)
    return [_time_line(found, stretches), table("Attempts, oldest first", columns)]


def _ending(cause: str | None) -> str:
    return (cause or "no recorded end").replace("_", " ")


def _time_line(found: Why, stretches: Sequence[Stretch]) -> Markup:
    """The attempts against time, coloured by the state in which they left the run."""
    begin = min(moment for it in stretches for moment in (it.began, it.queued) if moment is not None)
    end = max(it.until for it in stretches)
    share = 100 / max(end - begin, 1e-3)
    bars, legend = [], {}
    for it in stretches:
        attempt, is_alive = it.attempt, found.row.state == "RUNNING" and it is stretches[-1]
        state = "RUNNING" if is_alive else state_after(attempt.cause) if attempt.cause else "LOST"
        steps = f"attempt {attempt.attempt}, steps {count(attempt.first_step)} to {count(attempt.last_step)}"
        for what, first, last, colour in (
            ("queued", it.began - it.waited_s, it.began, "dim"),
            ("starting", it.began, attempt.started, "blue"),
            ("running" if is_alive else _ending(attempt.cause), attempt.started, it.until, colour_of(state)),
        ):
            if last - first >= 1 or last == it.until:
                about = f"{steps}: {what}, {duration(last - first)}"
                bars.append((f"{colour} {what}", (first - begin) * share, (last - first) * share, about))
                legend[what] = colour
    ends = [local_time(begin), duration(end - begin), "now" if found.row.state == "RUNNING" else local_time(end)]
    return part("time_line", bars=bars, entries=legend.items(), ends=ends)


def _by_step(findings: Sequence[Finding]) -> Iterator[Markup]:
    """A chart for each quantity with results at several steps, with a line for each choice of settings."""
    for _, quantity in registry.quantities():
        groups: dict[str, dict[int, Finding]] = {}
        for it in findings:
            if it.quantity.key == quantity.key and math.isfinite(it.result.number.value):
                groups.setdefault(f"{it.of}, {it.result.how}", {})[it.step] = it
        several = {label: group for label, group in groups.items() if len(group) > 1}
        lines = [
            Line(
                label=label,
                points=[(step, it.result.number.value) for step, it in group.items()],
                errors=[it.result.number.stderr for it in group.values()],
                **unlike(place),
            )
            for place, (label, group) in enumerate(several.items())
        ]
        truths = {it.truth for group in several.values() for it in group.values() if it.truth is not None}
        if len(truths) == 1:
            level, steps = truths.pop(), [step for group in several.values() for step in group]
            lines.append(Line(label="true entropy", points=[(min(steps), level), (max(steps), level)], colour=SOFT))
        yield chart(f"{quantity.label}, by step", lines)


def _remarks(row: RunStatus) -> Iterator[Markup]:
    """Which evaluations are not complete, and what is unusual about results, each text once."""
    about: dict[str, list[str]] = {}
    for entry in row.evals:
        state = f"{entry['state'].lower()}, {entry['shards_done']} of {entry['shards']} shards"
        for remark in [*([state] if entry["state"] != "FINISHED" else []), *entry["remarks"]]:
            about.setdefault(remark, []).append(entry["id"])
    for remark, names in about.items():
        yield text(f"{', '.join(names) if len(names) <= 3 else f'{len(names)} evaluations'}: {remark}")
    if not row.evals:
        yield text("There are no evaluations.")


def _sweeps(run: RunFolder, row: RunStatus) -> Iterator[Section]:
    """The sweeps of evaluations that can be read, oldest first."""
    for entry in row.sweeps:
        if (sweep := Sweep.load(run.evals / entry["id"])) is not None:
            cells = rows(run, sweep)
            keys, names = keys_of(cells), [axis.key for axis in sweep.axes]
            nfe = [{f"{cell[f'{key}_nfe']:,.0f}" for key in keys if cell[f"{key}_nfe"] is not None} for cell in cells]
            columns = {
                **{name: [str(cell[name]) for cell in cells] for name in names},
                **{registry.quantity(key).label: [_cell(cell, key) for cell in cells] for key in keys},
                "NFE": [", ".join(sorted(texts)) or "-" for texts in nfe],
            }
            done = f"{entry['id']}: {entry['done']} of {len(entry['evaluations'])} evaluations are complete"
            found = table(f"Results by {' and '.join(names)}", columns)
            charts = [_swept(sweep, cells, key) for key in keys]
            yield Section(f"Sweep over {' and '.join(names)}", [*charts, found, text(done)])


def _cell(cell: Mapping[str, Any], key: str) -> str:
    return "-" if cell[key] is None else cell_text(registry.quantity(key), cell)


def _swept(sweep: Sweep, cells: Sequence[Mapping[str, Any]], key: str) -> Markup:
    """A result against the last axis, a line for each choice on the others."""
    along, lines = sweep.axes[-1], []
    for place, (label, all_cells) in enumerate(lines_of(sweep, cells).items()):
        known = [cell for cell in all_cells if cell[key] is not None and math.isfinite(cell[key])]
        points = [(along.values.index(cell[along.key]), cell[key]) for cell in known]
        errors = [cell[f"{key}_stderr"] for cell in known]
        lines.append(Line(label=label, points=points, errors=errors, **unlike(place)))
    return chart(f"{registry.quantity(key).label}, by {along.key}", lines, along.values)


def _tunings(row: RunStatus) -> list[Markup]:
    entries = sorted(row.tunings, key=lambda it: (it["nfe"], it["checkpoint_step"], it["id"]))
    caption = "Root mean square distance from the network's own flow per coordinate, on held-out noise"
    return [table(caption, tuning_columns(entries))] if entries else []


def _curves(curves: Mapping[str, Points]) -> Iterator[Markup]:
    """The curves of the training but its loss: one chart of the losses by time, and one for each other tag."""
    tags = sorted((tag for tag in curves if not tag.rpartition(": ")[2].startswith(_EVALUATIONS)), key=place_of)
    by_time = {words_of(tag).removeprefix("loss at "): curves[tag] for tag in tags if tag.startswith(_BY_TIME)}
    yield overlay("loss by time t, without weights", by_time, is_ordered=True)
    others = {words_of(tag): curves[tag] for tag in tags if tag != LOSS and not tag.startswith(_BY_TIME)}
    constant = [
        f"{words} {number(points[-1][1])}" for words, points in others.items() if points and is_constant(points)
    ]
    for words, points in others.items():
        if not is_constant(points):
            yield curve(words, points)
    if constant:
        yield text(f"Constant: {', '.join(constant)}.")


def place_of(tag: str) -> tuple[bool, float, str]:
    """Where the curve of a tag stands: those of the training first, losses by time in the order of time."""
    begin = tag.removeprefix(_BY_TIME).partition("_")[0] if tag.startswith(_BY_TIME) else "-1"
    return not tag.startswith("train/"), float(begin), tag


def words_of(tag: str) -> str:
    """A tag of TensorBoard for people."""
    name = tag.removeprefix("train/").replace("loss_at_t/", "loss at t ").replace("_", " ")
    return _WORDS.get(tag, name)


def is_constant(points: Points) -> bool:
    """Whether a curve would be a level line."""
    values = [value for _, value in points] or [0.0]
    return max(values) - min(values) <= _CONSTANT * max(abs(value) for value in values)


def shipped(run: RunFolder) -> tuple[str | None, Recipe | None]:
    """The shipped recipe that a run is made from, and its name; None if it is another one, or cannot be read."""
    try:
        name = run.identity().get("recipe") or run.recipe().name
        return (name, load(recipe_files()[name]).anchored(Path.cwd())) if name in recipe_files() else (None, None)
    except (CldError, OSError):
        return None, None


def differing(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The columns of a table: the keys that are not the same in all of these recipes, and their values in each."""
    flat = {name: leaves(recipe) for name, recipe in recipes.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values if key != "name")
    texts = {key: [one_line(to_yaml_line(values.get(key)), 120) for values in flat.values()] for key in keys}
    found = {key: values for key, values in texts.items() if len(set(values)) > 1}
    return {"key": list(found)} | {name: [it[place] for it in found.values()] for place, name in enumerate(flat)}


def _recipe(run: RunFolder) -> Iterator[Markup]:
    """The recipe as a difference to the shipped one, and in full."""
    try:
        recipe = run.recipe()
    except (CldError, OSError) as error:
        yield text(f"The recipe cannot be read: {one_line(error, 1000)}")
        return
    name, other = shipped(run)
    if name is not None and other is not None:
        columns = differing({"this run": recipe.to_dict(), name: other.to_dict()})
        summary = f"{keys_differ(len(columns['key']))} from the shipped recipe {name}"
        yield table(summary, columns) if columns["key"] else text(f"{summary}.")
    yield part("folded", summary="The whole recipe", content=dump(recipe))


def _facts(run: RunFolder, found: Why) -> Markup:
    """Versions, code and machines, in words."""
    row, identity = found.row, run.identity()
    last = found.history.last if row.is_readable else None
    git = identity.get("git") or {}
    versions = {**identity.get("versions", {}), **(last.versions if last is not None else {})}
    facts = {
        "recipe": row.recipe,
        "created": " by ".join(filter(None, (local_time(row.created, unknown=""), row.user))),
        "submitted from": identity.get("host"),
        "group": " ".join([row.group or "", *(f"{key}={value}" for key, value in row.sweep.items())]).strip(),
        "newest checkpoint": row.checkpoint_step and f"step {count(row.checkpoint_step)}",
        "used": row.usage and usage_line(row.usage),
        "commit": git.get("commit") and f"{str(git['commit'])[:12]}{' with changes' if git.get('dirty') else ''}",
        "code": row.code if row.code == "live" else (row.code or "")[:12],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machines": ", ".join(dict.fromkeys(last.hosts) if last is not None else ()) or row.host,
        "GPU": last and last.gpu,
        "driver": last and last.driver,
        "folder": str(run.path),
    }
    known = {name: str(value) for name, value in facts.items() if value}
    return table("As the ledger of the run has it", {"fact": list(known), "value": list(known.values())})

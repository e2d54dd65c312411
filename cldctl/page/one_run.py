"""The page of a run: how it stands, its results, samples and curves, and how it was made."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cld_core import metrics as registry
from cld_core.config import Recipe, dump, load
from cld_core.config.loader import to_yaml_line
from cld_core.config.schema import leaves
from cld_core.config.shipped import recipes
from cld_core.config.train import EmaSpec
from cld_core.digests import digest
from cld_core.errors import CldError
from cld_core.evaluate.published import published
from cld_core.run import RunFolder
from cld_core.run.evaluations import Sweep
from cld_core.run.history import Attempt
from cld_core.sanitize import local_time, one_line
from cld_core.version import __version__
from cldctl.evals.compare import Result, best_of, results_of
from cldctl.evals.table import keys_of, lines_of, rows
from cldctl.runs.selection import command
from cldctl.runs.status import RunStatus
from cldctl.runs.why import Why, why
from cldctl.show.console import age, count, duration, keys_differ, number
from cldctl.show.evaluations import cell_text, result_text, tuning_columns
from cldctl.show.runs import failed_first
from cldctl.show.tables import attempt_columns, usage_line

from .curves import LOSS, Points, is_inside, read
from .document import Section, chart, code, colour_of, gallery, part, render, table, text

# The states that a run enters only with a line in its ledger. Into the others, a scheduler alone can take it.
_WRITTEN = ("FINISHED", "CANCELLED")
# The mark of a page is among its first bytes.
_HEAD_BYTES = 1024
# A smaller difference than this share of a value is none.
_CONSTANT = 0.005
# Losses by time, and the tags of results, which have charts of their own.
_BY_TIME, _EVALUATIONS = "train/loss_at_t/", "evaluation/"
# The states in which an error of the past is the news, and how many of its last words are shown.
_FAILED, _LAST_LINES = ("FAILED", "LOST", "STOPPED"), 8
_TUNED = "Root mean square distance from the network's own flow per coordinate, on held-out noise"
_WORDS = {
    "train/grad_norm": "norm of the gradient",
    "train/lr": "learning rate",
    "train/first_step_s": "seconds to the first step",
    "train/data_wait_s": "seconds waiting for data",
    "train/memory_gib": "memory, GiB",
    "train/steps_per_s": "steps per second",
    "periodic/nfe": "network evaluations of a sample",
}


def page_of(run: RunFolder) -> Path:
    """Where `cldctl report` writes the page of a run."""
    return run.path / "report.html"


def has_page(run: RunFolder) -> bool:
    return page_of(run).is_file() and not page_of(run).is_symlink()


def is_up_to_date(run: RunFolder, row: RunStatus, *, follow: bool) -> bool:
    """Whether the page of a run is there and shows what ``row`` and the files of the run tell.

    Args:
        follow: whether the page is to show folders that links lead out of the run to.
    """
    if row.state not in _WRITTEN or row.is_evaluating or not has_page(run):
        return False
    with page_of(run).open("rb") as file:
        return _mark(row, _files(run), follow).encode() in file.read(_HEAD_BYTES)


def _mark(row: RunStatus, files: Sequence[Any], follow: bool) -> str:
    """What made a page, and a digest of what it shows."""
    states = [row.state, sorted((entry["id"], entry["state"]) for entry in (*row.evals, *row.tunings))]
    return f"cldctl {__version__} {digest([states, files, follow])}"


def _files(run: RunFolder) -> list[Any]:
    """Size and time of what a page is made of: the files of a run down to those of its evaluations."""
    found: list[Any] = []
    for file in sorted(file for pattern in ("*", "*/*", "*/*/*") for file in run.path.glob(pattern)):
        with contextlib.suppress(OSError):
            if file != page_of(run) and not file.name.startswith("."):
                found.append([str(file), file.stat().st_size, file.stat().st_mtime_ns])
    return found


def page(run: RunFolder, *, follow: bool = False) -> str:
    """The whole page as text; it refers to nothing outside.

    Args:
        follow: also read folders that links lead out of the run to.
    """
    # What changes after this is in the next page.
    files = _files(run)
    found = why(run)
    row, results = found.row, readable_results(run)
    recipe = shipped(run)
    best, curves, pictures = best_of(results), read(run, follow=follow), gallery(run, follow=follow)
    swept = {name for entry in row.sweeps for name in entry["evaluations"]}
    alone = [it for it in results if it.evaluation not in swept]
    evaluations = {"evaluation": [it.evaluation for it in alone], **result_columns(alone)}
    tunings = sorted(row.tunings, key=lambda it: (it["nfe"], it["checkpoint_step"], it["id"]))
    attempts = table("Attempts, oldest first", attempt_columns(found.attempts, local_time))
    loss = chart("loss", {"loss": curves.get(LOSS, [])}) or text("No loss has been recorded.")
    sections = [
        Section("", _verdict(found, best, follow), "lines"),
        Section("", [*(_tile(it, recipe.name if recipe else "") for it in best), *_effort(row)], "tiles"),
        Section("", [loss, *pictures[:1]], "pair"),
        Section("", [_outside(run, follow)]),
        Section("Attempts", [_time_line(found), attempts] if attempts else [text("There are no attempts yet.")]),
        Section("Evaluations", [*_by_step(results), table("Evaluations, by step", evaluations), *_remarks(row)]),
        *_sweeps(run, row),
        Section("Tuned samplers", [table(_TUNED, tuning_columns(tunings))]),
        Section("Curves", _curves(curves)),
        Section("Samples", pictures[1:]),
        Section("Recipe", _recipe(run)),
        Section("Code and machines", [_facts(run, found)]),
    ]
    pills = [(row.state, colour_of(row.state)), *((tag, "dim") for tag in row.tags)]
    return render(run.name, _mark(row, files, follow), pills, sections)


def readable_results(run: RunFolder) -> list[Result]:
    """The results of all finished evaluations, by step; none if the recipe cannot be read."""
    with contextlib.suppress(CldError, OSError):
        return sorted(results_of(run), key=lambda it: (it.step, it.evaluation))
    return []


def result_columns(results: Sequence[Result]) -> dict[str, list[str]]:
    """The columns of a table of results."""
    truths = ["" if it.truth is None else f" (true entropy {it.truth:.{it.quantity.digits}f})" for it in results]
    return {
        "step": [count(it.step) for it in results],
        "number": [it.quantity.label for it in results],
        "value": [value_of(it) + truth for it, truth in zip(results, truths, strict=True)],
        "of": [it.of or "-" for it in results],
        "network evaluations": ["-" if it.number.nfe is None else f"{it.number.nfe:,.0f}" for it in results],
        "settings": [it.how for it in results],
    }


def value_of(it: Result) -> str:
    return result_text(it.quantity, it.number.value, it.number.stderr)


def _verdict(found: Why, best: Sequence[Result], follow: bool) -> Iterator[Markup]:
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
        sentence += f" Best {name}: {f'{value_of(best[0])} {unit}'.strip()}."
    yield text(sentence, "verdict")
    if row.steps:
        bar = Markup('<progress max="{}" value="{}" aria-label="steps done"></progress>')
        yield bar.format(row.steps, min(row.step, row.steps))
    if row.state in _FAILED and (failed := found.failed) is not None:
        who = failed_first(failed)
        reason = f": {one_line(failed.reason, 300)}" if failed.reason else "."
        yield text(f"{who[0].upper()}{who[1:]}{reason}", "red")
        if failed.file is not None and is_inside(run, failed.file.parent, follow=follow):
            yield part("folded", summary="Last output", content="\n".join(failed.lines[-_LAST_LINES:]))
    # What the page is or shows needs no advice.
    own = (run.evals / it.evaluation / "samples.png" for it in best if it.step == row.step)
    has_samples = any(run.samples.glob(f"step_{row.step:08d}*.png")) or any(file.exists() for file in own)
    there = ("report ", "sample ") if has_samples else ("report ",)
    following = [code(command(words, run)) for words in found.next if not words.startswith(there)]
    if following or found.do:
        yield text(Markup(" ").join(filter(None, ["Next:", found.do, *following])))
    yield text(row.note or "", "note")
    for warning in (*row.changes, *row.problems):
        yield text(warning, "warning")


def _outside(run: RunFolder, follow: bool) -> Markup:
    """Which folders are left out; empty if none is."""
    folders = [run.tensorboard, run.samples, run.evals, run.logs]
    links = [folder for folder in (*run.evals.glob("*"), *run.tensorboard.glob("*")) if folder.is_symlink()]
    names = [str(it.relative_to(run.path)) for it in (*folders, *links) if not is_inside(run, it, follow=follow)]
    what = f"Left out, because a link leads out of the run: {', '.join(names)}. Add --follow-links to read it."
    return text(what if names else "")


def _tile(best: Result, recipe: str) -> Markup:
    """A result beside the true entropy, or the published value of its recipe."""
    known, digits = published(recipe, best.quantity.key), best.quantity.digits
    beside = "" if known is None else f"published {'≤ ' if known.bound else ''}{known.value:g} ({known.how})"
    if best.truth is not None:
        beside = f"true entropy {best.truth:.{digits}f}, gap {best.number.value - best.truth:.{digits}f}"
    nfe = "" if best.number.nfe is None else f"{best.number.nfe:,.0f} NFE"
    about = [f"step {best.step:,}", EmaSpec(length=best.ema_length).words, best.of, nfe]
    return part("tile", label=best.quantity.label, value=value_of(best), about=[beside, ", ".join(filter(None, about))])


def _effort(row: RunStatus) -> Iterator[Markup]:
    """The loss, and what the training took."""
    if row.shown_loss is not None:
        about = f"step {count(row.step)}; last loss {number(row.loss)}"
        yield part("tile", label="loss (smoothed)", value=number(row.shown_loss), about=[about])
    used, _, about = usage_line(row.usage).partition(": ")
    if about:
        yield part("tile", label="used", value=used, about=[about])


def _time_line(found: Why) -> Markup:
    """The attempts against time, coloured by the state in which they left the run."""
    stretches = found.stretches
    begin, last = min(it.began - it.waited_s for it in stretches), max(it.until for it in stretches)
    share = 100 / max(last - begin, 1e-3)
    bars, legend = [], {}
    for it, state, end in found.ends:
        attempt = it.attempt
        steps = f"attempt {attempt.attempt}, steps {count(attempt.first_step)} to {count(attempt.last_step)}"
        for what, since, until, colour in (
            ("queued", it.began - it.waited_s, it.began, "dim"),
            ("starting", it.began, it.started, "blue"),
            (end, it.started, it.until, colour_of(state)),
        ):
            if until - since >= 1 or until == it.until:
                about = f"{steps}: {what}, {duration(until - since)}"
                bars.append((f"{colour} {what}", (since - begin) * share, (until - since) * share, about))
                legend[what] = f"var(--{colour})"
    ends = [local_time(begin), duration(last - begin), "now" if found.row.state == "RUNNING" else local_time(last)]
    return part("time_line", bars=bars, entries=legend.items(), ends=ends)


def _by_step(results: Sequence[Result]) -> Iterator[Markup]:
    """A chart for each quantity with results at several steps, with a line for each choice of settings."""
    for _, quantity in registry.quantities():
        lines: dict[str, dict[int, tuple[float, ...]]] = {}
        own = [it for it in results if it.quantity.key == quantity.key and math.isfinite(it.number.value)]
        for it in own:
            point = it.step, it.number.value, it.number.stderr or math.nan
            lines.setdefault(f"{it.of}, {it.how}", {})[it.step] = point
        several = {label: list(points.values()) for label, points in lines.items() if len(points) > 1}
        truths = {it.truth for it in own}
        yield chart(f"{quantity.label}, by step", several, truth=truths.pop() if len(truths) == 1 else None)


def _remarks(row: RunStatus) -> Iterator[Markup]:
    """Which evaluations are not complete, and what is unusual about results, each text once."""
    about: dict[str, list[str]] = {}
    for entry in row.evals:
        state = f"{entry['state'].lower()}, {entry['shards_done']} of {entry['shards']} shards"
        for remark in entry["remarks"] if entry["state"] == "FINISHED" else [state, *entry["remarks"]]:
            about.setdefault(remark, []).append(entry["id"])
    for remark, names in about.items():
        yield text(f"{', '.join(names) if len(names) <= 3 else f'{len(names)} evaluations'}: {remark}")
    yield text("" if row.evals else "There are no evaluations.")


def _sweeps(run: RunFolder, row: RunStatus) -> Iterator[Section]:
    """The sweeps of evaluations that can be read, oldest first."""
    for entry in row.sweeps:
        if (sweep := Sweep.load(run.evals / entry["id"])) is not None:
            cells, names = rows(run, sweep), [axis.key for axis in sweep.axes]
            keys = keys_of(cells)
            nfe = [{f"{cell[f'{key}_nfe']:,.0f}" for key in keys if cell[f"{key}_nfe"] is not None} for cell in cells]
            columns = {name: [cell[name] for cell in cells] for name in names}
            for it in map(registry.quantity, keys):
                columns[it.label] = ["-" if cell[it.key] is None else cell_text(it, cell) for cell in cells]
            columns["NFE"] = [", ".join(sorted(texts)) or "-" for texts in nfe]
            done = f"{entry['id']}: {entry['done']} of {len(entry['evaluations'])} evaluations are complete"
            found = table(f"Results by {' and '.join(names)}", columns)
            charts = [_swept(sweep, cells, key) for key in keys]
            yield Section(f"Sweep over {' and '.join(names)}", [*charts, found, text(done)])


def _swept(sweep: Sweep, cells: Sequence[Mapping[str, Any]], key: str) -> Markup:
    """A result against the last axis, a line for each choice on the others."""
    along, lines = sweep.axes[-1], {}
    known = [cell for cell in cells if cell[key] is not None and math.isfinite(cell[key])]
    for label, own in lines_of(sweep, known).items():
        lines[label] = [(along.values.index(it[along.key]), it[key], it[f"{key}_stderr"] or math.nan) for it in own]
    return chart(f"{registry.quantity(key).label}, by {along.key}", lines, names=along.values)


def _curves(curves: Mapping[str, Points]) -> Iterator[Markup]:
    """The curves of the training but its loss: one chart of the losses by time, and one for each other tag."""
    ranges = [tag.removeprefix(_BY_TIME) for tag in curves if tag.startswith(_BY_TIME)]
    ranges.sort(key=lambda it: float(it.partition("_")[0]))
    by_time = {f"t {it.replace('_', ' ')}": curves[f"{_BY_TIME}{it}"] for it in ranges}
    yield chart("loss by time t, without weights", by_time, is_ordered=True)
    yield from other_charts({"": curves})


def other_charts(curves: Mapping[str, Mapping[str, Points]]) -> Iterator[Markup]:
    """The curves but losses and results, those of the training first: a chart for each, of several runs for each that
    more than one has. Those that are constant are listed for one run, and left out for several.
    """
    # An attempt that began again may have no points yet.
    tags = {tag for own in curves.values() for tag, points in own.items() if points}
    tags = {tag for tag in tags if not tag.startswith(LOSS) and _EVALUATIONS not in tag}
    constant = []
    for tag in sorted(tags, key=lambda tag: (not tag.startswith("train/"), tag)):
        words = _WORDS.get(tag, tag.removeprefix("train/").replace("_", " "))
        members = {run: own.get(tag, ()) for run, own in curves.items()}
        known = [[value for _, value in points] for points in members.values() if points]
        if all(max(values) - min(values) <= _CONSTANT * max(map(abs, values)) for values in known):
            constant.append(f"{words} {number(known[-1][-1])}")
        elif len(known) > 1 or len(curves) == 1:
            yield chart(words, members)
    if constant and len(curves) == 1:
        yield text(f"Constant: {', '.join(constant)}.")


def shipped(run: RunFolder) -> Recipe | None:
    """The shipped recipe that a run is made from; None if it is another one, or cannot be read."""
    with contextlib.suppress(CldError, OSError):
        file = recipes().get(run.identity().get("recipe") or run.recipe().name)
        return None if file is None else load(file, with_plugins=False).anchored(Path.cwd())
    return None


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
    if (other := shipped(run)) is not None:
        columns = differing({"this run": recipe.to_dict(), other.name: other.to_dict()})
        summary = f"{keys_differ(len(columns['key']))} from the shipped recipe {other.name}"
        yield table(summary, columns) or text(f"{summary}.")
    yield part("folded", summary="The whole recipe", content=dump(recipe))


def software(run: RunFolder, attempts: Sequence[Attempt]) -> dict[str, str]:
    """The commit, and the versions that the newest attempt ran with."""
    identity = run.identity()
    git = identity.get("git") or {}
    versions = next((it.versions for it in reversed(attempts) if it.versions), None) or identity.get("versions", {})
    return {
        "commit": f"{str(git['commit'])[:12]}{', with changes' if git.get('dirty') else ''}" if "commit" in git else "",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _facts(run: RunFolder, found: Why) -> Markup:
    """Versions, code and machines, in words."""
    row = found.row
    attempts = found.history.attempts if row.is_readable else ()
    last = attempts[-1] if attempts else None
    facts = {
        "recipe": row.recipe,
        "created": " by ".join(filter(None, (local_time(row.created, unknown=""), row.user))),
        "submitted from": run.identity().get("host"),
        "group": " ".join([row.group or "", *(f"{key}={value}" for key, value in row.sweep.items())]).strip(),
        "newest checkpoint": row.checkpoint_step and f"step {count(row.checkpoint_step)}",
        "used": usage_line(row.usage),
        "code": row.code if row.code == "live" else (row.code or "")[:12],
        **software(run, attempts),
        "machines": ", ".join(dict.fromkeys(last.hosts) if last is not None else ()) or row.host,
        "GPU": last and last.gpu,
        "driver": last and last.driver,
        "folder": str(run.path),
    }
    return table("As the ledger of the run has it", fact_columns(facts))


def fact_columns(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """The columns of a table of facts; what is not known is left out."""
    known = {name: str(value) for name, value in facts.items() if value}
    return {"fact": list(known), "value": list(known.values())}

"""The page of a run: facts, curves, samples, evaluations, sweeps, attempts, recipe."""

import base64
import os
import time
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from cld_core.evaluation import registry
from cld_core.evaluation.sweeps import Sweep
from cld_core.run import RunFolder
from cld_core.small_files import by_age, read_bytes
from cldctl.evals.table import keys_of
from cldctl.evals.table import rows as sweep_rows
from cldctl.runs.status import RunStatus
from cldctl.ui.format import count, number
from cldctl.ui.tables import ATTEMPT_HEADINGS, attempt_cells, present_in, result_of, result_text
from cldctl.ui.usage import usage_line

from . import svg
from .curves import Board, read

# The newest pictures of `samples/` that are shown.
_PICTURES = 6
# At most so many evaluations are shown with their samples, and so large a picture.
_EVALUATIONS = 100
_PICTURE_BYTES = 16 * 2**20
_PNG = b"\x89PNG\r\n\x1a\n"
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ink: #2563eb; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; }
h1 { margin-bottom: 0 } h2 { margin-top: 2em; border-bottom: 1px solid var(--line) }
table { border-collapse: collapse; margin: .6em 0 } td, th { padding: .2em .9em .2em 0; text-align: left;
vertical-align: top; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums }
.grid-of { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1em }
svg text { font: 11px system-ui, sans-serif; fill: currentColor } svg .title { font-weight: 600; font-size: 13px }
svg .grid { stroke: var(--line) } svg .curve { fill: none; stroke: var(--ink); stroke-width: 1.5 }
svg .dot { fill: var(--ink) } figure { margin: 0 } figure img { max-width: 100% } figcaption { font-size: 13px }
pre { overflow-x: auto; font-size: 13px } .dim { opacity: .7 }
"""


def page(run: RunFolder, row: RunStatus) -> str:
    """The whole page as text; it refers to nothing outside."""
    board = read(run.tensorboard)
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime())
    body = [
        f'<h1>{escape(run.name)}</h1><p class="dim">{escape(str(run.path))}, written {made}</p>',
        _facts(run, row),
        _section("Curves", _curves(board)),
        _section("Samples", _samples(run, board)),
        _section("Evaluations", _evaluations(row.evals)),
        *(_section(f"Sweep {entry['id']}", _sweep(run, entry["id"])) for entry in row.sweeps),
        _section("Attempts", _table(ATTEMPT_HEADINGS, attempt_cells(row.attempts)) if row.attempts else ""),
        _section("Recipe", f"<pre>{escape(_recipe(run))}</pre>"),
    ]
    head = f'<meta charset="utf-8"><title>{escape(run.name)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _facts(run: RunFolder, row: RunStatus) -> str:
    identity = run.identity()
    git = identity.get("git") or {}
    commit = f"{str(git.get('commit', ''))[:12]}{' and changes' if git.get('dirty') else ''}" if git else "unknown"
    facts = {
        "state": row.state + (f": {row.reason}" if row.reason else ""),
        "step": f"{count(row.step)} of {count(row.steps)}",
        "loss": number(row.loss, 5),
        "newest checkpoint": "none" if row.checkpoint_step is None else f"step {count(row.checkpoint_step)}",
        "recipe": row.recipe or "-",
        "usage": "-" if row.usage is None else usage_line(row.usage),
        "commit": commit,
        "host": row.host or "-",
    }
    if row.tags:
        facts["tags"] = " ".join(row.tags)
    if row.note is not None:
        facts["note"] = row.note
    return _table((), facts.items())


def _curves(board: Board) -> str:
    order = sorted(board.scalars, key=lambda tag: (tag != "train/loss", not tag.startswith("train/"), tag))
    drawn = [svg.curve(tag, [(float(step), value) for step, value in board.scalars[tag]]) for tag in order]
    return f'<div class="grid-of">{"".join(drawn)}</div>' if drawn else ""


def _samples(run: RunFolder, board: Board) -> str:
    files = by_age(_inside(run, run.samples.glob("*.png")))[-_PICTURES:]
    shown = [_picture(file.stem, _content(file)) for file in reversed(files)]
    for tag, (step, content) in board.pictures.items():
        shown.append(_picture(f"{tag}, step {step:,}", content))
    for file in sorted(_inside(run, run.evals.glob("*/samples.png")))[-_EVALUATIONS:]:
        shown.append(_picture(file.parent.name, _content(file)))
    return f'<div class="grid-of">{"".join(shown)}</div>' if shown else ""


def _evaluations(evals: Sequence[dict[str, Any]]) -> str:
    quantities = present_in(evals)
    headings = ["evaluation", "state", "step", *(quantity.label for quantity in quantities)]
    ordered = sorted(evals, key=lambda entry: (entry["checkpoint_step"], entry["id"]))
    rows = [
        [
            entry["id"],
            entry["state"],
            count(entry["checkpoint_step"]),
            *(result_of(entry, quantity) for quantity in quantities),
        ]
        for entry in ordered
    ]
    remarks = (f"<p>{escape(entry['id'])}: {escape(text)}</p>" for entry in ordered for text in entry["remarks"])
    return _table(headings, rows) + "".join(remarks) if rows else ""


def _sweep(run: RunFolder, name: str) -> str:
    sweep = Sweep.load(run.evals / name)
    if sweep is None:
        return ""
    table = sweep_rows(run, sweep)
    quantities = [registry.quantity(key) for key in keys_of(table)]
    rows = []
    for row in table:
        numbers = [(quantity, row[quantity.key], row[f"{quantity.key}_stderr"]) for quantity in quantities]
        results = ["-" if value is None else result_text(quantity, value, error) for quantity, value, error in numbers]
        rows.append([*(str(row[axis.key]) for axis in sweep.axes), *results])
    plot = run.evals / name / "plot.png"
    shown = [_picture(name, _content(file)) for file in _inside(run, [plot]) if os.path.lexists(file)]
    headings = [*(axis.key for axis in sweep.axes), *(quantity.label for quantity in quantities)]
    return _table(headings, rows) + "".join(shown)


def _recipe(run: RunFolder) -> str:
    from cld_core.recipe import dump

    return dump(run.recipe())


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>" + (content or '<p class="dim">none</p>')


def _table(headings: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _inside(run: RunFolder, files: Iterable[Path]) -> list[Path]:
    """Those of ``files`` that no link of a folder takes out of the run: a page is for showing around."""
    home = run.path.resolve()
    return [file for file in files if file.parent.resolve().is_relative_to(home)]


def _content(file: Path) -> bytes:
    """What is in a picture; empty if it cannot be read, is a link, or is larger than any picture of a run."""
    try:
        return read_bytes(file, limit=_PICTURE_BYTES)
    except OSError:
        return b""


def _picture(caption: str, content: bytes) -> str:
    """A picture with its caption. Anything but a PNG is left out: a run folder must not smuggle files into a page."""
    if not content.startswith(_PNG):
        return f"<figure><figcaption>{escape(caption)}: not a picture</figcaption></figure>"
    data = base64.b64encode(content).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"

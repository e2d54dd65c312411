"""The tables of docs/results.md with trained networks and published numbers.

They are made of stored results:

    cldctl bench samplers mixed --nfe 10,20,50 --samples 5000 --seeds 3 --follow
    make samplers-docs RUNS="runs/mixed runs/plain"

Each run's newest complete comparison replaces what is between `<!-- trained: begin -->` and `<!--
trained: end -->`. Without runs, only the published numbers are written.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from cld_core.errors import CldError
from cld_core.evaluate.published import PublishedSampler, published_samplers
from cld_core.metrics import Quantity
from cld_core.run import RunFolder
from cld_core.run.evaluations import Sweep, sweeps_of
from cldctl.evals import samplers
from cldctl.evals.results import SweptResults, is_complete, results_in, rows
from cldctl.evals.samplers import NFE, SAMPLER

PAGE = Path(__file__).parent.parent / "docs" / "results.md"


def replaced(page: str, name: str, text: str) -> str:
    """A page with ``text`` between its markers ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.

    Raises:
        ValueError: a marker is missing.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, found, rest = page.partition(begin)
    _, also, after = rest.partition(end)
    if not (found and also):
        raise ValueError(f"the page has no {begin.strip()} with {end.strip()} below it")
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"


def newest(run: RunFolder) -> Sweep:
    """The newest complete comparison of the samplers of a run.

    Raises:
        ValueError: it has none.
    """
    compared = [
        sweep for _, sweep in sweeps_of(run) if [axis.key for axis in sweep.axes] == [SAMPLER, NFE]
    ]
    complete = [sweep for sweep in compared if is_complete(run, sweep)]
    if not complete:
        raise ValueError(
            f"{run.path} has no complete comparison: `cldctl bench samplers {run.name} --follow`"
        )
    return complete[-1]


def trained(run: RunFolder) -> str:
    """The table of a run: samplers by number of evaluations, with all results in a cell."""
    sweep = newest(run)
    table = rows(run, sweep)
    quantities = results_in(table)
    best = samplers.best(run, sweep, table)
    lines: dict[str, list[str]] = {}
    for number, row in enumerate(table):
        marked = {key for key, place in best if place == number}
        lines.setdefault(row.values[SAMPLER], []).append(_cell(row, quantities, marked))
    heads = [f"NFE {value}" for value in sweep.axes[-1].values]
    body = [f"| {' | '.join([f'`{name}`', *cells])} |" for name, cells in lines.items()]
    about = f"**{run.name}**, step {table[0].step:,}: {' / '.join(it.label for it in quantities)}."
    return "\n".join(
        [about, "", *_head(["sampler", *heads]), *body, "", _errors(table, quantities)]
    )


def _cell(row: SweptResults, quantities: Sequence[Quantity], marked: set[str]) -> str:
    """The results of a cell; the best are bold."""
    texts = []
    for quantity in quantities:
        number = row.numbers[quantity.key]
        if number is None:
            text = "-"
        elif math.isfinite(number.value):
            text = f"{number.value:.{quantity.digits}f}"
        else:
            text = "diverges"
        texts.append(f"**{text}**" if quantity.key in marked else text)
    return " / ".join(texts)


def _errors(table: Sequence[SweptResults], quantities: Sequence[Quantity]) -> str:
    """The median of the standard errors of each result, in a sentence."""
    said = []
    for quantity in quantities:
        numbers = [row.numbers[quantity.key] for row in table]
        errors = sorted(
            number.stderr for number in numbers if number is not None and number.stderr is not None
        )
        if errors:
            said.append(f"{errors[len(errors) // 2]:.2g} ({quantity.label})")
    return f"Standard errors, medians over the cells: {', '.join(said)}." if said else ""


def references(run: RunFolder) -> str:
    """What the samples could reach, in a sentence."""
    known = samplers.references(run, newest(run))
    said = []
    if "w2_floor" in known:
        said.append(
            f"Two true sets are {known['w2_floor']:.4f} ± {known['w2_floor_stderr']:.4f} apart."
        )
    if "true_density" in known:
        said.append(f"The truth has {known['true_density']:.3f} nats.")
    return " ".join(said)


def published(known: Sequence[PublishedSampler]) -> str:
    """The published numbers as a table."""
    body = [
        (
            f"| {it.model} | {it.sampler} | {'-' if it.nfe is None else f'{it.nfe:,}'} "
            f"| {it.fid:.2f} | {it.source} |"
        )
        for it in known
    ]
    return "\n".join([*_head(["model", "sampler", "NFE", "FID", "source"]), *body])


def _head(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", f"| {' | '.join('--' for _ in names)} |"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, help="run folders with a complete `cldctl bench samplers`"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to change")
    arguments = parser.parse_args()
    text = replaced(
        arguments.page.read_text(), "published", published(published_samplers("cifar10"))
    )
    try:
        runs = [RunFolder.open(path) for path in arguments.runs]
        if runs:
            text = replaced(
                text, "trained", "\n\n".join([references(runs[0]), *map(trained, runs)])
            )
    except (CldError, ValueError) as error:
        parser.error(str(error))
    arguments.page.write_text(text)


if __name__ == "__main__":
    main()

"""Samplers on the diamond at equal numbers of network evaluations.

    python -m benchmarks.samplers --help

Without arguments: the table of docs/results.md with exact scores. `--families --sde
psld`: the other methods. `--search` tries grids, orders and noise; `--run` adds networks trained on
the diamond, mixed or not, for example

    cldctl submit toy_diamond --cluster local --follow --name plain train.steps=25000
    python -m benchmarks.samplers --run runs/plain
"""

import argparse
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from yaml import safe_load

import cld_core
from benchmarks import harness
from benchmarks.diamond import TRUE_LOG_DENSITY, Bench, Case, NoSplit, Quality, exact, floor
from cld_core.config.registry import SECTIONS
from cld_core.sde import CLD, HOLD, PSLD, VPSDE, Diffusion

# Names of the tables, and settings as in a recipe.
ROWS = {
    "EM, quadratic": "method=em grid=quadratic",
    "SSCS, quadratic": "method=sscs grid=quadratic",
    "SSCS of order 2, quadratic": "method=sscs sscs_order=2 grid=quadratic",
    "exponential, order 0, power 6": "method=exponential corrector=false order=0",
    "exponential, order 1, power 6": "method=exponential corrector=false order=1",
    "exponential, order 2, quadratic": (
        "method=exponential corrector=false order=2 grid=quadratic"
    ),
    "exponential, order 2, power 6": "method=exponential corrector=false order=2",
    "exponential, order 3, power 3": "method=exponential corrector=false order=3 grid_power=3.0",
    "exponential, order 3, power 6": "method=exponential corrector=false order=3",
    "exponential, order 1, corrector, power 6": "method=exponential",
    "exponential, order 2, corrector, power 6": "method=exponential order=2",
    "exponential, order 2, eta 1, quadratic": (
        "method=exponential corrector=false order=2 eta=1.0 grid=quadratic"
    ),
}
VERLET_IN_FRAME = "method=splitting scheme=velocity-verlet conjugate=true grid=power grid_power=3.0"
FAMILIES = {
    **{
        name: ROWS[name]
        for name in ("exponential, order 1, corrector, power 6", "exponential, order 3, power 3")
    },
    "gDDIM, order 0, power 6": "method=gddim order=0",
    "gDDIM, order 2, power 3": "method=gddim grid_power=3.0",
    "gDDIM, order 3, power 3": "method=gddim order=3 grid_power=3.0",
    "gDDIM, L_t, order 2, power 3": "method=gddim root=cholesky grid_power=3.0",
    "gDDIM, eta 1, power 6": "method=gddim order=0 eta=1.0",
    "lambda-DDIM, lambda 0, power 6": "method=conjugate",
    "lambda-DDIM, lambda 0.3, power 6": "method=conjugate conjugate_lambda=0.3",
    "naive symplectic Euler, quadratic": ("method=splitting scheme=symplectic-euler reduced=false"),
    "reduced symplectic Euler, quadratic": "method=splitting scheme=symplectic-euler",
    "naive velocity Verlet, quadratic": "method=splitting reduced=false",
    "reduced velocity Verlet, quadratic": "method=splitting",
    "conjugate velocity Verlet, lambda 0, power 3": VERLET_IN_FRAME,
    "conjugate velocity Verlet, lambda 0.3, power 3": f"{VERLET_IN_FRAME} conjugate_lambda=0.3",
    "reduced OBA, quadratic": "method=splitting scheme=oba",
    "reduced BAO, quadratic": "method=splitting scheme=bao",
    "reduced OBAB, quadratic": "method=splitting scheme=obab",
    **{
        name: ROWS[name]
        for name in ("SSCS, quadratic", "SSCS of order 2, quadratic", "EM, quadratic")
    },
}
SDES: dict[str, Callable[[], Diffusion]] = {"cld": CLD, "psld": PSLD, "hold": HOLD, "vpsde": VPSDE}


def table(bench: Bench, numbers: list[int], rows: dict[str, str]) -> dict[str, dict[int, Quality]]:
    """The results of those of ``rows`` that the diffusion can do, by evaluations."""
    found = {}
    for name, text in rows.items():
        settings = {key: safe_load(value) for key, value in (it.split("=") for it in text.split())}
        needs_split = SECTIONS["sampling"].find(settings["method"]).spec.needs_split
        if bench.case.sde.splittable or not needs_split:
            found[name] = {nfe: bench(nfe=nfe, **settings) for nfe in numbers}
    return found


def candidates() -> Iterator[dict]:
    """Settings of the exponential sampler that `search` tries, with and without noise."""
    powers: list[dict] = [{"grid_power": p} for p in (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)]
    for grid, order, corrector in itertools.product(
        [{"grid": "linear"}, {"grid": "quadratic"}, *powers], (1, 2, 3), (False, True)
    ):
        yield {"order": order, "corrector": corrector, **grid}
    for grid, order, eta in itertools.product(powers[1:8:2], (1, 2), (0.3, 0.5, 1.0)):
        yield {"order": order, "corrector": False, "eta": eta, **grid}


def search(bench: Bench, nfe: int) -> list[tuple[dict, Quality, float]]:
    """All candidates with their losses: a distance 0.01 above the best counts as much as 1 nat of
    mean log-density."""
    found = [
        (settings, bench(method="exponential", nfe=nfe, **settings)) for settings in candidates()
    ]
    best = min(entry.sw2 for _, entry in found if entry.sw2 < 1.0)

    def loss(entry: Quality) -> float:
        value = 100.0 * max(0.0, entry.sw2 - 1.1 * best) + abs(entry.logp - TRUE_LOG_DENSITY)
        return value if math.isfinite(value) else math.inf

    return [(settings, entry, loss(entry)) for settings, entry in found]


def told(settings: dict) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def cell(found: Quality) -> str:
    if not found.sw2 < 1.0:
        return "diverges"
    return f"{found.sw2:.4f} / {found.logp:.3f} / {found.rms:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--samples", type=int, default=10_000, help="samples of a seed (default: 10,000)"
    )
    parser.add_argument(
        "--seeds", type=int, default=4, help="independent sets of samples, 2 at least (default: 4)"
    )
    parser.add_argument(
        "--nfe", type=int, nargs="+", default=[10, 20, 50, 150], help="evaluations of a sample"
    )
    parser.add_argument(
        "--search", action="store_true", help="try grids, orders, correctors and noise too"
    )
    parser.add_argument(
        "--run", type=Path, action="append", default=[], help="run folder of a network; repeatable"
    )
    parser.add_argument(
        "--families",
        action="store_true",
        help="gDDIM, conjugate and splitting integrators, SSCS, EM",
    )
    parser.add_argument(
        "--sde", choices=SDES, action="append", help="exact scores of these; repeatable"
    )
    parser.add_argument("--only-runs", action="store_true", help="leave the exact scores out")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds: errors need two sets of samples at least")
    torch.set_num_threads(1)
    out = harness.console()

    cases = []
    if arguments.sde:
        cases += [exact(f"exact, {name}", SDES[name]()) for name in arguments.sde]
    elif not arguments.only_runs:
        cases += [
            exact("exact, CLD, beta 4", CLD()),
            exact("exact, CLD, beta 0.1 + 6.9 t", CLD(beta0=0.1, beta1=6.9)),
        ]
        cases += [exact("exact, CLD without the split", NoSplit()), exact("exact, VPSDE", VPSDE())]
    for run in arguments.run:
        model = cld_core.load(run, device="cpu")
        cases.append(
            Case(name=f"network {run.name}, step {model.step}", sde=model.sde, score=model.score)
        )

    mean, error = floor(arguments.samples, arguments.seeds)
    out.print(
        f"{arguments.seeds} x {arguments.samples} samples; two true sets: {mean:.4f} +- "
        f"{error:.4f} apart."
    )
    out.print(
        f"Mean log-density of the truth {TRUE_LOG_DENSITY:.4f} nats. Cells: sliced W2 / mean "
        f"log-density / rms."
    )
    losses: dict[int, list[list[float]]] = {}
    for case in cases:
        bench = Bench(case, arguments.samples, arguments.seeds)
        fine = bench(method="ode")
        headings = ("sampler", *(f"NFE {nfe}" for nfe in arguments.nfe))
        shown = harness.table(f"{case.name} (its own flow: {cell(fine)})", headings)
        measured = table(bench, arguments.nfe, FAMILIES if arguments.families else ROWS)
        for name, row in measured.items():
            shown.add_row(name, *map(cell, row.values()))
        out.print(shown)
        if arguments.search and not isinstance(case.sde, NoSplit):
            for nfe in arguments.nfe:
                tried = search(bench, nfe)
                if case.sde.n == 2:
                    losses.setdefault(nfe, []).append([loss for _, _, loss in tried])
                ranked = sorted(tried, key=lambda row: row[2])
                out.print(f"{case.name}: the best of {len(ranked)} at {nfe} evaluations")
                for settings, found, loss in ranked[:6]:
                    out.print(f"    {loss:.3f}   {cell(found)}   {told(settings)}")
    for nfe, rows in losses.items():
        worst = map(max, zip(*rows, strict=True))
        out.print(f"the least worst loss over the {len(rows)} cases of CLD at {nfe} evaluations")
        for loss, settings in sorted(
            zip(worst, candidates(), strict=True), key=lambda pair: pair[0]
        )[:6]:
            out.print(f"    {loss:.3f}   {told(settings)}")


if __name__ == "__main__":
    main()

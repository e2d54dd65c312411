"""CLD, PSLD, HOLD, VPSDE, EDM and flow matching on grey images, with equal networks and equal time
of training.

It makes the tables of docs/results.md.

    # six settings of a row on another seed; 5 minutes of training each
    python -m benchmarks.leaderboard --results build/leaderboard --row cld --trials
    # a row with the best of them; 15 minutes of training
    python -m benchmarks.leaderboard --results build/leaderboard --row cld --seed 0
    # its samplers
    python -m benchmarks.leaderboard --results build/leaderboard --row cld --seed 0 --samplers
    # the tables of the page
    python -m benchmarks.leaderboard --table

The first row measures how long a step of each diffusion takes, side by side; every row trains as
many steps as the slowest can in the time, and stores a file in --results. Run the command again if
it was interrupted: it continues. Rows may be computed in any order and at any pace, as their number
of steps is known.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import cld_core
from benchmarks import harness, judge
from benchmarks.samplers_docs import replaced
from cld_core.config import Recipe, load
from cld_core.files import read_object, write_json
from cld_core.ranks import Ranks
from cld_core.train.step import Trainer

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "fashion_mnist.yaml"
_VPSDE = (
    "sde={name: vpsde, beta0: 0.1, beta1: 19.9, numerical_eps: 0.0}",
    "objective.name=dsm",
)
# Each row has a diffusion: that of the recipe, or of cifar10_psld, cifar10_hold or cifar10_vpsde.
ROWS: dict[str, tuple[str, ...]] = {
    "cld": (),
    "psld": (
        "sde={name: psld, beta0: 8.0, beta1: 0.0, friction: 0.01, nu: 4.01, kappa: 0.04, "
        "numerical_eps: 1e-9}",
    ),
    "hold": (
        "sde={name: hold, beta0: 4.0, beta1: 0.0, m_inv: 4.0, kappa: 0.04, numerical_eps: 1e-9}",
        "sampling.nfe=60",
    ),
    "vpsde": _VPSDE,
    "edm": _VPSDE,
    "flow": _VPSDE,
}
# The noise levels and the loss of EDM, in units of the standard deviation of these data.
_WEIGHTING = ("objective.mixed_score=false", "objective.weighting=edm")
_LEVELS = (*_WEIGHTING, "objective.times=lognormal", "objective.data_std=0.8")
_DATA = (*_LEVELS, "objective.precondition=data")
_EDM = (*_LEVELS, "objective.precondition=edm")
_FLOW = (*_WEIGHTING, "objective.precondition=flow", "objective.times=flow")
_LOGIT = (*_FLOW, "objective.times=lognormal", "objective.data_std=1")
_LOG_5 = "objective.log_share=0.05"
_LOG_10 = "objective.log_share=0.1"
_LOG_30 = "objective.log_share=0.3"
_WIDE = "objective.noise_std=1.6"
_COMMON = {
    "published": (),
    "levels": _DATA,
    "levels-wide": (*_DATA, _WIDE),
    "levels-log5": (*_DATA, _LOG_5),
    "levels-log10": (*_DATA, _LOG_10),
    "levels-log30": (*_DATA, _LOG_30),
}
# Settings of training by row and name: equally many for all.
SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "cld": _COMMON,
    "psld": _COMMON,
    "hold": _COMMON,
    "vpsde": _COMMON,
    "edm": {
        "levels": _EDM,
        "levels-wide": (*_EDM, _WIDE),
        "levels-log5": (*_EDM, _LOG_5),
        "levels-log10": (*_EDM, _LOG_10),
        "fourier4": (*_EDM, "network.fourier_scale=4"),
        "fourier16": (*_EDM, "network.fourier_scale=16"),
    },
    "flow": {
        "uniform": _FLOW,
        "uniform-log10": (*_FLOW, _LOG_10),
        "logit": (*_LOGIT, "objective.noise_mean=0", "objective.noise_std=1"),
        "logit-log10": (*_LOGIT, "objective.noise_mean=0", "objective.noise_std=1", _LOG_10),
        "levels": (*_LOGIT, "objective.data_std=0.8"),
        "levels-log10": (*_LOGIT, "objective.data_std=0.8", _LOG_10),
    },
}
# Of the trials, the settings that a row is computed with.
BEST = dict.fromkeys(ROWS, "levels") | {"flow": "uniform"}
# Trials: steps of training, and training seed, samples for FID and test images for the bound.
_TRIAL_STEPS = 1500
_TRIAL = {"seed": 3, "samples": 1000, "points": 60}
# The samplers that are compared: keys of `Model.sample`; and their network evaluations.
SAMPLERS: dict[str, dict[str, Any]] = {
    "exponential": {"method": "exponential"},
    "exponential, order 3": {
        "method": "exponential",
        "order": 3,
        "corrector": False,
        "grid_power": 3.0,
    },
    "gddim": {"method": "gddim", "order": 2, "corrector": False},
    "em, quadratic": {"method": "em", "grid": "quadratic"},
    "tuned": {"method": "tuned"},
}
NFE = (5, 7, 10, 20, 50)
# Evaluations for which a sampler is fitted: with more, there is little to gain.
TUNED = (5, 7, 10)
# Steps before and while their time is measured.
_WARM, _MEASURED = 5, 40
# Of the table of diffusions: key of a result, heading, factor and digits.
_COLUMNS: tuple[tuple[str, str, float, int], ...] = (
    ("fid", "FID", 1.0, 2),
    ("bpd", "bits/dim", 1.0, 3),
    ("accuracy", "of their class, %", 100.0, 1),
)
_HEADINGS = " | ".join(heading for _, heading, *_ in _COLUMNS)


def overrides(parsed: argparse.Namespace, row: str, settings: str) -> list[str]:
    """Of the recipe, for a row and a name of `SETTINGS`, but for the number of steps."""
    given = [f"cluster.cpus_per_task={parsed.threads}", f"data.path={parsed.data.absolute()}"]
    return [
        *ROWS[row],
        *SETTINGS[row][settings],
        *given,
        f"train.seed={parsed.seed}",
        "periodic.samples_every=null",
        *parsed.overrides,
    ]


def seconds_per_step(
    recipes: Mapping[str, Recipe], clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The median over single steps of training, of recipes that take turns: what slows the machine
    slows all."""
    trainers = {name: Trainer(recipe, Ranks()) for name, recipe in recipes.items()}
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for step in range(_WARM + _MEASURED):
        for name, trainer in trainers.items():
            begun = clock()
            trainer.step(step)
            times[name].append(clock() - begun)
    for trainer in trainers.values():
        trainer.close()
    return {name: statistics.median(its[_WARM:]) for name, its in times.items()}


def steps_of(parsed: argparse.Namespace) -> int:
    """As many as the slowest row trains in the time; all are timed before the first is trained."""
    file = parsed.results / "steps.json"
    if not file.is_file():
        recipes = {row: load(RECIPE, overrides(parsed, row, BEST[row])) for row in ROWS}
        took = seconds_per_step(recipes)
        write_json(
            file,
            {"seconds_per_step": took, "minutes": parsed.minutes, "machine": harness.machine()},
        )
    known = read_object(file)
    if known["minutes"] != parsed.minutes:
        raise SystemExit(
            f"{file} is of {known['minutes']:g} minutes, not {parsed.minutes:g}. "
            "Choose another --results."
        )
    return max(1, int(60.0 * known["minutes"] / max(known["seconds_per_step"].values())))


def command(*words: str) -> None:
    """Run a command of this checkout, which may take long; its output goes to stderr."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", *words], check=True, stdout=sys.stderr, env=environment)


def trained(parsed: argparse.Namespace, run: Path, settings: str, steps: int) -> cld_core.Model:
    """The model of a run of a row, trained to its last step."""
    keys = [*overrides(parsed, parsed.row, settings), f"train.steps={steps}"]
    command("cld_core.train", str(run), "--recipe", str(RECIPE), *keys)
    return cld_core.load(run)


def bound(run: Path, points: int) -> dict[str, float]:
    """Of a run on so many test images, in bits/dim, with its standard error."""
    places = ("--runs-dir", str(run.parent), "--cluster", "debug")
    command("cldctl", "eval", run.name, "--elbo", f"eval.points={points}", *places)
    reports = [read_object(file) for file in (run / "evals").glob("*/report.json")]
    elbo: Mapping[str, float] = next(report["elbo"] for report in reports if "elbo" in report)
    return {"bpd": elbo["bpd"], "bpd_stderr": elbo["stderr"]}


def row(parsed: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate: what is stored of a row."""
    steps, net = steps_of(parsed), judge.trained(parsed.data)
    model = trained(parsed, parsed.run, parsed.settings, steps)
    names = ("row", "settings", "seed", "minutes")
    about = {**{name: getattr(parsed, name) for name in names}, "n": parsed.samples}
    training = {"steps": steps, "batch_size": model.recipe.train.batch_size}
    said = judge.of_model(net, model, parsed.data, parsed.samples)
    real = {
        name: asdict(it) for name, it in judge.references(net, parsed.data, parsed.samples).items()
    }
    machine = {"machine": harness.machine(), "version": cld_core.__version__}
    sampler = {
        "sampler": f"{model.recipe.sampling.method}, {model.recipe.sampling.nfe} evaluations"
    }
    return {
        **about,
        **training,
        **asdict(said),
        **bound(parsed.run, parsed.points),
        **sampler,
        "real": real,
        **machine,
    }


def trials(parsed: argparse.Namespace) -> Path:
    """Train the settings of a row for some steps; returns the file of what they reach."""
    file = parsed.results / f"trials-{parsed.row}.json"
    found = read_object(file) if file.is_file() else {}
    net = judge.trained(parsed.data)
    for settings in SETTINGS[parsed.row]:
        if settings in found:
            continue
        run = parsed.runs_dir / f"{parsed.row}-{settings}-trial"
        model = trained(parsed, run, settings, _TRIAL_STEPS)
        said = judge.of_model(net, model, parsed.data, parsed.samples)
        found[settings] = {
            "fid": said.fid,
            "accuracy": said.accuracy,
            **bound(run, parsed.points),
        }
        write_json(file, found)
        print(settings, found[settings], file=sys.stderr, flush=True)
    return file


def samplers(parsed: argparse.Namespace) -> dict[str, Any]:
    """FID and accuracy of a trained row by sampler and network evaluations; those of tuned samplers
    are fitted."""
    run: Path = parsed.run
    for nfe in TUNED:
        command(
            "cldctl",
            "tune",
            run.name,
            "--nfe",
            str(nfe),
            "--runs-dir",
            str(run.parent),
            "--cluster",
            "debug",
        )
    net, model = judge.trained(parsed.data), cld_core.load(run)
    found: dict[str, dict[str, Any]] = {}
    for name, keys in SAMPLERS.items():
        for nfe in TUNED if name == "tuned" else NFE:
            said = judge.of_model(net, model, parsed.data, parsed.samples, nfe=nfe, **keys)
            found.setdefault(name, {})[str(nfe)] = {"fid": said.fid, "accuracy": said.accuracy}
            print(
                f"{name}, {nfe}: FID {said.fid:.2f}, {100 * said.accuracy:.1f} %",
                file=sys.stderr,
                flush=True,
            )
    about = {name: getattr(parsed, name) for name in ("row", "settings", "seed")}
    return {**about, "n": parsed.samples, "samplers": found}


def cell(values: Sequence[float], factor: float, digits: int) -> str:
    """Mean and standard deviation."""
    scaled = [factor * value for value in values]
    spread = f" ± {statistics.stdev(scaled):.{digits}f}" if len(scaled) > 1 else ""
    return f"{statistics.mean(scaled):,.{digits}f}{spread}"


def table(results: Path) -> str:
    """The tables of all stored rows, in Markdown."""
    files = sorted(results.glob("*-seed*.json")) if results.is_dir() else []
    stored = [read_object(file) for file in files if not file.stem.endswith("-samplers")]
    compared = [read_object(file) for file in files if file.stem.endswith("-samplers")]
    if not stored:
        return "No results yet."
    lines = [f"| row | settings | seeds | {_HEADINGS} |", "| -- " * 6 + "|"]
    for name, known in SETTINGS.items():
        for settings in known:
            those = [it for it in stored if (it["row"], it["settings"]) == (name, settings)]
            if those:
                lines.append(f"| {name} | {settings} | {len(those)} | {_cells(those)} |")
    for name, it in stored[0]["real"].items():
        lines.append(f"| {name} |  |  | {it['fid']:.2f} |  | {100 * it['accuracy']:.1f} |")
    timed = read_object(results / "steps.json")["machine"]
    return "\n".join([*lines, "", _about(stored, timed), *map(_samplers, compared)])


def _cells(those: Sequence[Mapping[str, Any]]) -> str:
    """Those of `_COLUMNS`."""
    cells = (cell([it[key] for it in those], factor, digits) for key, _, factor, digits in _COLUMNS)
    return " | ".join(cells)


def trials_table(results: Path) -> str:
    """The table of all trials that were made, in Markdown."""
    lines = [f"| row | settings | {_HEADINGS} |", "| -- " * 5 + "|"]
    for name in SETTINGS:
        file = results / f"trials-{name}.json"
        found = read_object(file) if file.is_file() else {}
        lines += [f"| {name} | {settings} | {_cells([it])} |" for settings, it in found.items()]
    return "\n".join(lines)


def _about(stored: Sequence[Mapping[str, Any]], timed: Mapping[str, Any]) -> str:
    """How the rows were made; ``timed`` is the machine that was."""
    first, errors = stored[0], statistics.mean(it["bpd_stderr"] for it in stored)
    trained = (
        f"{first['steps']:,} steps of {first['batch_size']} images, as many as the slowest trains"
    )
    where = (
        f"in {first['minutes']:g} minutes on {timed['threads']} cores of {timed['cpu']} with "
        f"torch {timed['torch']}"
    )
    judged = f"FID and judge: {first['n']:,} samples ({first['sampler']})"
    return f"Training: {trained} {where}. {judged}. The standard error of a bound is {errors:.3f}."


def _samplers(it: Mapping[str, Any]) -> str:
    """The table of the samplers of a row: FID, and the share of samples of their class."""
    about = f"**{it['row']}**, {it['settings']}, seed {it['seed']}, {it['n']:,} samples"
    lines = [
        f"\n{about}: FID / of their class, %.\n",
        f"| sampler | {' | '.join(f'{nfe} evaluations' for nfe in NFE)} |",
        "| -- " * (1 + len(NFE)) + "|",
    ]
    for name, of in it["samplers"].items():
        cells = [
            f"{of[key]['fid']:.2f} / {100 * of[key]['accuracy']:.1f}" if key in of else ""
            for key in map(str, NFE)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="recipe keys, to try something"
    )
    parser.add_argument("--row", choices=list(ROWS))
    parser.add_argument("--settings", help="a name of a trial (default: the best)")
    parser.add_argument("--trials", action="store_true", help="try the settings of the row")
    parser.add_argument("--seed", type=int, default=0, help="train.seed of the row")
    parser.add_argument(
        "--samplers", action="store_true", help="compare samplers of a row that has been computed"
    )
    parser.add_argument("--minutes", type=float, default=15.0, help="time of training of a row")
    parser.add_argument("--samples", type=int, default=2000, help="samples for judge and FID")
    parser.add_argument("--points", type=int, default=500, help="test images for the bound")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/fashion_mnist"),
        help="prepared grey images with labels",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        help="folder of stored rows",
    )
    parser.add_argument(
        "--runs-dir", type=Path, default=Path("runs/leaderboard"), help="folder of their runs"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--table", action="store_true", help="print the tables of what is stored")
    parser.add_argument("--page", type=Path, help="with --table: write them into this page")
    parsed = parser.parse_intermixed_args()
    if parsed.table:
        text = table(parsed.results)
        print(text)
        if parsed.page is not None:
            page = replaced(parsed.page.read_text(), "leaderboard", text)
            parsed.page.write_text(replaced(page, "trials", trials_table(parsed.results)))
        return
    if parsed.row is None:
        parser.error("pass --row, or --table")
    torch.set_num_threads(parsed.threads)
    os.environ["OMP_NUM_THREADS"] = str(parsed.threads)
    parsed.results.mkdir(parents=True, exist_ok=True)
    if parsed.trials:
        vars(parsed).update(_TRIAL)
        print(trials(parsed))
        return
    suffix, compute = ("-samplers", samplers) if parsed.samplers else ("", row)
    parsed.settings = parsed.settings or BEST[parsed.row]
    if parsed.settings not in SETTINGS[parsed.row]:
        known = ", ".join(SETTINGS[parsed.row])
        parser.error(f"--row {parsed.row} has no --settings {parsed.settings}: choose of {known}")
    parsed.run = parsed.runs_dir / f"{parsed.row}-{parsed.settings}-seed{parsed.seed}"
    file = parsed.results / f"{parsed.run.name}{suffix}.json"
    if not file.is_file():
        write_json(file, compute(parsed))
    print(file)


if __name__ == "__main__":
    main()

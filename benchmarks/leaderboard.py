"""CLD, PSLD, HOLD, VPSDE, EDM and flow matching on grey images, with equal networks and equal time
of training.

It makes the tables of docs/results.md.

    # six settings of a row on another seed; 5 minutes of training each
    python -m benchmarks.leaderboard --results build/leaderboard --row cld --trials
    # a row with the best of them; 15 minutes of training
    python -m benchmarks.leaderboard --results build/leaderboard --row cld --seed 0
    # its samplers
    python -m benchmarks.leaderboard --results build/leaderboard --row cld --seed 0 --samplers
    # samples of all rows beside the nearest training pictures
    python -m benchmarks.leaderboard --nearest docs/images/nearest.png
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
from matplotlib.figure import Figure

import cld_core
from benchmarks import harness, judge
from benchmarks.judge import Images
from benchmarks.samplers_docs import replaced
from cld_core.config import Recipe, load
from cld_core.data.images import to_pixels
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
PHASE_SPACE = ("cld", "psld", "hold")
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
# The trial with the lowest FID, with which a row is computed.
BEST = {
    "cld": "levels",
    "psld": "levels",
    "hold": "levels",
    "vpsde": "levels-log5",
    "edm": "fourier16",
    "flow": "logit-log10",
}
# Trials: steps of training, and training seed, samples for FID and test images for the bound.
_TRIAL_STEPS = 1500
_TRIAL = {"seed": 3, "samples": 1000, "points": 60}
# The samplers that are compared: keys of `Model.sample`; and their network evaluations.
_ORDER_3 = {"method": "exponential", "order": 3, "corrector": False}
SAMPLERS: dict[str, dict[str, Any]] = {
    "default": {"method": "exponential"},
    "order 3": {**_ORDER_3, "grid_power": 3.0},
    "grid noise": {**_ORDER_3, "grid": "noise", "grid_power": 7.0},
    "grid flow": {**_ORDER_3, "grid": "flow"},
    "gddim": {"method": "gddim", "order": 2, "corrector": False},
    "tuned": {"method": "tuned"},
}
NFE = (5, 10, 20, 50)
# Evaluations for which a sampler is fitted: with more, there is little to gain.
TUNED = (5, 10)
# Below the folder of the page.
PLOT = Path("images") / "leaderboard.png"
_SAVED: dict[str, Any] = {"dpi": 100, "metadata": {"Software": None}}
# Time of training of the slowest row.
_MINUTES = 15.0
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
            {"seconds_per_step": took, "minutes": _MINUTES, "machine": harness.machine()},
        )
    slowest = max(read_object(file)["seconds_per_step"].values())
    return max(1, int(60.0 * _MINUTES / slowest))


def command(*words: str) -> None:
    """Run a command of this checkout, which may take long; its output goes to stderr."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", *words], check=True, stdout=sys.stderr, env=environment)


def cldctl(name: str, run: Path, *words: str) -> None:
    """A command of cldctl about a run, on this machine."""
    command("cldctl", name, run.name, *words, "--runs-dir", str(run.parent), "--cluster", "debug")


def trained(parsed: argparse.Namespace, run: Path, settings: str, steps: int) -> cld_core.Model:
    """The model of a run of a row, trained to its last step."""
    keys = [*overrides(parsed, parsed.row, settings), f"train.steps={steps}"]
    command("cld_core.train", str(run), "--recipe", str(RECIPE), *keys)
    return cld_core.load(run)


def bound(run: Path, points: int) -> dict[str, float]:
    """Of a run on so many test images, in bits/dim, with its standard error."""
    cldctl("eval", run, "--elbo", f"eval.points={points}")
    reports = [read_object(file) for file in (run / "evals").glob("*/report.json")]
    elbo: Mapping[str, float] = next(report["elbo"] for report in reports if "elbo" in report)
    return {"bpd": elbo["bpd"], "bpd_stderr": elbo["stderr"]}


def row(parsed: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate: what is stored of a row."""
    steps, net = steps_of(parsed), judge.trained(parsed.data)
    model = trained(parsed, parsed.run, parsed.settings, steps)
    said = judge.of_model(net, model, parsed.data, parsed.samples)
    real = judge.references(net, parsed.data, parsed.samples)
    sampling = model.recipe.sampling
    return {
        "minutes": _MINUTES,
        "steps": steps,
        "batch_size": model.recipe.train.batch_size,
        **asdict(said),
        **bound(parsed.run, parsed.points),
        "sampler": f"{sampling.method}, {sampling.nfe} evaluations",
        "real": {name: asdict(it) for name, it in real.items()},
        "machine": harness.machine(),
        "version": cld_core.__version__,
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
    cldctl("tune", run, "--nfe", ",".join(map(str, TUNED)))
    net, model = judge.trained(parsed.data), cld_core.load(run)
    found: dict[str, dict[int, Any]] = {name: {} for name in SAMPLERS}
    for name, keys in SAMPLERS.items():
        for nfe in TUNED if name == "tuned" else NFE:
            said = judge.of_model(net, model, parsed.data, parsed.samples, nfe=nfe, **keys)
            found[name][nfe] = {"fid": said.fid, "accuracy": said.accuracy}
            print(name, nfe, said, file=sys.stderr, flush=True)
    return {"samplers": found}


def cell(values: Sequence[float], factor: float, digits: int) -> str:
    """Mean and standard deviation."""
    scaled = [factor * value for value in values]
    spread = f" ± {statistics.stdev(scaled):.{digits}f}" if len(scaled) > 1 else ""
    return f"{statistics.mean(scaled):,.{digits}f}{spread}"


def table(results: Path) -> str:
    """The tables of all stored rows, in Markdown."""
    files = sorted(results.glob("*-seed*.json")) if results.is_dir() else []
    stored = [read_object(file) for file in files if not file.stem.endswith("-samplers")]
    if not stored:
        return "No results yet."
    lines = [f"| row | settings | seeds | {_HEADINGS} |", "| -- " * 6 + "|"]
    for name, known in SETTINGS.items():
        for settings in known:
            those = [it for it in stored if (it["row"], it["settings"]) == (name, settings)]
            if those:
                lines.append(f"| {name} | {settings} | {len(those)} | {_cells(those)} |")
    real = {name: it for row in stored for name, it in row["real"].items()}
    for name, it in real.items():
        lines.append(f"| {name} |  |  | {it['fid']:.2f} |  | {100 * it['accuracy']:.1f} |")
    timed = read_object(results / "steps.json")["machine"]
    return "\n".join([*lines, "", _about(stored, timed), "", _samplers(compared(results))])


def compared(results: Path) -> list[dict[str, Any]]:
    """What is stored of the samplers of rows, in the order of `ROWS`."""
    found = [read_object(file) for file in results.glob("*-samplers.json")]
    return sorted(found, key=lambda it: list(ROWS).index(it["row"]))


def best(it: Mapping[str, Any], nfe: int) -> tuple[float, str]:
    """The lowest FID of the samplers of a row, and the name of the sampler."""
    return min((of[str(nfe)]["fid"], name) for name, of in it["samplers"].items() if str(nfe) in of)


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


def _samplers(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the best sampler of each row by evaluations."""
    lines = [
        f"| row | settings | samples | {' | '.join(f'{nfe} evaluations' for nfe in NFE)} |",
        "| -- " * (3 + len(NFE)) + "|",
    ]
    for it in rows:
        lowest = [best(it, nfe) for nfe in NFE]
        cells = " | ".join(f"{fid:.2f} ({name})" for fid, name in lowest)
        lines.append(f"| {it['row']} | {it['settings']} | {it['n']:,} | {cells} |")
    return "\n".join(lines)


def plot(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """FID against evaluations, with the best sampler of each row."""
    result = Figure(figsize=(6, 4), layout="constrained")
    ax = result.subplots()
    for it in rows:
        style = "o-" if it["row"] in PHASE_SPACE else "s--"
        ax.loglog(
            NFE, [best(it, nfe)[0] for nfe in NFE], style, label=f"{it['row']}, {it['settings']}"
        )
    ax.set(xlabel="network evaluations", ylabel="FID in the judge's features", xticks=NFE)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.legend(frameon=False)
    return result


def nearest(parsed: argparse.Namespace) -> Figure:
    """A sample of each class of each row with the best settings, over the training picture that is
    nearest to it in root mean square."""
    known = Images.of(parsed.data, "train").pixels
    rows = {row: parsed.runs_dir / f"{row}-{BEST[row]}-seed{parsed.seed}" for row in ROWS}
    rows = {row: run for row, run in rows.items() if run.is_dir()}
    result = Figure(figsize=(8, 1.7 * len(rows)), layout="constrained")
    for ax, (row, run) in zip(
        result.subplots(len(rows), squeeze=False).flat, rows.items(), strict=True
    ):
        model = cld_core.load(run)
        n = len(model.classes or ())
        x = to_pixels(model.sample(n, label=torch.arange(n)))
        near = known[torch.cdist(x.flatten(1).float(), known.flatten(1).float()).argmin(1)]
        strips = [torch.cat(list(images[:, 0]), dim=1) for images in (x, near)]
        ax.imshow(torch.cat(strips).numpy(), cmap="gray", vmin=0, vmax=255)
        ax.set(ylabel=row, xticks=[], yticks=[])
    return result


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
    parser.add_argument(
        "--page", type=Path, help="with --table: write them and the plot into this page"
    )
    parser.add_argument("--nearest", type=Path, help="write the picture of nearest neighbours")
    parsed = parser.parse_intermixed_args()
    if parsed.table:
        text = table(parsed.results)
        print(text)
        if parsed.page is not None:
            page = replaced(parsed.page.read_text(), "leaderboard", text)
            parsed.page.write_text(replaced(page, "trials", trials_table(parsed.results)))
            plot(compared(parsed.results)).savefig(parsed.page.parent / PLOT, **_SAVED)
        return
    if parsed.nearest is not None:
        nearest(parsed).savefig(parsed.nearest, **_SAVED)
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
        about = {name: getattr(parsed, name) for name in ("row", "settings", "seed")}
        write_json(file, {**about, "n": parsed.samples, **compute(parsed)})
    print(file)


if __name__ == "__main__":
    main()

"""CLD, PSLD, HOLD and VPSDE on both toy densities: the same network, the same training, five seeds.

    python -m benchmarks.diffusions [--steps 10000] [--seeds 0,1,2,3,4] [--runs-dir runs/diffusions]

Trains and evaluates with `cldctl submit --sweep train.seed=...` and `cldctl eval`, so it goes on
where it stopped, and prints the table of docs/results.md: means and standard deviations
over the seeds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

DIFFUSIONS = {"CLD": "toy", "PSLD": "toy_psld", "HOLD": "toy_hold", "VPSDE": "toy_vpsde"}
DENSITIES = {"rolls": "multimodal_swissroll", "diamond": "diamond"}
EXPONENTIAL = "sampling.method=exponential"


def few(diffusion: str) -> list[str]:
    """What docs/samplers.md recommends for ten evaluations."""
    power = f"sampling.grid_power={6 if diffusion == 'VPSDE' else 3}"
    return [EXPONENTIAL, "sampling.nfe=10", "sampling.order=3", "sampling.corrector=false", power]


def samplers(diffusion: str) -> dict[str, list[str]]:
    more = {str(nfe): [EXPONENTIAL, f"sampling.nfe={nfe}"] for nfe in (20, 50)}
    return {"10": few(diffusion), **more, "flow": ["sampling.method=ode"]}


def cldctl(runs: Path, *words: str) -> None:
    """Run a command, which may take hours; its output goes to stderr."""
    command = [sys.executable, "-m", "cldctl", *words, "--runs-dir", str(runs), "--follow"]
    subprocess.run(
        command, check=True, stdout=sys.stderr, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def study(runs: Path, diffusion: str, density: str, steps: int, seeds: str, parallel: int) -> str:
    """Train and evaluate what is missing of a group, and return its name."""
    group = f"{DIFFUSIONS[diffusion]}-{density}"
    if not (runs / f"{group}-seed{seeds.split(',')[0]}").exists():
        keys = [
            f"data.name={DENSITIES[density]}",
            f"train.steps={steps}",
            f"train.checkpoint_every={steps}",
        ]
        sweep = ["--sweep", f"train.seed={seeds}", "--parallel", str(parallel)]
        cldctl(
            runs,
            "submit",
            DIFFUSIONS[diffusion],
            *keys,
            *sweep,
            "--name",
            group,
            "--cluster",
            "local",
        )
    cldctl(runs, "eval", group, "--elbo", "--samples", "2000")
    for keys in samplers(diffusion).values():
        cldctl(runs, "eval", group, "--w2", "--samples", "5000", *keys)
    return group


def results(run: Path) -> dict[str, float]:
    """The NLL bound and, for each key of `samplers`, sliced W2; also the distance of two true
    sets."""
    found = {}
    for folder in sorted((run / "evals").iterdir()):
        request, report = (
            json.loads((folder / f"{name}.json").read_text()) for name in ("request", "report")
        )
        if "elbo" in report:
            found["nll"] = report["elbo"]["nll"]
        if "w2" in report:
            sampling = request["sampling"]
            sampler = "flow" if sampling["method"] == "ode" else str(sampling["nfe"])
            found[sampler] = report["w2"]["value"]
            found["floor"] = report["w2"]["floor"]
    return found


def cell(values: Sequence[float], digits: int) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diffusions", description=__doc__)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--parallel", type=int, default=1, help="runs that may train at once")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/diffusions"))
    asked = parser.parse_args()
    columns = ["nll", "10", "20", "50", "flow"]
    print(
        "| density | diffusion | NLL bound, nats | W2, NFE 10 | W2, NFE 20 | W2, NFE 50 | W2, "
        "adaptive flow |"
    )
    print("| -- " * (2 + len(columns)) + "|")
    for density in DENSITIES:
        for diffusion in DIFFUSIONS:
            group = study(
                asked.runs_dir, diffusion, density, asked.steps, asked.seeds, asked.parallel
            )
            of_seed = [
                results(asked.runs_dir / f"{group}-seed{seed}") for seed in asked.seeds.split(",")
            ]
            cells = [cell([it[key] for it in of_seed], 3 if key == "nll" else 4) for key in columns]
            print(f"| {density} | {diffusion} | {' | '.join(cells)} |", flush=True)
        print(f"two true sets of {density}: {of_seed[0]['floor']:.4f}", file=sys.stderr)


if __name__ == "__main__":
    main()

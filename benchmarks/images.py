"""How close samplers come to the flow of a trained image network, at equal evaluations.

    cldctl data prepare folder --source cifar10-subset.zip --size 32 --out data/cifar10_smoke
    cldctl submit cifar10_smoke --cluster local --name smoke --follow
    python -m benchmarks.images runs/smoke

Every sampler starts from the same noise and ends with the same denoising step, which counts as an
evaluation. The distance is the root mean square, over pixels in [-1, 1], of the difference from the
accurately solved flow.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torchdiffeq import odeint

import cld_core
from benchmarks import harness
from cld_core.model import Model
from cld_core.seeds import SampleNoise

SEED = 0
EXPONENTIAL: dict[str, dict[str, Any]] = {
    "exponential, order 1, corrector, power 6": {},
    "exponential, order 2, corrector, power 6": {"order": 2},
    "exponential, order 2, power 6": {"order": 2, "corrector": False},
    "exponential, order 2, quadratic": {"order": 2, "corrector": False, "grid": "quadratic"},
    "exponential, order 3, power 3": {"order": 3, "corrector": False, "grid_power": 3.0},
    "exponential, order 3, power 6": {"order": 3, "corrector": False},
    "DDIM-like: exponential, order 0, power 6": {"order": 0, "corrector": False},
}
# Fixed-step solvers of torchdiffeq, and their evaluations per step.
FIXED = {"euler": 1, "heun2": 2, "midpoint": 2, "rk4": 4}
GRIDS: dict[str, dict[str, Any]] = {
    "linear": {"grid": "linear"},
    "quadratic": {"grid": "quadratic"},
    "power 6": {"grid": "power", "rho": 6.0},
}
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4)


class Flow:
    """The probability flow of a model from fixed noise, counting evaluations."""

    def __init__(self, model: Model, n: int) -> None:
        self.model, self.n, self.evaluations = model, n, 0
        channels, *rest = model.data_shape
        noise = SampleNoise(SEED, "sample", first=0, last=n, device=model.device)
        self.start = model.sde.prior(noise.normal((2 * channels, *rest)))

    def field(self, t: Tensor, u: Tensor) -> Tensor:
        self.evaluations += 1
        return self.model.sde.flow(u, self.model.score(u, float(t)), float(t))

    @torch.no_grad()
    def solve(self, grid: list[float], method: str, **options: Any) -> tuple[Tensor, int]:
        """Images (n, C, H, W) and the number of evaluations, by torchdiffeq."""
        self.evaluations = 0
        sde, end = self.model.sde, grid[-1]
        u = odeint(
            self.field,
            self.start,
            torch.tensor(grid, dtype=torch.float64),
            method=method,
            **options,
        )[-1]
        u = sde.euler_step(u, self.model.score(u, end), end, end)
        return u[:, : self.model.data_shape[0]], self.evaluations + 1


def rows(flow: Flow, numbers: list[int], fine: Tensor) -> dict[str, dict[int, tuple[int, float]]]:
    """By sampler and requested evaluations: the evaluations used, and the distance from
    ``fine``."""
    measured: dict[str, dict[int, tuple[int, float]]] = {}

    def note(name: str, asked: int, x: Tensor, taken: int) -> None:
        measured.setdefault(name, {})[asked] = (
            taken,
            float((x - fine).double().square().mean().sqrt()),
        )

    for nfe in numbers:
        for name, keys in EXPONENTIAL.items():
            drawn = flow.model.draw(
                flow.n, seed=SEED, **{"method": "exponential", "grid": "power", **keys}, nfe=nfe
            )
            note(name, nfe, drawn.x, int(drawn.nfe))
        for method, each in FIXED.items():
            steps = (nfe - 1) // each
            for grid, settings in GRIDS.items():
                place = {"rho": 1.0, **settings}
                where = flow.model.sde.schedule.grid(place["grid"], steps, 1e-3, place["rho"])
                note(f"{method}, {grid}", nfe, *flow.solve(where, method))
    # Our own solver: torchdiffeq's steps past the end and interpolates, but the network is not
    # defined below t = 0.
    adaptive = [
        flow.model.draw(flow.n, seed=SEED, method="ode", rtol=tol, atol=tol) for tol in TOLERANCES
    ]
    for nfe in numbers:
        best = max(
            (drawn for drawn in adaptive if drawn.nfe <= nfe),
            key=lambda drawn: drawn.nfe,
            default=adaptive[0],
        )
        note("RK45, a step size for each image", nfe, best.x, round(best.nfe))
    return measured


def table(measured: dict[str, dict[int, tuple[int, float]]], numbers: list[int]) -> Table:
    shown = harness.table("", ("sampler", *(f"NFE {nfe}" for nfe in numbers)))

    def cell(asked: int, taken: int, distance: float) -> str:
        value = f"{distance:.4f}" if distance < 10 else "diverges"
        return value if taken == asked else f"{value} ({taken})"

    for name, row in measured.items():
        shown.add_row(name, *(cell(nfe, *row[nfe]) for nfe in numbers))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder of an image network")
    parser.add_argument("--samples", type=int, default=32, help="number of images (default: 32)")
    parser.add_argument(
        "--nfe", type=int, nargs="+", default=[10, 20, 50], help="evaluations, including denoising"
    )
    arguments = parser.parse_args()
    model = cld_core.load(arguments.run)
    flow = Flow(model, arguments.samples)
    fine = model.draw(arguments.samples, seed=SEED, method="ode", rtol=1e-6, atol=1e-6)
    rough = model.draw(arguments.samples, seed=SEED, method="ode")
    published = float((rough.x - fine.x).double().square().mean().sqrt())
    measured = rows(flow, arguments.nfe, fine.x)
    out = harness.console(120)
    out.print(
        f"{arguments.run.name}, step {model.step}: {arguments.samples} images; std of pixels "
        f"{float(fine.x.std()):.3f}"
    )
    out.print(
        f"fine: {fine.nfe:.0f} evaluations (1e-6); as published, 1e-5: {rough.nfe:.0f} "
        f"evaluations, {published:.5f}"
    )
    out.print(table(measured, arguments.nfe))


if __name__ == "__main__":
    main()

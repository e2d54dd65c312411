r"""Tuned samplers, compared with untuned ones and applied to other networks.

See `python -m benchmarks.tune --help`. Without arguments: exact scores of the diamond. `--between`
applies times that were fitted with one diffusion to the others, at equal shares of B(t)^(1/6).
`--run` adds networks that `cldctl tune` has fitted a sampler to, for example

    cldctl submit toy_diamond --cluster local --follow --name diamond train.steps=20000 \
        objective.mixed_score=true
    cldctl tune diamond --nfe 5,7,10 --follow
    python -m benchmarks.tune --run runs/diamond --only-runs

and `--on RUN` applies all available solutions to the network of another run (`RUN:STEP`: of that
step).
"""

import argparse
import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor

import cld_core
from benchmarks import harness
from benchmarks.diamond import LAW, TRUE_LOG_DENSITY, exact, floor, sliced_w2, truth
from cld_core import samplers
from cld_core.config.sampling import OdeSpec
from cld_core.model import Model
from cld_core.run import RunFolder
from cld_core.run.tunings import (
    CANDIDATES,
    SPACINGS,
    STAGES,
    Flow,
    StageRow,
    TunedSampler,
    solutions_of,
)
from cld_core.samplers.tuned import Linear, of_exponential, spaced
from cld_core.score import ScoreFunction
from cld_core.sde import CLD, HOLD, PSLD, VPSDE, Diffusion
from cld_core.seeds import SampleNoise
from cld_core.tune import Fitted, FlowEndpoints, Problem, best, shares_of, times_of

EPS = 1e-3
DIFFUSIONS: dict[str, Diffusion] = {"CLD": CLD(), "PSLD": PSLD(), "HOLD": HOLD(), "VPSDE": VPSDE()}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A score whose samples are judged; ``is_diamond``: by its density, too."""

    name: str
    score: ScoreFunction
    sde: Diffusion
    shape: tuple[int, ...]
    is_diamond: bool

    def prior(self, seed: int, n: int) -> Tensor:
        channels, *rest = self.shape
        noise = SampleNoise(seed, "tune benchmark", first=0, last=n)
        return self.sde.prior(noise.normal((channels * self.sde.n, *rest)))

    def ends(self, seed: int, n: int) -> FlowEndpoints:
        """Fresh noise and where the flow takes it."""
        noise = SampleNoise(seed, "tune benchmark", first=0, last=n)
        x = samplers.sample(
            self.score, self.sde, OdeSpec(rtol=1e-6, atol=1e-6), noise, self.shape
        ).x
        return FlowEndpoints(self.prior(seed, n).double(), x.double())


def of_model(model: Model, name: str) -> Case:
    is_diamond = model.recipe.data.name == "diamond"
    return Case(
        name=name, score=model.score, sde=model.sde, shape=model.data_shape, is_diamond=is_diamond
    )


def rms(case: Case, linear: Linear, ends: FlowEndpoints) -> float:
    x = Fitted(case.score, case.sde, 4096).samples(linear, ends.u)
    return math.sqrt(float((x - ends.x).square().mean()))


def untuned(case: Case, nfe: int, ends: FlowEndpoints) -> tuple[float, Linear, str]:
    """The best of all candidates over all spacings, judged on the very noise that is reported: an
    advantage."""
    tried = []
    for (order, corrector), spacing in itertools.product(CANDIDATES, SPACINGS):
        linear = of_exponential(
            case.sde, spaced(case.sde, nfe, EPS, True, spacing), order, corrector, True
        )
        settings = f"order={order} corrector={str(corrector).lower()} {spacing}"
        tried.append((rms(case, linear, ends), linear, settings))
    return min((one for one in tried if math.isfinite(one[0])), key=lambda one: one[0])


def of_diamond(name: str, sde: Diffusion) -> Case:
    """The exact score of the diamond."""
    return Case(name=name, score=exact(name, sde).score, sde=sde, shape=(2,), is_diamond=True)


def fitted(
    case: Case, nfe: int, points: int, stages: Sequence[str] = ("untuned", "grid", "coefficients")
) -> Iterator[tuple[str, StageRow, Linear]]:
    """Stages of a fit from scratch: the name of each, its best row and the sampler of that."""
    ends = case.ends(1, points), case.ends(2, points)
    problem = Problem(Fitted(case.score, case.sde, 4096), *ends, nfe, EPS, True)
    rows: dict[str, list[StageRow]] = {stage: [] for stage in STAGES}
    for stage in stages:
        for _ in range(STAGES[stage]):
            rows[stage].append(problem.row(stage, rows))
        top = best(rows[stage])
        yield stage, top, Linear.of(top.sampler)


def quality(case: Case, linear: Linear, n: int, seeds: int) -> str:
    """Sliced W2 and mean log-density of samples of the diamond."""
    if not case.is_diamond:
        return ""
    distances, densities = [], []
    for seed in range(100, 100 + seeds):
        x = Fitted(case.score, case.sde, 4096).samples(linear, case.prior(seed, n).double())
        distances += [sliced_w2(x.float(), truth(n, other)) for other in range(seeds)]
        densities.append(float(LAW.log_density(x).mean()))
    return f"{statistics.mean(distances):.4f} / {statistics.mean(densities):.3f}"


def carried(row: StageRow, origin: Diffusion, sde: Diffusion) -> Linear:
    """The sampler of a row that was fitted with ``origin``, with its order and corrector, for
    another diffusion."""
    times = times_of(sde.schedule, shares_of(origin.schedule, row.sampler.times), EPS)
    return of_exponential(sde, times, *CANDIDATES[row.which], True)


def between(nfe: int, points: int, fresh: int) -> Table:
    """Distances from the flow of times that were fitted with one diffusion and are used with
    another."""
    cases = [of_diamond(name, sde) for name, sde in DIFFUSIONS.items()]
    headings = ("with", "untuned", *(f"times of {case.name}" for case in cases))
    shown = harness.table(f"{nfe} evaluations: rms distance from the flow on fresh noise", headings)
    rows = {}
    for case in cases:
        *_, (_, rows[case.name], _) = fitted(case, nfe, points, ("untuned", "grid"))
    for case in cases:
        ends = case.ends(9, fresh)
        own, _, _ = untuned(case, nfe, ends)
        distances = [
            rms(case, carried(rows[other.name], other.sde, case.sde), ends) for other in cases
        ]
        shown.add_row(
            case.name,
            *(f"{one:.4f}" if math.isfinite(one) else "diverges" for one in (own, *distances)),
        )
    return shown


def loaded(text: str) -> tuple[RunFolder, Model]:
    path, _, step = text.partition(":")
    return RunFolder(path), cld_core.load(path, step or "last", device="cpu")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--nfe", type=int, nargs="+", default=[5, 7, 10], help="evaluations of exact scores"
    )
    parser.add_argument("--points", type=int, default=4000, help="points of a fit to exact scores")
    parser.add_argument(
        "--fresh", type=int, default=2000, help="fresh draws that distances are measured on"
    )
    parser.add_argument(
        "--samples", type=int, default=10_000, help="samples of a seed for W2 and density"
    )
    parser.add_argument("--seeds", type=int, default=4, help="independent sets of samples")
    parser.add_argument(
        "--run", action="append", default=[], help="run folder with tuned samplers; repeatable"
    )
    parser.add_argument(
        "--on",
        action="append",
        default=[],
        help="run that all solutions are applied to; repeatable",
    )
    parser.add_argument(
        "--between", action="store_true", help="only times of one diffusion, used with another"
    )
    parser.add_argument("--only-runs", action="store_true", help="leave the exact scores out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = harness.console()
    if arguments.between:
        for nfe in arguments.nfe:
            out.print(between(nfe, arguments.points, arguments.fresh))
        return
    solutions: list[tuple[str, TunedSampler]] = []
    title = "rms: distance from the flow on fresh noise; sliced W2 / mean log-density"
    shown = harness.table(title, ("case", "NFE", "sampler", "rms", "W2 / log-density"))

    def add(case: Case, nfe: int, sampler: str, linear: Linear, ends: FlowEndpoints) -> None:
        sampled = quality(case, linear, arguments.samples, arguments.seeds)
        shown.add_row(case.name, str(nfe), sampler, f"{rms(case, linear, ends):.4f}", sampled)

    if not arguments.only_runs:
        mean, error = floor(arguments.samples, arguments.seeds)
        out.print(
            f"two true sets: {mean:.4f} +- {error:.4f} apart; "
            f"the truth has {TRUE_LOG_DENSITY:.3f} nats"
        )
        case = of_diamond("exact, CLD, beta 4", CLD())
        ends = case.ends(9, arguments.fresh)
        for nfe in arguments.nfe:
            for stage, best, linear in fitted(case, nfe, arguments.points):
                add(case, nfe, stage, linear, ends)
                out.print(f"{case.name} {nfe} {stage}: held {best.held:.4f}")
            flow = Flow(eps=EPS, denoise=True)
            solution = TunedSampler(coefficients=linear.plain(), flow=flow, rms={}, about={})
            solutions.append((case.name, solution))

    for text in arguments.run:
        run, model = loaded(text)
        case = of_model(model, f"{run.name}, step {model.step}")
        ends = case.ends(9, arguments.fresh)
        found = sorted(solutions_of(run), key=lambda one: one.nfe)
        solutions += [(f"{run.name}, step {one.step}", one) for one in found]
        for nfe in sorted({one.nfe for one in found} | {20}):
            _, linear, how = untuned(case, nfe, ends)
            add(case, nfe, f"untuned, {how}", linear, ends)
        for one in found:
            if one.step == model.step:
                add(case, one.nfe, f"tuned ({one.kept})", Linear.of(one.coefficients), ends)
    for text in arguments.on:
        run, model = loaded(text)
        case = of_model(model, f"{run.name}, step {model.step}")
        ends = case.ends(9, arguments.fresh)
        for origin, one in solutions:
            linear = Linear.of(one.coefficients)
            if linear.matrices[0].shape == (model.sde.n, model.sde.n + model.sde.m):
                add(case, one.nfe, f"fitted to {origin}", linear, ends)
    out.print(shown)


if __name__ == "__main__":
    main()

"""How far samples are from the diamond, whose density is known. Used by `benchmarks.samplers`."""

import dataclasses
import functools
import math
import statistics
from dataclasses import dataclass

from torch import Tensor

from cld_core.analytic import diamond
from cld_core.config.registry import SECTIONS
from cld_core.config.sampling import ExponentialSpec, SamplingSpec
from cld_core.evaluate.vectors import sliced_w2
from cld_core.samplers import sample
from cld_core.score import ScoreFunction
from cld_core.sde import CLD, Diffusion
from cld_core.seeds import SampleNoise, generator

LAW = diamond()
TRUE_LOG_DENSITY = -LAW.entropy()


class NoSplit(CLD):
    """CLD whose exponential steps interpolate the whole score, to show what splitting the score
    gains."""

    def _known(self, psi, lower):
        return 0.0 * super()._known(psi, lower)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A score and its SDE."""

    name: str
    sde: Diffusion
    score: ScoreFunction


def exact(name: str, sde: Diffusion) -> Case:
    return Case(name=name, sde=sde, score=LAW.score(sde))


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The quality of samples, averaged over seeds."""

    sw2: float  # sliced 2-Wasserstein distance from the same number of true samples
    sw2_error: float  # its standard error
    logp: float  # mean true log-density of the samples, in nats
    rms: float  # rms distance per coordinate from the exact flow of the same noise


@functools.cache
def truth(n: int, seed: int) -> Tensor:
    return LAW.sample(n, generator(seed, "true"))


def floor(n: int, seeds: int) -> tuple[float, float]:
    """Mean distance between two true sets over all pairs of at least two seeds, and its standard
    error."""
    pairs = [sliced_w2(truth(n, a), truth(n, b)) for a in range(seeds) for b in range(a)]
    return statistics.mean(pairs), standard_error(pairs)


def standard_error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def draw(case: Case, spec: SamplingSpec, n: int, seed: int) -> Tensor:
    """(n, 2) samples. For a given seed, all samplers start from the same draw of the prior."""
    noise = SampleNoise(seed, "samplers", first=0, last=n)
    return sample(case.score, case.sde, spec, noise, (2,)).x


class Bench:
    """Measures samplers on one case. The end points of the exact flow are computed once."""

    def __init__(self, case: Case, n: int, seeds: int) -> None:
        self.case, self.n, self.seeds = case, n, seeds
        fine = ExponentialSpec(nfe=300, order=2, corrector=False)
        sde = case.sde
        if isinstance(sde, NoSplit):
            sde = exact("", CLD(beta0=sde.schedule.beta0, beta1=sde.schedule.beta1)).sde
        split = dataclasses.replace(case, sde=sde)
        self.flow = [draw(split, fine, n, seed) for seed in range(seeds)]

    def __call__(self, *, method: str, **settings) -> Quality:
        spec = SECTIONS["sampling"].find(method).spec(**settings)
        distances, logps, squares = [], [], []
        for seed in range(self.seeds):
            x = draw(self.case, spec, self.n, seed)
            distances += [sliced_w2(x, truth(self.n, other)) for other in range(self.seeds)]
            logps.append(float(LAW.log_density(x).mean()))
            squares.append(float((x - self.flow[seed]).double().square().mean()))
        return Quality(
            sw2=statistics.mean(distances),
            sw2_error=standard_error(distances),
            logp=statistics.mean(logps),
            rms=math.sqrt(statistics.mean(squares)),
        )

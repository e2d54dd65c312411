"""What PSLD's samplers should solve exactly: the table of docs/math.md section 11.1.

`python -m benchmarks.known_precision` prints the mean true log-density (nats; the truth is 1.403) of 1,000 samples of
the diamond, with exact scores, by the exponential sampler, for several K. Two minutes on one core.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cld_core.analytic import diamond
from cld_core.config.sampling import ExponentialSpec
from cld_core.samplers import sample
from cld_core.sde import PSLD, Law
from cld_core.sde.number import Number
from cld_core.sde.rows import Rows
from cld_core.seeds import SampleNoise

SPECS = (
    {"nfe": 10, "order": 2},
    {"nfe": 20, "order": 2},
    {"nfe": 20, "order": 3, "corrector": False},
    {"nfe": 50, "order": 2},
)


def for_data(law: Law[Any]) -> Rows[Any]:
    """The precision of both halves under a law."""
    (p, q), (_, (slope,)) = law.precisions, law.slopes
    return (p + q * slope * slope, -q * slope), (-q * slope, q)


def of_v_alone(law: Law[Any]) -> Rows[Any]:
    """1 / Sigma_vv, of the law without data."""
    (p, q), (_, (slope,)) = law.precisions, law.slopes
    return (0.0 * p, 0.0 * p), (0.0 * p, 1.0 / (1.0 / q + slope * slope / p))


def nothing(law: Law[Any]) -> Rows[Any]:
    zero = 0.0 * law.det
    return (zero, zero), (zero, zero)


@dataclass(frozen=True, kw_only=True)
class Split(PSLD):
    """PSLD with another K."""

    rule: Callable[[Law[Any]], Rows[Any]]
    data_var: float

    def known_precision(self, t: Number) -> Rows[Number]:
        return self.rule(self.law(t, data_var=self.data_var))


CHOICES = {
    "diag(0, 1 / Sigma_vv of HSM)": Split(rule=of_v_alone, data_var=0.0),
    "for data of variance 1": Split(rule=for_data, data_var=1.0),
    "for data of variance 0.25": PSLD(),
    "0": Split(rule=nothing, data_var=0.25),
}


def main() -> None:
    law = diamond()
    for name, sde in CHOICES.items():
        found = []
        for keys in SPECS:
            noise = SampleNoise(0, first=0, last=1000)
            x = sample(law.score(sde), sde, ExponentialSpec(**keys), noise, (2,)).x
            found.append(f"{float(law.log_density(x).mean()):.3f}")
        print(f"| {name} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()

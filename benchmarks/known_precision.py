"""What PSLD's samplers should solve exactly: the table of docs/math.md section 11.1.

`python -m benchmarks.known_precision` prints the mean true log-density (nats; the truth is 1.403)
of 1,000 samples of the diamond, with exact scores, by the exponential sampler, for several K. Two
minutes on one core.
"""

from dataclasses import dataclass
from typing import Any

from cld_core.analytic import diamond
from cld_core.config.sampling import ExponentialSpec
from cld_core.samplers import sample
from cld_core.sde import PSLD
from cld_core.seeds import SampleNoise

SPECS = (
    {"nfe": 10, "order": 2},
    {"nfe": 20, "order": 2},
    {"nfe": 20, "order": 3, "corrector": False},
    {"nfe": 50, "order": 2},
)


@dataclass(frozen=True, kw_only=True)
class Split(PSLD):
    """PSLD with another K: that for data of a standard deviation."""

    data_std: float

    def _known(self, psi: Any, lower: Any) -> Any:
        return self._precision(psi, lower, self.data_std)


class OfVAlone(PSLD):
    """1 / Sigma_vv, of the law without data."""

    def _known(self, psi: Any, lower: Any) -> Any:
        known = 0.0 * lower
        known[1, 1] = 1.0 / (lower[1] ** 2).sum(0)
        return known


class Nothing(PSLD):
    def _known(self, psi: Any, lower: Any) -> Any:
        return 0.0 * lower


CHOICES = {
    "diag(0, 1 / Sigma_vv of HSM)": OfVAlone(),
    "for data of variance 1": Split(data_std=1.0),
    "for data of variance 0.25": PSLD(),
    "0": Nothing(),
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

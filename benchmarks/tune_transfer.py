"""Times fitted with one diffusion, used with another: `python -m benchmarks.tune_transfer`.

Exact scores of the diamond. Times are carried over at equal shares of B(t)^(1/6), together with the order and the
corrector that they were fitted for. Coefficients cannot be carried over: these diffusions differ in the number of their
halves, or of those with a score.
"""

import argparse
import math

import torch

from benchmarks import harness
from benchmarks.tune import EPS, fitted, of_diamond, rms, untuned
from cld_core.run.tunings import CANDIDATES, Row
from cld_core.samplers.tuned import Linear
from cld_core.sde import CLD, HOLD, PSLD, VPSDE, Diffusion
from cld_core.tune.linear import of_exponential, shares_of, times_of

DIFFUSIONS: dict[str, Diffusion] = {"CLD": CLD(), "PSLD": PSLD(), "HOLD": HOLD(), "VPSDE": VPSDE()}


def carried(row: Row, origin: Diffusion, sde: Diffusion) -> Linear:
    """The sampler of a row that was fitted with ``origin``, for another diffusion."""
    times = times_of(sde.schedule, shares_of(origin.schedule, row.sampler.times), EPS)
    return of_exponential(sde, times, CANDIDATES[row.which], True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nfe", type=int, nargs="+", default=[7, 10], help="network evaluations")
    parser.add_argument("--points", type=int, default=1000, help="points of a fit")
    parser.add_argument("--fresh", type=int, default=2000, help="fresh draws that distances are measured on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = [of_diamond(name, sde) for name, sde in DIFFUSIONS.items()]
    fresh = {case.name: case.ends(9, arguments.fresh) for case in cases}
    for nfe in arguments.nfe:
        headings = ("with", "untuned", *(f"times of {case.name}" for case in cases))
        shown = harness.table(f"{nfe} evaluations: rms distance from the flow on fresh noise", headings)
        rows = {}
        for case in cases:
            *_, (_, rows[case.name], _) = fitted(case, nfe, arguments.points, ("untuned", "grid"))
        for case in cases:
            own, _, _ = untuned(case, nfe, fresh[case.name])
            distances = [rms(case, carried(rows[other.name], other.sde, case.sde), fresh[case.name]) for other in cases]
            cells = [f"{one:.4f}" if math.isfinite(one) else "diverges" for one in (own, *distances)]
            shown.add_row(case.name, *cells)
        harness.console().print(shown)


if __name__ == "__main__":
    main()

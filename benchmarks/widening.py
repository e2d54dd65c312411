"""How many evaluations the exponential sampler needs with noise: `python -m benchmarks.widening`.

Prints the table of docs/samplers.md: the fewest evaluations tried from which on samples of N(0,
0.04^2), with its score, are never more than twice too wide. Exact, without sampling; about 20
seconds.
"""

import itertools

import torch

from cld_core.config.sampling import ExponentialSpec
from cld_core.samplers.exponential import widening
from cld_core.sde import CLD, VPSDE, Diffusion

NFE = (10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200)
CASES: dict[str, tuple[Diffusion, ...]] = {
    "CLD": (CLD(), CLD(beta0=0.1, beta1=6.9)),
    "VPSDE": (VPSDE(),),
}
POWERS, ETAS = (6.0, 2.0), (0.3, 1.0)


def fewest(sdes: tuple[Diffusion, ...], numbers: tuple[int, ...] = NFE, **settings) -> str:
    """The first of ``numbers`` after the last that does not do for all of ``sdes``."""
    last = 0
    for nfe, sde in itertools.product(numbers, sdes):
        if not widening(sde, ExponentialSpec(nfe=nfe, **settings)) <= 2.0:
            last = nfe
    enough = [nfe for nfe in numbers if nfe > last]
    return str(enough[0]) if enough else f"> {numbers[-1]}"


def main() -> None:
    torch.set_num_threads(1)
    columns = list(itertools.product(POWERS, CASES, ETAS))
    print(
        "| settings |",
        " | ".join(f"{name}, power {power:g}, eta {eta:g}" for power, name, eta in columns),
        "|",
    )
    print("|", " | ".join(["--"] * (len(columns) + 1)), "|")
    for order, corrector in itertools.product(range(4), (False, True)):
        settings = {"order": order, "corrector": corrector}
        cells = [
            fewest(CASES[name], grid_power=power, eta=eta, **settings)
            for power, name, eta in columns
        ]
        print(
            f"| order {order}{', corrector' if corrector else ''} |",
            " | ".join(cells),
            "|",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""The table of checks. Loads no torch: functions are named, as in the other registries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cld_core.errors import UsageError, did_you_mean
from cld_core.imports import resolve

from .findings import Finding


@dataclass(frozen=True)
class Check:
    """A check: ``call`` names a function of a `Context` and of ``arguments`` that returns a `Finding`.

    Attributes:
        quick: one of the quick checks, which `cldctl doctor --gpu` runs.
    """

    name: str
    call: str
    arguments: tuple[str, ...] = ()
    quick: bool = False

    @property
    def function(self) -> Callable[..., Finding]:
        found: Callable[..., Finding] = resolve(f"{__package__}.{self.call}")
        return found


# Those that train on GPUs.
RECIPES = (
    "cifar10",
    "cifar10_vpsde",
    "cifar10_psld",
    "cifar10_hold",
    "celeba64_psld",
    "celebahq256_paper",
    "celebahq256",
)
CHECKS = (
    Check("tf32", "tf32:check", quick=True),
    Check("parity fp32", "parity:check", ("fp32",), quick=True),
    Check("parity channels_last", "parity:check", ("channels_last",), quick=True),
    Check("parity tf32", "parity:check", ("tf32",), quick=True),
    Check("parity bf16", "parity:check", ("bf16",), quick=True),
    Check("parity fp16", "parity:check", ("fp16",), quick=True),
    Check("parity zeros upsampling", "parity:check", ("zeros upsampling",), quick=True),
    Check("parity polyphase upsampling", "parity:check", ("polyphase upsampling",), quick=True),
    Check("parity compiled", "parity:check", ("compiled",)),
    Check("parity graphs", "parity:check", ("graphs",)),
    Check("parity bf16 compiled", "parity:check", ("bf16 compiled",)),
    Check("parity fp16 compiled", "parity:check", ("fp16 compiled",)),
    Check("parity fp16 graphs", "parity:check", ("fp16 graphs",)),
    Check("parity fp16 celebahq256", "parity:check", ("fp16", "celebahq256")),
    Check("same samples", "sampling:same_as_cpu", quick=True),
    *(Check(f"step {name}", "steps:check", (name,), quick=name in ("cifar10", "celebahq256")) for name in RECIPES),
    Check("no waiting fp32", "synchronisation:check", ("fp32",)),
    Check("no waiting fp16", "synchronisation:check", ("fp16",), quick=True),
    Check("no waiting compiled", "synchronisation:check", ("fp16", "compiled")),
    Check("no waiting graphs", "synchronisation:check", ("fp16", "graphs")),
    Check("overflow", "overflow:check", quick=True),
    Check("auto", "forms:check"),
    Check("two ranks", "two_ranks:check"),
    Check("two ranks compiled", "two_ranks:check", ("compiled",)),
    Check("checkpoint", "saving:check"),
    Check("resume", "resuming:check"),
    *(Check(f"sampler {name}", "sampling:check", (name,)) for name in ("ode", "em", "sscs", "exponential")),
    Check("fid", "fid:check"),
)


def find(names: Sequence[str] = (), *, quick: bool = False) -> list[Check]:
    """The checks of these names, or all, in the order of the table; with ``quick`` only those that are.

    Raises:
        UsageError: there is no check of such a name; names the nearest.
    """
    known = [check.name for check in CHECKS]
    for name in names:
        if name not in known:
            fix = did_you_mean(name, known) or f" There are: {', '.join(known)}."
            raise UsageError(f"'{name}' is not a check of GPUs.{fix}")
    return [check for check in CHECKS if (check.quick or not quick) and (check.name in names or not names)]

"""Which samplers can draw samples given an observation."""

from cld_core.config.sampling import SamplingSpec
from cld_core.errors import UsageError


def require_untuned(spec: SamplingSpec) -> None:
    """Refuse a sampler that was fitted to the flow without an observation.

    Raises:
        UsageError
    """
    if spec.needs_solution:
        text = f"sampling.method={spec.method} was fitted to the network's flow without an observation"
        raise UsageError(f"{text}. Choose another method, for example exponential.")

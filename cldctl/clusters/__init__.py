"""Where jobs run. Each cluster is one module or package behind the protocol of `base`; adding one adds a line here.

The names are strings, so that naming a cluster loads nothing.
"""

import importlib

from cld_core.errors import UsageError, did_you_mean

from .base import Cluster

# In the order in which a default is looked for: the first that can be used here.
CLUSTERS: dict[str, str] = {}


def find(name: str) -> Cluster:
    """The cluster of a name.

    Raises:
        UsageError: there is none of this name; lists those there are.
    """
    if name not in CLUSTERS:
        guess = did_you_mean(name, CLUSTERS)
        raise UsageError(f"--cluster cannot be '{name}'; expected one of {', '.join(CLUSTERS)}.{guess}")
    module, _, attribute = CLUSTERS[name].partition(":")
    made = getattr(importlib.import_module(module), attribute)()
    assert isinstance(made, Cluster), f"{CLUSTERS[name]} is not a Cluster"
    return made


def default() -> Cluster:
    """The first cluster that can be used on this machine."""
    return next(cluster for cluster in map(find, CLUSTERS) if cluster.unavailable() is None)

"""Where jobs run. Each cluster is one module or package behind the protocol of `base`; adding one adds a line here.

The names are strings, so that naming a cluster loads nothing.
"""

from cld_core.errors import UsageError, did_you_mean
from cld_core.registration import resolve

from .base import Cluster

# The default is the first that can be used on this machine.
CLUSTERS: dict[str, str] = {
    "slurm": "cldctl.clusters.slurm.cluster:SlurmCluster",
    "local": "cldctl.clusters.local:LocalCluster",
    "debug": "cldctl.clusters.debug:DebugCluster",
}


def find(name: str) -> Cluster:
    """The cluster with this name.

    Raises:
        UsageError: there is no such cluster; the message lists those there are.
    """
    if name not in CLUSTERS:
        guess = did_you_mean(name, CLUSTERS)
        raise UsageError(f"--cluster cannot be '{name}'; expected one of {', '.join(CLUSTERS)}.{guess}")
    cluster = resolve(CLUSTERS[name])()
    assert isinstance(cluster, Cluster), f"{CLUSTERS[name]} is not a Cluster"
    assert cluster.name == name, f"{CLUSTERS[name]} is registered as '{name}' and calls itself '{cluster.name}'"
    return cluster


def default() -> Cluster:
    """The first cluster that is configured on this machine."""
    return next(cluster for cluster in map(find, CLUSTERS) if cluster.is_configured())

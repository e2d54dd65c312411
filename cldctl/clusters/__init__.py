"""Where jobs run.

Each cluster is one module or package behind the protocol of `base`, and one line of `CLUSTERS`.
Classes are named by strings, so that the registry loads none of them.
"""

from typing import TYPE_CHECKING

from cld_core.errors import UsageError, did_you_mean
from cld_core.plugins import resolve
from cld_core.run import RunFolder
from cld_core.sanitize import one_line
from cldctl import config

from .base import Cluster

if TYPE_CHECKING:
    from cld_core.config.cluster import ClusterSpec

# The default is the first that can be used on this machine.
CLUSTERS: dict[str, str] = {
    "slurm": "cldctl.clusters.slurm.cluster:SlurmCluster",
    "local": "cldctl.clusters.local:LocalCluster",
    "debug": "cldctl.clusters.debug:DebugCluster",
}


def find(name: str) -> Cluster:
    """The cluster with this name.

    Raises:
        UsageError: there is no such cluster; the message lists the existing ones.
    """
    if name not in CLUSTERS:
        guess = did_you_mean(name, CLUSTERS)
        raise UsageError(
            f"--cluster cannot be '{name}'; expected one of {', '.join(CLUSTERS)}.{guess}"
        )
    cluster = resolve(CLUSTERS[name])()
    assert isinstance(cluster, Cluster), f"{CLUSTERS[name]} is not a Cluster"
    assert cluster.name == name, (
        f"{CLUSTERS[name]} is registered as '{name}' and calls itself '{cluster.name}'"
    )
    return cluster


def chosen(name: str | None, run: RunFolder | None = None, *, is_preview: bool = False) -> Cluster:
    """The cluster with this name; without one, that of ``run`` (`History.cluster`) or the default.

    Args:
        is_preview: nothing will be submitted, so that the cluster need not be usable on this
            machine.

    Raises:
        UsageError: there is no such cluster, or it cannot be used on this machine.
    """
    if name is None and run is not None:
        name = run.ledger.history().cluster
        if name is not None and name not in CLUSTERS:
            raise UsageError(
                f"{run.name} belongs to the cluster '{one_line(name)}', which this version of "
                f"cldctl does not know. Name another one: --cluster {'|'.join(CLUSTERS)}."
            )
    cluster = default() if name is None else find(name)
    reason = cluster.unavailable()
    if reason is not None and not is_preview:
        raise UsageError(f"--cluster {cluster.name}: {reason}. Use --cluster local.")
    return cluster


def described(size: "ClusterSpec") -> Cluster:
    """The cluster of a preview without ``--cluster``.

    It is the first that this machine cannot use and whose keys ``size`` sets, or else the default.

    Raises:
        UsageError: the user's defaults cannot be read, or name a cluster that does not exist.
    """
    if config.setting("cluster") is None:
        for cluster in map(find, CLUSTERS):
            if cluster.unavailable() is not None and cluster.has_keys_in(size):
                return cluster
    return default()


def default() -> Cluster:
    """The cluster of new runs: that of the user's defaults, or else the first configured one.

    Raises:
        UsageError: the user's defaults cannot be read, or name a cluster that does not exist.
    """
    name = config.setting("cluster")
    if name is None:
        return next(cluster for cluster in map(find, CLUSTERS) if cluster.is_configured())
    try:
        return find(name)
    except UsageError as error:
        places = ["$CLDCTL_CLUSTER", *filter(None, [config.file()])]
        raise UsageError(
            f"{error} It is the default, in {' or '.join(map(str, places))}."
        ) from error


def default_profile(cluster: Cluster) -> str | None:
    """The user's default profile if ``cluster`` is the default cluster; else None.

    Raises:
        UsageError: the user's defaults cannot be used.
    """
    name = config.setting("profile")
    if name is None or cluster.name != default().name:
        return None
    return name

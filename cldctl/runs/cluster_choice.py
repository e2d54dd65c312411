"""Which cluster a run belongs to."""

from cld_core.errors import UsageError
from cld_core.run import RunFolder
from cldctl import clusters, config
from cldctl.clusters.base import Cluster


def chosen(name: str | None, run: RunFolder | None = None) -> Cluster:
    """The cluster of this name; without one the run's own (`History.cluster`), or the default.

    Raises:
        UsageError: there is no such cluster, or it cannot be used on this machine.
    """
    if name is None and run is not None:
        name = run.ledger.history().cluster
    cluster = default() if name is None else clusters.find(name)
    if (reason := cluster.unavailable()) is not None:
        raise UsageError(f"--cluster {cluster.name}: {reason}")
    return cluster


def default() -> Cluster:
    """Where new runs start unless somebody says otherwise: as the user's defaults say, or the first that can be used.

    Raises:
        UsageError: there is no such cluster.
    """
    name = config.setting("cluster")
    if name is None:
        return clusters.default()
    try:
        return clusters.find(name)
    except UsageError as error:
        places = " or ".join(map(str, filter(None, ("$CLDCTL_CLUSTER", config.file()))))
        raise UsageError(f"{error} It is the default, in {places}.") from error


def default_profile(cluster: Cluster) -> str | None:
    """The profile for jobs of ``cluster`` unless somebody names one: it is for the default cluster alone.

    Raises:
        UsageError: the user's defaults cannot be used.
    """
    name = config.setting("profile")
    return name if name is not None and cluster.name == default().name else None

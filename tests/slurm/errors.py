"""The error of the test cluster, and the packages it needs."""

from __future__ import annotations

import os
import shutil

INSTALL = "apt install slurm-wlm slurmdbd munge mariadb-server"

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PACKAGE_OF = {
    "munged": "munge",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "srun": "slurm-wlm",
    "squeue": "slurm-wlm",
    "scontrol": "slurm-wlm",
}

_PACKAGE_OF_ACCOUNTING = {
    "slurmdbd": "slurmdbd",
    "sacct": "slurm-wlm",
    "sacctmgr": "slurm-wlm",
    "mariadbd": "mariadb-server",
    "mariadb": "mariadb-client",
    "mariadb-install-db": "mariadb-server",
}


class SlurmTestError(RuntimeError):
    """The test cluster could not do what it was asked to."""


def search_path() -> str:
    """PATH with the folders in which Debian keeps daemons, which is often missing from that of users."""
    return os.pathsep.join(filter(None, [os.environ.get("PATH", ""), _SYSTEM_PATH]))


def why_unusable(*, accounting: bool = True) -> str | None:
    """Why no cluster can be started on this machine (one line), or None if one can."""
    if os.geteuid() != 0:
        return "the test Slurm runs as root only (slurmd has to start jobs)"
    needed = _PACKAGE_OF | (_PACKAGE_OF_ACCOUNTING if accounting else {})
    for binary, package in needed.items():
        if shutil.which(binary, path=search_path()) is None:
            return f"`{binary}` is missing (Debian package {package}): {INSTALL}"
    return None

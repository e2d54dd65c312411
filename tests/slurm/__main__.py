"""A Slurm to try out: `python -m tests.slurm up|down|status`, as root, in .slurm-test/."""

import sys

from tests.support.paths import ROOT

from .cluster import SlurmCluster, destroy
from .processes import Processes

FOLDER = ROOT / ".slurm-test"
HINTS = f"""\
export SLURM_CONF={FOLDER}/slurm.conf
# Paste the line above into your shell. Then, for example:
#   sinfo                                                    4 nodes, 5 partitions
#   srun -N2 hostname                                        a job on 2 nodes
#   sbatch -p high -N4 --exclusive --wrap 'sleep 3'          preempt the jobs on `low`
#   scontrol update nodename=n1 state=down reason=test       lose a node (state=resume: get it back)
#   make slurm-down                                          stop everything"""


def up():
    """Start the cluster, or report that it is running; standard output is the same either way."""
    if _is_up():
        print("It is already up.", file=sys.stderr)
    else:
        try:
            SlurmCluster(FOLDER).start()
        except AssertionError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(HINTS)
    return 0


def down():
    """Stop the cluster and remove its folder; does nothing if there is none."""
    print("The test Slurm is down." if FOLDER.exists() else "There is no test Slurm to stop.")
    destroy(FOLDER)
    return 0


def status():
    """List the daemons that are running; exit code 0 if the cluster is up, 3 if it is not (like
    `systemctl status`)."""
    if not _is_up():
        print("The test Slurm is down (make slurm-up starts it).")
        return 3
    print(f"The test Slurm is up: export SLURM_CONF={FOLDER}/slurm.conf")
    for process in sorted(Processes(FOLDER).found(), key=lambda process: int(process.pid)):
        print(f"{process.pid:>8}  {process.name()}")
    return 0


def _is_up():
    return Processes(FOLDER).daemon("slurmctld") is not None


if __name__ == "__main__":
    commands = {"up": up, "down": down, "status": status}
    if sys.argv[1:2] and sys.argv[1] in commands:
        sys.exit(commands[sys.argv[1]]())
    sys.exit("usage: python -m tests.slurm up | down | status")

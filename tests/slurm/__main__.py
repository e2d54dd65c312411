"""A Slurm to try things on: `python -m tests.slurm up|down|status`, as root, in the repository's .slurm-test/."""

from __future__ import annotations

import sys
from pathlib import Path

from . import machine
from .cluster import SlurmCluster
from .errors import SlurmTestError
from .processes import Processes

ROOT = Path(__file__).resolve().parents[2] / ".slurm-test"

USAGE = "usage: python -m tests.slurm up | down | status"


def main(arguments: list[str]) -> int:
    commands = {"up": up, "down": down, "status": status}
    if len(arguments) != 1 or arguments[0] not in commands:
        print(USAGE, file=sys.stderr)
        return 2
    try:
        return commands[arguments[0]]()
    except SlurmTestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def up() -> int:
    """Start the cluster, or report that it is running; standard output is the same either way."""
    if _is_up():
        print("It is already up.", file=sys.stderr)
    else:
        SlurmCluster(ROOT, keep=True).start()
    print(f"export SLURM_CONF={ROOT}/slurm.conf")
    print("# Paste the line above into your shell. Then, for example:")
    print("#   sinfo                                                    4 nodes, 5 partitions")
    print("#   srun -N2 hostname                                        a job on 2 nodes")
    print("#   sbatch -p high -N4 --exclusive --wrap 'sleep 3'          preempt the jobs on `low`")
    print("#   scontrol update nodename=n1 state=down reason=test       lose a node (state=resume: get it back)")
    print("#   make slurm-down                                          stop everything")
    return 0


def down() -> int:
    """Stop the cluster and remove its folder; does nothing if there is none."""
    if (ROOT / "owner.json").exists():
        machine.destroy(ROOT)
        print("The test Slurm is down.")
    else:
        print("There is no test Slurm to stop.")
    return 0


def status() -> int:
    """List the daemons that are running; exit code 0 if the cluster is up, 3 if it is not (like `systemctl status`)."""
    if not _is_up():
        print("The test Slurm is down (make slurm-up starts it).")
        return 3
    print(f"The test Slurm is up: export SLURM_CONF={ROOT}/slurm.conf")
    for process in sorted(Processes(ROOT).remaining(), key=lambda process: int(process.pid)):
        print(f"{process.pid:>8}  {process.name()}")
    return 0


def _is_up() -> bool:
    return (ROOT / "owner.json").exists() and not machine.is_stale(ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

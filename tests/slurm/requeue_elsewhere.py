"""An aftermath for tests: `python -m tests.slurm.requeue_elsewhere FOLDER DELAY_S EXIT_CODE`.

After a crash it records the node and the time in FOLDER/crashes.txt, and requeues the job for later on another node.
"""

import sys
import time
from pathlib import Path

from cldctl.clusters.slurm.cluster import SlurmCluster


def main() -> int:
    folder, delay_s, code = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    if code == 0:
        return 0
    job = SlurmCluster().current_job(folder / "logs")
    with (folder / "crashes.txt").open("a") as file:
        file.write(f"{job.ref.job_id} {job.node} {time.time()}\n")
    job.requeue(delay_s=delay_s, exclude=(job.node,))
    return code


if __name__ == "__main__":
    sys.exit(main())

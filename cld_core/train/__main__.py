"""Train a run without a scheduler: ``torchrun --nproc-per-node 8 -m cld_core.train runs/NAME``.

mpirun works too, with MASTER_ADDR and MASTER_PORT set. SIGUSR2 and SIGTERM save and end; the same command goes on.
"""

import argparse
import os
import sys

from cld_core.errors import CldError
from cld_core.run import RunFolder

from .stop import StopFlag


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cld_core.train", description=__doc__)
    parser.add_argument("run_folder", help="a run folder, as `cldctl submit --cluster none` or `submit` makes it")
    arguments = parser.parse_args()
    stop = StopFlag().listen()
    from . import distributed, session

    try:
        folder = RunFolder.open(arguments.run_folder)
        ranks = distributed.join()
        job_id = os.environ.get("TORCHELASTIC_RUN_ID") or f"pid-{os.getpid()}"
        ended = session.run(folder, ranks, stop, job_id=job_id)
        ranks.leave()
    except CldError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{folder.name}: {ended.cause} at step {ended.step}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

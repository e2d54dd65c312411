"""The job that a command runs in, if it is typed inside of one: what Slurm says of that job is not said of a new one.

sbatch reads it as options and passes it on: a new job would take itself for task 3 of an array or for a second start,
and srun would refuse memory that is asked for in two ways.
"""

import contextlib
import os
from collections.abc import Iterator

# What Slurm, and nobody else, sets; a shell that hides the id of its job has the others nevertheless.
_MARKS = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID", "SLURM_PROCID")
_PREFIXES = ("SLURM_", "SLURMD_", "SRUN_")
# Which Slurm is asked, as whom, and how its clients print. SBATCH_ variables are what a user wants for all their jobs.
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_TIME_FORMAT")


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """In this block, the environment does not tell of the job that this process belongs to."""
    outer = {}
    if any(mark in os.environ for mark in _MARKS):
        outer = {name: os.environ[name] for name in os.environ if name.startswith(_PREFIXES) and name not in _KEPT}
    for name in outer:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(outer)

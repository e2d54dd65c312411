"""What each process of a job of submitit runs, ``python -P -m cldctl.clusters.entry LOGS``, and how it is called.

submitit's own entry unpickles whatever lies in LOGS under the name of the job. This one makes sure that the file was
written by this user, and by nobody else.
"""

import errno
import os
import pickle
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from cld_core import files, ownership, processor
from cld_core.errors import CldError, UsageError
from cld_core.files import passes
from cld_core.rendezvous import Place

# What a process of a job is known by, which has the log folder as its last argument.
MODULE = "cldctl.clusters.entry"
# A job may begin before the command that has submitted it knows its number, by which the file is named.
PATIENCE_S = 60.0
# Paths and numbers.
MAX_BYTES = 64 * 2**20
_WHY = "this job would run what is in it"


def python_command() -> str:
    """The Python of this environment, which imports nothing from the working directory."""
    return f"{shlex.quote(sys.executable)} -P"


def command(python: str, logs: Path) -> str:
    """The command that each process of a job runs."""
    return f"{python} -u -m {MODULE} {shlex.quote(str(logs))}"


def place(init_method: str) -> Place:
    """This process among those of its job."""
    import submitit

    environment = submitit.JobEnvironment()
    return Place(
        rank=environment.global_rank,
        world_size=environment.num_tasks,
        local_rank=environment.local_rank,
        local_world_size=environment.num_tasks // environment.num_nodes,
        init_method=init_method,
    )


def content_of(file: Path, patience_s: float = PATIENCE_S) -> bytes:
    """What this user has submitted as ``file``, which may take a while to appear.

    Raises:
        UsageError: somebody else may have written it, or it does not appear.
        OSError: it cannot be read for so long, which the next start may.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with files.opened(file) as stream:
                problem = ownership.problem_of(os.fstat(stream.fileno()))
                if problem is not None:
                    raise UsageError(f"{file}: {problem}, and {_WHY}. Remove it, and submit the job again.")
                return stream.read(MAX_BYTES)
        except OSError as error:
            # NFS says ESTALE while the file is being given its name.
            may_come = error.errno == errno.ENOENT or passes(error)
            if not may_come or time.monotonic() > deadline:
                if passes(error):
                    raise
                raise UsageError(f"{file}: {error.strerror}. Submit the job again.") from error
        time.sleep(0.2)


def main(arguments: list[str]) -> int:
    processor.wait_briefly()
    folder = arguments[0]
    os.environ["SUBMITIT_FOLDER"] = folder
    from submitit.core import submission, utils
    from submitit.core.job_environment import JobEnvironment

    try:
        content = content_of(JobEnvironment().paths.submitted_pickle)
    except CldError as error:
        # Usage, which the aftermath does not try again: the next start would find the same file.
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except OSError as error:
        print(f"error: {error}. The next start tries again.", file=sys.stderr, flush=True)
        return 1

    def load(path: Any) -> Any:
        return pickle.loads(content)

    setattr(utils.DelayedSubmission, "load", staticmethod(load))  # noqa: B010
    submission.process_job(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

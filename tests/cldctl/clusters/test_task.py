"""What a launcher calls in each process of a job."""

import os
import signal
import sys

import pytest

from cld_core.run.events import JobRef
from cld_core.stop import StopCode
from cldctl.clusters.base import InJob, Task
from cldctl.clusters.debug import DebugCluster
from tests.support.tools import signal_handlers


class Impatient(DebugCluster):
    """Its jobs are asked to stop before their work has begun."""

    def current_job(self, logs=None):
        os.kill(os.getpid(), signal.SIGUSR2)
        return InJob(cluster=self, ref=JobRef(cluster=self.name, job_id="7"))


@pytest.mark.parametrize(("code", "ends"), [(None, 0), (0, 0), (7, 7)])
def test_it_listens_first_and_ends_the_process_with_the_code_of_the_work(code, ends):
    begun = []

    def work(job, stop):
        begun.append((job.ref.job_id, stop.code))
        if code is not None:
            sys.exit(code)

    with signal_handlers(), pytest.raises(SystemExit) as end:
        Task(work, Impatient())()
    assert (begun, end.value.code) == ([("7", StopCode.USR2)], ends)

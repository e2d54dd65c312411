"""Which nodes are avoided: decided from a ledger, bounded, and forgotten."""

import time
from dataclasses import replace

import pytest

from cld_core.config.schema import ClusterSpec
from cld_core.errors import NonFiniteError
from cld_core.ranks import RankError
from cld_core.run.events import Failed
from cld_core.run.history import History
from cldctl.clusters.base import JobSpec
from cldctl.jobs import failures
from cldctl.jobs.failures import bad, for_next_start, for_submission
from cldctl.jobs.process import UNFIT
from tests.support.made_up import queued, unfit, wished
from tests.support.scripted import alone, inside

NOW = time.time()


def failed(host, restart, ago=60.0, rank=0):
    return Failed(
        "rank", time=NOW - ago, job_id="7", restart=restart, rank=rank, host=host, reason="it broke"
    )


def crashed(host, job_id="8_0", ago=60.0):
    return Failed("crash", time=NOW - ago, job_id=job_id, restart=0, code=1, host=host)


def test_one_failure_is_no_pattern_and_two_are():
    assert bad([failed("n1", 0)], NOW) == {}
    assert bad([failed("n1", 0), failed("n1", 1)], NOW) == {"n1": "2 crashes"}
    assert bad([failed("n1", 0), failed("n2", 1)], NOW) == {}
    assert bad([crashed("n1", "8_0"), crashed("n1", "8_1"), crashed(""), crashed("")], NOW) == {
        "n1": "2 crashes"
    }
    assert bad([unfit("n3"), unfit("")], NOW) == {"n3": "unfit (gpu)"}, "one failed check is enough"
    old = 2 * failures.DAY_S
    assert bad([failed("n1", 0, ago=old), failed("n1", 1), unfit("n2", ago=old)], NOW) == {}


def test_the_rank_that_failed_first_is_to_blame():
    same_start = [failed("n2", 0, ago=50, rank=3), failed("n1", 0, ago=51, rank=1)]
    again = [failed("n2", 1, ago=10, rank=3), failed("n1", 1, ago=11, rank=1)]
    assert bad([*same_start, *again], NOW) == {"n1": "2 crashes"}


def history(*events):
    return History.of([queued(), *events])


def avoided(found, job, needed):
    return list(for_next_start(found, job, needed)[0])


def test_at_most_half_of_the_nodes_are_avoided_and_the_newest_count():
    found = history(*(unfit(f"n{number}", ago=100 - number) for number in range(1, 11)))
    assert avoided(found, inside(count=4), 1) == ["n9", "n10"]
    assert avoided(found, inside(count=4), 3) == ["n10"]
    assert avoided(found, inside(count=2), 2) == []
    assert len(avoided(found, inside(count=1000), 2)) == failures.MOST


def test_nodes_that_somebody_else_excluded_are_not_usable():
    """With n1 and n2 excluded and two nodes needed, a job that avoided n3 would wait for ever."""
    found = history(unfit("n3"), unfit("n1"))
    assert avoided(found, inside(excluded=("n1", "n2")), 2) == []
    assert avoided(found, inside(excluded=("n1", "n2")), 1) == ["n3"], "n1 is avoided anyway"
    mine = history(unfit("n3"), wished("crashed", exclude=("n3",)))
    assert for_next_start(mine, inside(excluded=("n3", "n4")), needed=1) == (
        {"n3": "unfit (gpu)"},
        (),
    )
    assert for_next_start(found, inside(excluded=None), needed=1) == ({}, ()), (
        "nobody can tell which"
    )


def test_what_is_no_longer_to_be_avoided_is_readmitted():
    before = history(unfit("n1", ago=failures.DAY_S + 1), wished("crashed", exclude=("n1",)))
    assert for_next_start(before, inside(), needed=1) == ({}, ("n1",))
    kept = for_next_start(before, inside(count=None), needed=1)
    assert kept == ({"n1": "avoided before"}, ()), "without an answer, nothing changes"


@pytest.mark.parametrize(("count", "excluded"), [(4, ("n1",)), (None, ()), (1, ())])
def test_another_job_of_the_run_avoids_them_too(tmp_path, count, excluded):
    cluster = alone(restarts=True, nodes=count)
    spec = JobSpec(name="mine", logs=tmp_path, size=ClusterSpec())
    assert for_submission([unfit("n1")], cluster, spec) == replace(spec, exclude=excluded)
    assert for_submission([], cluster, spec) == spec


KILLED = "srun: error: n2: task 1: Killed\nsrun: error: n1: task 0: Exited with exit code 1\n"


def noted(run, error, **about):
    job = inside(node="n3", restart=2, **about)
    with pytest.raises(type(error)), failures.noted(run, job):
        raise error
    return run.ledger.events()


def test_a_rank_names_its_node(run):
    (event,) = noted(run, KeyError("weights\nand more"))
    assert event.kind == "rank"
    assert (event.job_id, event.restart, event.rank, event.host) == ("7", 2, 0, "n3")
    assert event.reason == "KeyError: 'weights\\nand more'"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("NCCL communicator was aborted on rank 3."),
        RankError("no disk"),
        NonFiniteError("step 3"),
    ],
)
def test_a_rank_that_fails_because_of_another_one_blames_nobody(run, error):
    assert noted(run, error) == []


def killed(log, *, hung=False, trained=True):
    event = failures.killed_rank(inside(said=log), 0, hung=hung, trained=trained)
    return None if event is None else (event.rank, event.host, event.reason)


def test_a_killed_rank_is_named_by_the_launcher_and_those_that_srun_ended_are_not_blamed():
    assert killed(KILLED) == (1, "n2", "Killed")
    several = "srun: error: n1: tasks 0,2-3: Segmentation fault (core dumped)\n"
    assert killed(several) == (0, "n1", "Segmentation fault (core dumped)")
    ended = (
        "srun: error: n1: task 0: Exited with exit code 1\nsrun: error: n2: task 1: Terminated\n"
    )
    assert killed(ended) is None, "a rank that ends by itself says why itself"
    assert killed(ended, trained=False) == (0, "n1", "Exited with exit code 1"), (
        "unless it did not get so far"
    )


def test_a_machine_that_cannot_even_write_the_ledger(run):
    said = f"srun: error: n4: task 3: Exited with exit code {UNFIT}\n"
    event = failures.unfit_by_log(inside(said=said), 0, 1)
    assert (event.host, event.rank) == ("n4", 3)
    event = failures.unfit_by_log(inside(), 0, UNFIT)
    assert event.host == ""
    assert failures.unfit_by_log(inside(said=KILLED), 0, 1) is None

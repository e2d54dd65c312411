"""The rank that failed first: by its own word, or by what the launcher says."""

import pytest

from cld_core.errors import NonFiniteError
from cld_core.run.events import RankFailed
from cld_core.train.jointly import RankError
from cldctl.jobs import failures
from cldctl.jobs.process import UNFIT
from tests.support.made_up import run_with
from tests.support.scripted import inside

KILLED = "srun: error: n2: task 1: Killed\nsrun: error: n1: task 0: Exited with exit code 1\n"


@pytest.fixture
def run(tmp_path):
    return run_with(tmp_path / "mine")


def noted(run, error, **about):
    job = inside(node="n3", restart=2, **about)
    with pytest.raises(type(error)), failures.noted(run, job):
        raise error
    return run.ledger.events()


def test_a_rank_names_its_node(run):
    (event,) = noted(run, KeyError("weights\nand more"))
    assert isinstance(event, RankFailed)
    assert (event.job_id, event.restart, event.rank, event.host) == ("7", 2, 0, "n3")
    assert event.reason == "KeyError: 'weights\\nand more'"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4711"),
        RuntimeError("NCCL communicator was aborted on rank 3."),
        RankError("rank 0 could not continue: no disk"),
        NonFiniteError("step 3: not finite"),
    ],
)
def test_a_rank_that_fails_because_of_another_one_blames_nobody(run, error):
    assert noted(run, error) == []


def killed(log: str, *, hung: bool = False, trained: bool = True) -> tuple[int, str, str] | None:
    event = failures.killed_rank(inside(said=log), 0, hung=hung, trained=trained)
    return None if event is None else (event.rank, event.host, event.reason)


def test_a_rank_that_was_killed_is_named_by_the_launcher():
    assert killed(KILLED) == (1, "n2", "Killed")
    assert killed("srun: error: n1: tasks 0,2-3: Segmentation fault (core dumped)\n") == (
        0, "n1", "Segmentation fault (core dumped)"
    )  # fmt: skip


def test_ranks_that_srun_ended_are_not_to_blame():
    ended = "srun: error: n1: task 0: Exited with exit code 1\nsrun: error: n2: task 1: Terminated\n"
    assert killed(ended) is None, "a rank that ends by itself says why itself"
    assert killed(ended, trained=False) == (0, "n1", "Exited with exit code 1"), "unless it did not get so far"


def test_of_ranks_that_hang_the_one_that_had_to_be_killed_is_to_blame():
    assert killed(KILLED, hung=True) == (1, "n2", "it hung, and was killed")
    assert killed(KILLED + "srun: error: n1: task 2: Killed\n", hung=True) is None, "nobody knows which"


def test_a_machine_that_cannot_even_write_the_ledger(run):
    said = f"srun: error: n4: task 3: Exited with exit code {UNFIT}\n"
    (event,) = failures.unfit_by_log(inside(said=said), 0, 1)
    assert (event.host, event.rank) == ("n4", 3)
    (event,) = failures.unfit_by_log(inside(), 0, UNFIT)
    assert event.host == ""
    assert failures.unfit_by_log(inside(said=KILLED), 0, 1) == []

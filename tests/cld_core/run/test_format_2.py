"""A run folder of format 2, frozen: every later version reads or upgrades it. Never change the fixture."""

import shutil
from pathlib import Path

import pytest

from cld_core.checkpoint.verify import sidecar_of
from cld_core.evaluation.evaluation import Evaluation
from cld_core.recipe.sampling import OdeSpec
from cld_core.run import RunFolder
from cld_core.run.attempt import Attempt
from cld_core.run.events import (
    KINDS,
    Dropped,
    Event,
    JobRef,
    Measured,
    Measuring,
    MergeRefused,
    NotCancelled,
    Noted,
    NotRequeued,
    OtherCode,
    RankFailed,
    RecipeEdited,
    Requested,
    Requeued,
    Submitted,
    Tagged,
    TaskFailed,
    TurnedAway,
    Unfit,
    Unknown,
)
from cld_core.run.history import History
from tests.support.paths import FIXTURES

LOGS = "/runs/run_v2/logs"
# Events that the version which wrote the fixture did not have.
LATER = {
    Dropped,
    Measured,
    Measuring,
    MergeRefused,
    NotCancelled,
    Noted,
    NotRequeued,
    OtherCode,
    RankFailed,
    RecipeEdited,
    Tagged,
    TaskFailed,
    Unfit,
}


@pytest.fixture(scope="module")
def run() -> RunFolder:
    return RunFolder.open(FIXTURES / "run_v2")


def slurm(job_id: str) -> JobRef:
    return JobRef(cluster="slurm", job_id=job_id, logs=LOGS, restarts=True)


def local(job_id: str, started: float, **more) -> JobRef:
    details = {"host": "login1", "pid": int(job_id), "process_started": started}
    return JobRef(cluster="local", job_id=job_id, logs=LOGS, details=details, **more)


def test_the_fixture_has_every_kind_of_event(run):
    assert {type(event) for event in run.ledger.events()} == {*KINDS.values(), Unknown} - LATER


def test_its_identity_progress_and_recipe(run):
    assert run.identity()["git"] == {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False}
    assert run.identity()["imported"] == "/home/ann/checkpoint_10.pth"
    assert run.progress()["steps_per_s"] == 120.5
    recipe = run.recipe()
    assert (recipe.name, recipe.train.steps, recipe.cluster.partition) == ("toy", 400, "gpu")


def test_its_attempts(run):
    imported, requeued, crashed, running = run.ledger.history().with_progress(run.progress()).attempts
    assert imported == Attempt(
        attempt=0,
        job_id=None,
        started=1767225600.5,
        first_step=10,
        ended=1767225600.5,
        cause="imported",
        last_step=10,
        detail="imported from checkpoint_10.pth",
        noted_end=True,
    )
    assert requeued == Attempt(
        attempt=1,
        job_id="41",
        started=1767225900.0,
        first_step=10,
        ended=1767226000.0,
        cause="requeued",
        last_step=120,
        detail="SIGTERM",
        noted_end=True,
        host="n1",
        log_offset=0,
        versions={"torch": "2.6.0"},
        rewound=True,
    )
    assert crashed == Attempt(
        attempt=2,
        job_id="41",
        started=1767226100.0,
        first_step=120,
        ended=1767226200.0,
        cause="crashed",
        last_step=180,
        detail="CUDA error: device lost",
        noted_end=True,
        host="n2",
        warning="GPUs were requested, but torch sees none",
        restart=1,
        log_offset=2048,
    )
    assert running == Attempt(
        attempt=3, job_id="7002", started=1767229200.0, first_step=120, last_step=350, host="login1"
    )


def test_the_rest_of_its_history(run):
    history = run.ledger.history().with_progress(run.progress())
    steps = ("train.steps=300", "train.steps=300", "cluster.partition=gpu", "train.steps=400")
    expected = History(
        attempts=history.attempts,
        submitted=(
            Submitted(time=1767225801.0, job=slurm("41")),
            Submitted(time=1767225905.0, job=slurm("42"), successor_of="41"),
            Submitted(time=1767229001.0, job=local("7001", 1767229000.9, process=1)),
            Submitted(time=1767229100.0, job=local("7002", 1767229099.5)),
        ),
        turned_away={"42": "withdrawn"},
        steps=400,
        overrides=steps,
        imported_step=10,
        cancelled=frozenset({"7002"}),
        not_begun={"7001": "no checkpoint is intact"},
        requeued=Requeued(time=1767226201.0, job_id="41", cause="crashed", delay_s=10.0),
        given_up="no checkpoint is intact",
        requeued_attempts=frozenset({2}),
        crashes={"43_1": 1},
        failures=history.failures,
        avoided=history.avoided,
        attempts_before=history.attempts_before,
        rolled_back_to=(10,),
        last_of=history.last_of,
    )
    assert history == expected
    assert [getattr(event, "node", None) for event in history.failures] == ["n2"]


def test_the_last_event_of_each_job(run):
    last: dict[str, Event] = dict(run.ledger.history().last_of)
    assert {job: type(event).__name__ for job, event in last.items()} == {
        "41": "GivenUp",
        "42": "TurnedAway",
        "43_1": "Crashed",
        "7001": "NotBegun",
        "7002": "Cancelled",
    }
    assert last["42"] == TurnedAway(time=1767226302.0, job_id="42", why="withdrawn")


def test_requests_of_this_version_have_these_fields(run):
    second = [event for event in run.ledger.events() if isinstance(event, Requested)][1]
    expected = Requested(
        time=1767225800.0,
        steps=300,
        overrides=("train.steps=300", "cluster.partition=gpu"),
        from_step=10,
    )
    assert second == expected


def test_its_checkpoint(run):
    assert run.checkpoint_steps() == [120]
    sidecar = sidecar_of(run, 120)
    assert sidecar is not None
    assert (sidecar.format, sidecar.bytes, sidecar.sha256[:8], sidecar.seconds) == (1, 824007, "d6c952d8", 0.023)


def test_its_evaluation(run, tmp_path):
    work = Evaluation(run.evals / "elbo-00000120-78ce5c25")
    request = work.request
    assert (request.id, request.shards, request.points, request.sizes) == (work.name, 2, 4, {"elbo": 4})
    assert request.sampling == OdeSpec()
    assert [event.shards for event in work.ledger.history().submitted] == [(0,), (1,)]
    assert work.ledger.history().crashes == {"44_1": 1}
    assert work.is_done
    assert work.report["elbo"]["n"] == 4
    assert work.missing() == [0, 1], "the fixture has no rows, only their descriptions"
    copied = Evaluation(Path(shutil.copytree(run.path, tmp_path / "copy")) / "evals" / work.name)
    for shard in range(2):
        (copied.shards / f"{shard:05d}-elbo.npz").write_bytes(bytes(1080))
    assert copied.missing() == []
    assert copied.rows_done() == (4, 4)

"""What is written when, and what is left of a submission that fails."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from cld_core import cpu
from cld_core.errors import NotFoundError, RecipeError, UsageError
from cld_core.run import RunFolder, ledger
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import JobRef, Requested, Submitted
from cld_core.run.state import is_locked
from cld_core.run.work import Training, evaluations_of
from cldctl import clusters, locks
from cldctl.clusters.base import After, SchedulerAway, SchedulerRefused
from cldctl.evals import plan
from cldctl.jobs import hooks
from cldctl.runs.options import SubmitOptions, require_inputs, require_native
from cldctl.runs.plan import check
from cldctl.runs.start import PlannedTraining, PlannedWork, start
from tests.support import scripted
from tests.support.failing import FULL_DISK, Failing
from tests.support.made_up import note, queued, report, requested, run_with
from tests.support.paths import ROOT
from tests.support.plugin import toy_plugin
from tests.support.recipes import toy_recipe
from tests.support.scheduler import clients
from tests.support.scripted import alone
from tests.support.tools import invoke

pytestmark = pytest.mark.usefixtures("small")


def submitted(path, cluster, metrics=(), *overrides):
    given = ("train.steps=20", "eval.samples=32", *overrides)
    options = SubmitOptions(
        recipe="toy", root=path.parent, name=path.name, given=given, chained=metrics
    )
    return scripted.submitted(options, cluster)


def continued(run, cluster, recipe=None, request=None):
    """Start a training that continues, whatever its state."""
    recipe = recipe or run.recipe()
    request = request or requested(10)
    planned = PlannedTraining(
        work=Training(run.path), size=recipe.cluster, recipe=recipe, request=request
    )
    start([planned], cluster, run)


def test_the_request_is_in_the_ledger_before_the_job_exists(tmp_path):
    events = []

    def look(number):
        events.extend(RunFolder(tmp_path / "mine").ledger.events())

    started = submitted(tmp_path / "mine", alone(before=look))
    assert [type(event) for event in events] == [Requested]
    history = started.works[0].run.ledger.events()
    assert [type(event) for event in history] == [Requested, Submitted]


def test_an_evaluation_is_a_job_that_waits_for_the_training(tmp_path):
    cluster = alone(most=2)
    started = submitted(
        tmp_path / "mine", cluster, ("elbo",), "cluster.tasks_per_node=4", "eval.points=4096"
    )
    _, (evaluation, tasks) = cluster.submissions
    assert evaluation.after == After((started.works[0].job,))
    assert len(tasks) == 2, "four shards, at most two tasks"
    (work,) = evaluations_of(started.works[0].run)
    assert [evaluation.name for evaluation in started.chained] == [work.name]
    assert [event.shards for event in work.ledger.history().jobs] == [(0, 2), (1, 3)]


@pytest.mark.parametrize(
    ("text", "how", "sweep"),
    [("1234_5:ok", "succeeded", ()), ("1234:any", "ended", ("train.seed=0,1",))],
)
def test_a_training_waits_for_another_job_and_its_evaluation_for_the_training(
    tmp_path, text, how, sweep
):
    cluster = alone(queues=True)
    wanted = SubmitOptions(
        recipe="toy", root=tmp_path, name="mine", sweep=sweep, chained=("elbo",), after=text
    )
    assert check(wanted, cluster).after == After(
        (JobRef(cluster=cluster.name, job_id=text.partition(":")[0]),), how
    )
    started = scripted.submitted(wanted, cluster)
    trainings, *evaluations = [spec.after for spec, _ in cluster.submissions]
    assert trainings == check(replace(wanted, name="other"), cluster).after
    assert evaluations == [After((job,)) for job in started.jobs]


@pytest.mark.parametrize(
    ("error", "away"), [(SchedulerRefused("no"), False), (SchedulerAway("no answer"), True)]
)
def test_a_new_run_that_was_not_submitted_leaves_its_name_free_and_another_one_says_so(
    tmp_path, error, away
):
    with pytest.raises(type(error)):
        submitted(tmp_path / "mine", alone(error=error), ("elbo",))
    assert not (tmp_path / "mine").exists()
    run = run_with(tmp_path / "mine", 10)
    long_ago = requested(10, time=1.0)
    with pytest.raises(type(error)):
        continued(run, alone(error=error), request=long_ago)
    request, event = run.ledger.events()[-2:]
    assert event.time - 60 < request.time <= event.time, "when it was written"
    assert (event.what, event.reason, event.away) == ("submission", str(error), away)


def test_a_refusal_that_cannot_be_noted_is_raised_and_the_hook_put_back(
    tmp_path, monkeypatch, capsys
):
    run = run_with(tmp_path / "mine", 10)
    monkeypatch.setattr(
        ledger, "append_line", Failing(ledger.append_line, lambda number: number > 1, FULL_DISK)
    )
    recipe = toy_recipe("hooks.on_change=echo")
    with pytest.raises(SchedulerRefused, match="no"):
        continued(run, alone(error=SchedulerRefused("no")), recipe)
    assert hooks.allowed(run.logs) is None
    assert "the submission of mine was refused (No space left" in capsys.readouterr().err


def test_whether_an_evaluation_is_being_computed_must_be_known(tmp_path, scripted, monkeypatch):
    """Otherwise it would be called "already being computed", and nobody would compute it."""
    run, cluster = run_with(tmp_path / "mine", 10, 20), scripted()
    requests = plan.make(run, ("elbo",), [10, 20], []).requests
    works = [Evaluation(run.evals / request.id, request) for request in requests]

    def evaluate():
        return start([PlannedWork(work=work) for work in works], cluster, run)

    evaluate()
    scripted.away.add("scripted")
    with pytest.raises(
        SchedulerAway,
        match=r"nobody answers\. Whether this is being computed is unknown; try again",
    ):
        evaluate()
    for request in requests:
        report(run, request)
    assert evaluate().is_over, "nobody has to be asked"


def natively(cluster, *overrides):
    """What is said of the precision of a recipe."""
    said = []
    require_native(toy_recipe("train.precision=bf16", *overrides), cluster, said.append)
    return said


def test_data_and_plug_ins_are_looked_at_before_anything_is_written(tmp_path):
    numbers, said = np.random.default_rng(0).normal(size=(60, 2, 8)), []
    np.save(tmp_path / "curves.npy", numbers)
    np.save(tmp_path / "rows.npy", numbers[:, 0])
    five = toy_plugin(tmp_path / "five.py", "test_five", points="torch.randn(n, 5)")
    own = (ROOT / "examples" / "own_network.py").read_text()
    (tmp_path / "own.py").write_text(own.replace("unflatten(1, self.shape)", "sum(1)"))
    for wrong, words in [
        (
            [f"plugins={tmp_path}/own.py", "network.name=gated"],
            "'network.name': gated of .* cannot be used: for u",
        ),
        ([f"data={{name: arrays, path: {tmp_path}/gone.npy}}"], "'data.path': .*no such file"),
        (
            [f"data={{name: arrays, path: {tmp_path}/curves.npy}}"],
            r"'network.name' .*\(2, 8\).*unet1d",
        ),
        ([f"plugins={five}", "data.name=test_five"], r"'data.name': .*shape=\(5,\)"),
    ]:
        with pytest.raises(RecipeError, match=words):
            require_inputs(toy_recipe(*wrong))
    require_inputs(toy_recipe("data.name=arrays", f"data.path={tmp_path}/rows.npy"), said.append)
    assert "55 training examples are few" in said[0]


def test_a_precision_that_this_processor_emulates_needs_permission(monkeypatch):
    emulated = ["bf16"]
    monkeypatch.setattr(cpu, "emulates", emulated.__contains__)
    here, elsewhere = alone(), alone()
    here.queues, elsewhere.queues = False, True
    with pytest.raises(
        RecipeError, match=r"train.precision=bf16 .*train.precision=fp32, or train.emulated=true"
    ):
        natively(here)
    assert len(natively(here, "train.emulated=true")) == 1
    assert natively(here, "cluster.gpus_per_node=1") == natively(here, "train.precision=fp32") == []
    (warning,) = natively(elsewhere)
    assert "unless those of the nodes" in warning
    emulated.clear()
    assert natively(here) == []


@pytest.fixture(autouse=True)
def _as_in_a_terminal():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def jobs(run):
    (work,) = evaluations_of(run)
    ledgers = run.ledger, work.ledger
    training, evaluation = (
        [event.job.job_id for event in it.history().submitted] for it in ledgers
    )
    return training, evaluation


@pytest.mark.parametrize("times", [1, 2])
def test_what_goes_on_and_what_does_not_is_said(tmp_path, monkeypatch, times):
    def ctrl_c(number):
        for _ in range(times if number == 2 else 0):
            os.kill(os.getpid(), signal.SIGINT)

    cluster = alone(before=ctrl_c)
    monkeypatch.setattr(clusters, "chosen", lambda *arguments, **options: cluster)
    submit = "submit toy train.steps=20 eval.samples=32 --name mine --eval elbo"
    done = invoke(submit, runs=tmp_path / "runs", code=130)
    assert (
        "interrupted; mine is submitted as job 1_0 and continues (`cldctl cancel mine"
        in done.stderr
    )
    assert ("cldctl eval mine --elbo" in done.stderr) == (times == 2)
    assert jobs(RunFolder(tmp_path / "runs" / "mine")) == (["1_0"], ["2_0"] if times == 1 else [])


def test_a_refused_evaluation_does_not_hide_that_the_training_goes_on(tmp_path):
    refusal = (
        r"mine trains as job 1_0, but its evaluation elbo-\S+ was not submitted: .*`cldctl "
        r"eval mine --elbo"
    )
    full = Failing(lambda number: None, lambda number: number == 2, SchedulerRefused("too many"))
    with pytest.raises(SchedulerRefused, match=f"{refusal}.*: too many"):
        submitted(tmp_path / "mine", alone(before=full), ("elbo",))
    assert jobs(RunFolder(tmp_path / "mine")) == (["1_0"], [])


def test_the_last_job_decides_and_a_cluster_that_cannot_be_used_here_is_named(
    run, monkeypatch, tmp_path
):
    (tmp_path / "slurm.conf").touch()
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    clients(tmp_path, monkeypatch)
    assert clusters.chosen(None, run).name == "slurm", "the default"
    note(run, queued("1", cluster="local"))
    assert clusters.chosen(None, run).name == "local"
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert clusters.chosen(None).name == "local"
    note(run, queued("1", cluster="slurm"))
    with pytest.raises(
        UsageError, match=r"--cluster slurm: there is no sbatch .*Use --cluster local\."
    ):
        clusters.chosen(None, run)
    note(run, queued("1", cluster="theirs"))
    with pytest.raises(UsageError, match="mine belongs to the cluster 'theirs'"):
        clusters.chosen(None, run)


def test_whether_somebody_submits_at_this_moment(run):
    """A process that holds the lock itself is not somebody else."""
    assert not is_locked(run.path)
    with locks.only_one(run.path, clusters.find("local")):
        assert not is_locked(run.path)
        look = (
            "import sys, pathlib; from cld_core.run.state import is_locked; "
            "sys.exit(is_locked(pathlib.Path(sys.argv[1])))"
        )
        assert subprocess.run([sys.executable, "-c", look, str(run.path)]).returncode == 1
    assert not is_locked(run.path)


def test_a_folder_that_is_removed_while_somebody_waits_for_its_lock(tmp_path, monkeypatch):
    folder, lock = tmp_path / "mine", locks._lock
    folder.mkdir()

    def removed_meanwhile(descriptor, file):
        monkeypatch.setattr(locks, "_lock", lock)
        shutil.rmtree(folder)
        lock(descriptor, file)

    monkeypatch.setattr(locks, "_lock", removed_meanwhile)
    with (
        pytest.raises(NotFoundError, match="was removed meanwhile"),
        locks.only_one(folder, clusters.find("local")),
    ):
        pytest.fail("the folder is gone")
    assert not folder.exists()

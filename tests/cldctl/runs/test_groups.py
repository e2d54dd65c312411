"""What is started of a group, and what is left of one that is refused."""

import json
from pathlib import Path

import pytest

from cld_core.errors import RecipeError, UsageError
from cld_core.run import RunFolder, code
from cld_core.run.evaluations import sweeps_of
from cld_core.run.folder import is_name
from cld_core.run.groups import Group, find_group, values_of
from cld_core.run.work import evaluations_of
from cldctl.clusters.base import SchedulerRefused
from cldctl.runs import logs, options, plan, removal
from cldctl.runs.options import EvalOptions, SubmitOptions
from cldctl.runs.resume import Continuation
from cldctl.runs.start import start
from tests.support.made_up import bound, ended, note, requested, run_with, seeds, started
from tests.support.scripted import Other, Scripted, outcomes, register, resumed, submitted
from tests.support.tools import invoke

SEEDS = ("train.seed=0,1,2",)


@pytest.fixture
def arrays(monkeypatch, small):
    """Accepts arrays and runs none; a job has an id of its own, and logs."""
    return register(monkeypatch, first=None, most=1000, queues=True)()


def asked(tmp_path, sweep=SEEDS, given=("train.steps=20", "eval.samples=32"), **more):
    return SubmitOptions(recipe="toy", root=tmp_path, name="g", sweep=sweep, given=given, **more)


def submit(wanted, cluster):
    plan.check(wanted, cluster)
    return submitted(wanted, cluster)


def end(cluster, run, cause, step=5):
    """Let the newest job of a run have trained, and end so."""
    job_id = run.ledger.history().jobs[-1].job.job_id
    number = len(run.ledger.history().attempts)
    note(run, started(number, job_id=job_id), ended(cause, step, attempt=number))
    cluster.phases[job_id] = "gone"


def test_all_runs_are_one_submission_and_know_their_group(tmp_path, arrays):
    started = submit(asked(tmp_path, tags=("t",), parallel=2, chained=("elbo", "loss")), arrays)
    (spec, tasks), *evaluations = arrays.submissions
    assert [spec.after.jobs[0].job_id for spec, _ in evaluations] == ["1_0", "1_1", "1_2"], (
        "each waits for its own"
    )
    assert [work.run.name for work in started.chained] == [*outcomes(started)]
    assert (spec.name, spec.parallel, spec.logs) == ("g", 2, tmp_path / ".groups/g/logs")
    assert [task.run for task in tasks] == [str(tmp_path / f"g-seed{seed}") for seed in range(3)]
    assert outcomes(started) == dict.fromkeys(["g-seed0", "g-seed1", "g-seed2"], "new")
    run = RunFolder(tmp_path / "g-seed1")
    assert (run.identity()["group"], values_of(run)) == ("g", {"train.seed": "1"})
    history = run.ledger.history()
    assert ([event.job.job_id for event in history.jobs], history.tags) == (["1_1"], ("t",))
    assert [run.name for run in find_group(tmp_path, "g").runs()] == [*outcomes(started)]
    assert evaluations_of(run)[0].request.metrics == ("elbo", "loss"), "--eval may be repeated"


def test_more_runs_than_an_array_takes_are_several_under_one_limit(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr(Scripted, "array", 2)
    started = submit(asked(tmp_path, parallel=2), arrays)
    specs = [spec for spec, _ in arrays.submissions]
    assert [[job.job_id for job in spec.earlier] for spec in specs] == [[], ["1_0", "1_1"]]
    assert [job.job_id for job in started.jobs] == ["1_0", "1_1", "2_0"]
    assert len({spec.aftermath[2] for spec in specs}) == 2, "each numbers its own tasks"


def test_submitting_again_starts_only_what_is_missing(tmp_path, arrays):
    submit(asked(tmp_path), arrays)
    runs = [RunFolder(tmp_path / f"g-seed{seed}") for seed in range(3)]
    end(arrays, runs[0], "finished", 20)
    end(arrays, runs[1], "terminated")
    again = submit(asked(tmp_path, ("train.seed=0,1,2,3",)), arrays)
    found = ["finished already", "resumed", "running already", "new"]
    assert outcomes(again) == {f"g-seed{seed}": word for seed, word in enumerate(found)}
    (_, (_, tasks)) = arrays.submissions
    assert [task.run for task in tasks] == [str(runs[1].path), str(tmp_path / "g-seed3")]
    assert submit(asked(tmp_path, ("train.seed=0,1,2,3",)), arrays).jobs == [], (
        "everything is finished or alive"
    )
    with pytest.raises(UsageError, match="--name g: a group has this name"):
        plan.check(asked(tmp_path, ()), arrays)


def test_a_damaged_list_or_member_loses_no_run_of_a_group(tmp_path):
    first, _ = seeds(tmp_path, "g", 2)
    group = Group(tmp_path, "g")
    group.file.write_text("{")
    group.add({"g-2": {"train.seed": "2"}})
    assert group.members() == {f"g-{seed}": {"train.seed": str(seed)} for seed in range(3)}
    first.identity_file.write_text("x")
    assert [run.name for run in group.runs()] == ["g-0", "g-1"]


def test_what_is_refused_leaves_nothing_behind(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr(Scripted, "most", 2)
    with pytest.raises(RecipeError, match="3 tasks do not fit"):
        submit(asked(tmp_path), arrays)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Scripted, "error", SchedulerRefused("no"))
    with pytest.raises(SchedulerRefused):
        submit(asked(tmp_path, ("train.seed=0,1",)), arrays)
    assert [*tmp_path.rglob("*")] == [tmp_path / ".groups"]


def test_a_group_is_resumed_by_one_submission(tmp_path, arrays):
    submit(asked(tmp_path, chained=("elbo",)), arrays)
    runs = Group(tmp_path, "g").runs()
    for run, cause in zip(runs, ("finished", "crashed", "terminated"), strict=True):
        end(arrays, run, cause, 20 if cause == "finished" else 5)
    runs[1].identity_file.write_text(json.dumps({**runs[1].identity(), "format": 99}))
    before, longer = len(arrays.submissions), Continuation(overrides=("cluster.time_min=60",))
    started = resumed(Group(tmp_path, "g"), arrays, longer)
    assert outcomes(started) == {
        "g-seed0": "finished already",
        "g-seed1": None,
        "g-seed2": "resumed",
    }
    assert "format 99" in str(started.works[1].error)
    spec, _ = arrays.submissions[before]
    assert spec.size.time_min == 60
    (work,) = evaluations_of(runs[2])
    assert len(work.ledger.history().submitted) == 2, "its evaluation waits for the new job"


def test_a_group_is_evaluated_by_one_submission_of_what_is_missing(tmp_path, arrays):
    runs = seeds(tmp_path, "g", 3, 10)
    bound(runs[0], 10, 1.0, shards=2)
    group = Group(tmp_path, "g")
    group.add({run.name: {} for run in runs})
    wanted = EvalOptions(metrics=("elbo",), checkpoint="10", shards=2)

    def evaluate():
        works, failed = plan.evaluations_of_group(group, wanted, "scripted", lambda text: None)
        assert not failed
        started = start(works["scripted"], arrays, group)
        return [planned.outcome for planned in started.works]

    assert evaluate() == ["already complete", "started", "started"]
    ((spec, tasks),) = arrays.submissions
    assert (spec.logs, len(tasks)) == (group.logs, 4)
    (work,) = evaluations_of(runs[2])
    assert logs.of_evaluation(runs[2], work.name, 1, 0).job.logs == str(group.logs)
    assert evaluate() == ["already complete", "being computed", "being computed"]
    assert len(arrays.submissions) == 1


@pytest.fixture
def on_two_clusters(tmp_path, arrays):
    """Runs of a group, the first on one cluster and the second on another."""
    runs = seeds(tmp_path, "g", 2, 10)
    for run, name in zip(runs, ("scripted", "other"), strict=True):
        note(run, requested(10, cluster=name))
    return runs


def test_each_run_of_a_group_is_evaluated_on_its_own_cluster(on_two_clusters):
    invoke("eval g --loss --checkpoint 10 --sweep eval.points=8,16")
    for run, name in zip(on_two_clusters, ("scripted", "other"), strict=True):
        works = evaluations_of(run)
        clusters = [work.ledger.history().submitted[0].job.cluster for work in works]
        assert clusters == [name, name]
        assert len(sweeps_of(run)) == 1


def test_what_one_cluster_refuses_leaves_the_evaluations_of_another(on_two_clusters, monkeypatch):
    monkeypatch.setattr(Other, "error", SchedulerRefused("no such account"))
    done = invoke("eval g --loss --checkpoint 10", code=4)
    first, second = on_two_clusters
    assert len(evaluations_of(first)) == 1
    assert evaluations_of(second) == []
    assert "g-1: no such account" in done.stderr
    assert "already complete" not in done.stderr


def test_each_run_has_its_code_and_all_of_them_are_one_copy(tmp_path, arrays, small):
    """Their jobs need no run but their own."""
    planned = plan.with_code(plan.check(asked(tmp_path), arrays), asked(tmp_path), arrays)
    assert list(tmp_path.iterdir()) == [], "a dry run writes nothing"
    submit(asked(tmp_path), arrays)
    ((spec, _),) = arrays.submissions
    assert spec.code == planned.code
    runs = Group(tmp_path, "g").runs()
    first, *others = folders = [code.folder_of(run.path) for run in runs]
    assert [place.parent.parent for place in folders] == [run.path for run in runs]
    assert spec.code == tmp_path / ".groups" / "g" / "code" / first.name
    for place in (*others, spec.code):
        assert (place / "cld_core/a.py").samefile(first / "cld_core/a.py")
        assert code.name_of(place) == runs[0].ledger.history().code


def test_runs_of_a_group_with_other_code_are_other_arrays(tmp_path, arrays, small):
    submit(asked(tmp_path), arrays)
    runs = Group(tmp_path, "g").runs()
    for run in runs:
        end(arrays, run, "crashed")
    (small / "cld_core/a.py").write_text("A = 2\n")
    resumed(runs[0], arrays, Continuation(update_code=True))
    end(arrays, runs[0], "crashed")
    resumed(Group(tmp_path, "g"), arrays)
    *_, one, two = arrays.submissions
    for (spec, tasks), members in ((one, runs[:1]), (two, runs[1:])):
        assert [Path(task.run) for task in tasks] == [run.path for run in members]
        assert spec.code.name == code.folder_of(members[0].path).name


def test_the_last_run_of_a_group_takes_what_they_shared_along(tmp_path, arrays):
    submit(asked(tmp_path), arrays)
    runs = Group(tmp_path, "g").runs()
    for run in runs:
        end(arrays, run, "finished")
    for run in runs:
        shared = arrays.submissions[0][0].code
        assert code.problem_of(shared, code.read(shared)) is None, "others train"
        (entry,) = removal.plan([run])
        removal.remove(entry)
    assert not (tmp_path / ".groups" / "g").exists()


def test_names_are_usable_and_unique_whatever_the_values():
    awkward = [{"data.path": text} for text in ("/a b/c", "/a b_c", "ü", "x" * 300, "y" * 300)]
    awkward += [{"data.name": "a-y-b", "data.y": "c"}, {"data.name": "a", "data.y": "b-y-c"}]
    names = [options.run_name("g" * options.MAX_GROUP_NAME, values) for values in awkward]
    assert len(set(names)) == len(names)
    assert all(map(is_name, names))


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (["train.sed=0,1"], "Did you mean 'train.seed'"),
        (["train.seed=0,x"], r"--sweep, at train.seed=x: .*expected a whole number"),
        (["train.seed=x,0"], r"^(?!--sweep).*expected a whole number"),
        (["cluster.nodes=1,2"], "'cluster.nodes': the jobs of a sweep are one array"),
        (["eval.seed=1,2"], "'eval.seed': it changes no training"),
        (
            ["optim.lr=1e-4,0.0001"],
            "at optim.lr=0.0001: the recipe is the same as at optim.lr=1e-4",
        ),
        ([f"train.seed={','.join(map(str, range(501)))}"], "501 runs are more than 500"),
    ],
)
def test_a_mistake_is_named(tmp_path, sweep, message):
    with pytest.raises(UsageError, match=message):
        list(asked(tmp_path, sweep).cells)


def test_a_run_that_was_submitted_otherwise_is_not_taken_for_the_cell(tmp_path):
    given = ("train.seed=0", "train.steps=10", "eval.samples=32")
    seeds(tmp_path, "g", 1, infix="-seed", overrides=(*given, "cluster.time_min=9"))
    with pytest.raises(
        UsageError,
        match=r"g-seed0 exists, and was submitted with train.steps=10\. Use another --name",
    ):
        options.existing(asked(tmp_path))
    assert options.existing(asked(tmp_path, ("train.seed=0",), given[1:])), "the jobs may differ"
    run_with(tmp_path / "g-seed1")
    with pytest.raises(
        UsageError, match=r"g-seed1: a run of this name exists, and is not part of the group g"
    ):
        options.existing(asked(tmp_path, ("train.seed=1",)))


def test_what_earlier_versions_stored_and_the_data_decide_is_no_other_setting(tmp_path):
    given = ("data.name=cifar10", "network.name=ncsnpp", "network.multipliers=[1,2]")
    stored = (
        "network.image_size=32",
        "network.image_channels=3",
        "data.size=32",
        "network.attention=[16]",
    )
    seeds(tmp_path, "g", 1, infix="-seed", overrides=("train.seed=0", *given, *stored))
    assert options.existing(asked(tmp_path, ("train.seed=0",), given))
    with pytest.raises(UsageError, match=r"network.attention=\[16\]\. Use"):
        options.existing(asked(tmp_path, ("train.seed=0",), (*given, "network.attention=[32]")))

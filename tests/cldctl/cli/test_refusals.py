"""Wrong usage: one line with the fix, the promised exit code, and nothing is written."""

import shutil

import pytest

from cldctl.cli import options
from tests.support.tools import invoke

# By what is typed, the words of the message: wrong usage, and what there is not.
WRONG = {
    "submit toy --eval '' --cluster debug": ["--eval names no metric", "elbo"],
    "submit toy --name 'a b' --dry-run --cluster debug": ["'a b' cannot name a run", "letters"],
    "eval done --elbo --shards 100000": ["--shards 100000: work is divided into at most 10,000"],
    "status --watch": ["stdout is not one", "in a loop"],
    "submit toy --train.steps=5": ["--train.steps. See `cldctl submit --help`"],
    "sample done -n 99999999": ["-n", "10000000", "See `cldctl sample --help`"],
    "eval done": ["--elbo"],
    "eval done --metric our": ["'our' is not a metric; there are:", "elbo"],
    "eval done --elbo --sweep nfe=5,10": ["only keys of sampling, eval", "'sampling.nfe'?"],
    "eval done --elbo --sweep eval.seed=1,2 eval.seed=3": ["--sweep and eval.seed=3"],
    "eval --compare done done --elbo --shards 2": ["leave out --elbo, --shards"],
    "eval done --elbo ema.length=0.05": ["`cldctl resume done train.ema_lengths=["],
    "submit toy sampling.method=tuned --cluster debug": ["tuned needs a trained network"],
    "eval done --elbo train.steps=3": ["train.steps", "eval, sampling, ema, cluster and plugins"],
    "sample done -o x.jpg": [".png or .npz"],
    "sample done --observe none.npz": ["none.npz is not a file", "x=0.3"],
    "sample done -o /nowhere/x.png": ["no folder /nowhere"],
    "sample done --observe x=0.3 --inpaint i.png": ["both say what is known"],
    "sample done --inpaint i.png": ["--inpaint needs --mask"],
    "sample done --gradient-scale 2": ["--gradient-scale is about an observation"],
    "sample done --observe x=0.3 --how replacement --gradient-scale 2": [
        "Leave out --how replacement"
    ],
    "sample done --observe z=0.3": ["expected a number for x or y"],
    "resume done": ["is finished at step 20", "train.steps="],
    "reesume": ["No such command 'reesume'. Did you mean 'resume'? See `cldctl --help`."],
    "'\x1b[31mfrob\nnicate'": ["No such command", "`cldctl --help`"],
    "submit 'a\nb\x1b[31m'": ["there is no such recipe"],
    "note done": ["nothing to note"],
    "note done 'two\nlines'": ["one line"],
    "note done --tag a --untag a": ["both name a"],
    "bench samplers done --dry-run --nfe 10,x": ["--nfe: 'x' is not a number", "--nfe 5,7,10"],
    "bench samplers done --dry-run --sampler tuned": [
        "none of these samplers",
        "no tuned sampler of 10",
    ],
    "bench samplers done --dry-run --csv a.txt": ["--csv a.txt: numbers are written as .csv"],
    "bench samplers done --dry-run sampling.order=2": [
        "'sampling.order' is not a key of all methods"
    ],
    "tune done --nfe 1 --cluster debug": ["--nfe 1: a sampler is tuned for 2 to 50 evaluations"],
    "tune done --checkpoint all --cluster debug": [
        "--checkpoint all: a sampler is tuned to one network"
    ],
    "tune done sampling.nfe=3 --cluster debug": [
        "'sampling.nfe' has no effect on a tuning",
        "sampling.eps",
    ],
    "tune done --budget inf --cluster debug": ["--budget inf: a fit takes 0 to 1,000,000 minutes"],
    "compare done": ["done is one run"],
    "data stats toy": ["data.name=multimodal_swissroll are not pictures"],
    "report done --all": ["Leave one of them out"],
    "submit toy --sweep train.seed=0,1 --cluster debug train.seed=5": [
        "and train.seed=5 set the same key"
    ],
    "submit toy --parallel 2 --cluster debug": ["--parallel goes with --sweep"],
    "submit toy --after tomorrow --cluster local --dry-run": [
        "--after 'tomorrow'",
        "--after 1234:any",
    ],
    "submit toy --after 1 --cluster local --dry-run": ["no queue", "use another --cluster"],
}
MISSING = {
    "sample done --checkpoint '\x1b[2J'": ["is not a checkpoint of done"],
    "cancel done dome": ["no run at", "Nothing was cancelled"],
}


@pytest.mark.parametrize(
    ("line", "words"), [*WRONG.items(), *MISSING.items()], ids=lambda value: ascii(value)[:60]
)
def test_wrong_usage_is_refused_with_the_fix_and_the_code(runs, line, words):
    before = sorted(path.name for path in runs.iterdir())
    done = invoke(line, code=3 if line in MISSING else 2, CUDA_VISIBLE_DEVICES="")
    message = " ".join(done.stderr.split())
    assert [word for word in words if word not in message] == []
    assert done.stderr.splitlines()[-1].startswith("error: "), "one line, which no terminal obeys"
    assert done.stderr.replace("\n", "").isprintable()
    assert sorted(path.name for path in runs.iterdir()) == before, "nothing is half-written"


def test_without_runs():
    assert "no runs in" in invoke("status").stderr
    assert invoke("status --json").stdout.strip() == "[]"
    assert "there are no runs" in invoke("eval --elbo", code=3).stderr
    assert "no run can be resumed" in invoke("resume --yes", code=3).stderr


def test_a_name_is_looked_for_where_runs_dir_says(runs, tmp_path, monkeypatch):
    """And not beside the shell, where another run may have the same; a path is one by its slash."""
    for folder in ("here", "lr=0.1"):
        shutil.copytree(runs / "done", tmp_path / folder / "done")
    monkeypatch.chdir(tmp_path / "here")
    assert options.find_run("done", runs).path == runs / "done"
    assert options.find_run("./done", runs).path.resolve() == tmp_path / "here" / "done"
    monkeypatch.chdir(tmp_path)
    assert options.split_runs(["lr=0.1/done", "optim.lr=0.1/2"]) == (
        ["lr=0.1/done"],
        ["optim.lr=0.1/2"],
    )


@pytest.mark.parametrize("command", ["render toy", "submit toy --cluster debug"])
def test_a_line_of_a_batch_script_cannot_be_injected(tmp_path, command):
    injected = 'cluster.partition="low\\ntouch x #"'
    refused = invoke(command, injected, runs=tmp_path / "runs", code=2)
    assert "'cluster.partition' cannot be 'low\\ntouch x #'; expected a string" in refused.stderr
    assert not (tmp_path / "runs").exists()
    runs = tmp_path / "a\nb"
    refused = invoke("submit toy --name mine --cluster local", runs=runs, code=2)
    assert "the path of a job's logs cannot have" in refused.stderr
    assert not runs.exists()

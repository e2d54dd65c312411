"""What a shell offers: asked as a shell asks, and in a real bash."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from cld_core.evaluation.registry import METRICS
from cld_core.recipe.data import ToyDataSpec
from cld_core.run.groups import Group
from cldctl.runs.selection import selection
from tests.support.made_up import run_with
from tests.support.paths import ROOT
from tests.support.tools import cldctl, invoke


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with checkpoints and an evaluation, a group, and folders that are none of these."""
    root = tmp_path_factory.mktemp("runs")
    (run_with(root / "alpha-1", 10, 20).evals / "elbo-00000020-abcd").mkdir(parents=True)
    run_with(root / "beta-1", 30)
    Group(root, "alpha-group").add({})
    (root / "alpha-folder").mkdir()
    (root / "alpha-$(touch hacked)").mkdir()
    (root / "alpha-link").symlink_to("nowhere")
    return root


def offered(runs, *words, code=0):
    """What is offered for the last of the words, as bash asks: it splits them at "="."""
    typed = [part for word in words for part in re.split("(=)", word)]
    if words[-1].endswith("="):
        typed.pop()
    typed = ["cldctl", *(part for index, part in enumerate(typed) if part or index == len(typed) - 1)]
    asked = {"_CLDCTL_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(typed), "COMP_CWORD": str(len(typed) - 1)}
    done = invoke(runs=runs, code=code, **asked)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1] if done.stdout.endswith("\n") else done.stdout.split("\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sub"], ["submit"]),
        (["submit", "toy_d"], ["toy_demo", "toy_diamond"]),
        (["submit", "toy", "train.st"], ["train.steps=", "train.steps=800000"]),
        (["submit", "toy_demo", "train.st"], ["train.steps=", "train.steps=7000"]),
        (["submit", "toy_demo", "network.wi"], ["network.width=", "network.width=192"]),
        (["submit", "toy", "trai"], None),
        (["submit", "toy", "train.precision="], ["fp32", "bf16", "fp16"]),
        (["submit", "toy", "train.precision=b"], ["bf16"]),
        (["submit", "toy", "train.tf32="], ["true", "false"]),
        (["submit", "toy", "train.micro_batch=n"], ["null"]),
        (["submit", "toy", "sampling.method=e"], ["em", "exponential"]),
        (["submit", "toy", "network.mul"], []),
        (["submit", "cifar10", "network.mul"], ["network.multipliers=", "network.multipliers=[1,2,2,2]"]),
        (["submit", "toy", "network.name=ncsnpp", "network.multipliers="], ["[1,2,2,2]"]),
        (["submit", "toy", "network.name=resnet", "network.wi"], ["network.width=", "network.width=64"]),
        (["submit", "toy", "--sweep", "train.see"], ["train.seed=", "train.seed=0"]),
        (["submit", "toy", "--eval", ""], [*METRICS]),
        (["submit", "toy", "--eval", "fid,k"], ["fid,kid"]),
        (["submit", "toy", "--eval", "fid,el"], ["fid,elbo"]),
        (["submit", "toy", "--cluster", "l"], ["local"]),
        (["submit", "toy", "--profile", "ex"], ["example"]),
        (["resume", "al"], ["alpha-1", "alpha-group"]),
        (["resume", "alpha-1", "train.st"], ["train.steps=", "train.steps=800000"]),
        (["resume", "alpha-1", "--from", ""], ["last", "20", "10"]),
        (["status", "be"], ["beta-1"]),
        (["status", "--state", "RUNNING,FI"], ["RUNNING,FINISHED"]),
        (["status", "--sort", "lo"], ["loss"]),
        (["status", "--group", "al"], ["alpha-group"]),
        (["top", "--state", "RUNNING,FI"], ["RUNNING,FINISHED"]),
        (["top", "--group", ""], ["alpha-group"]),
        (["why", "be"], ["beta-1"]),
        (["logs", "alpha-1", "--eval", "e"], ["elbo-00000020-abcd"]),
        (["logs", "alpha-", "--eval", "e"], ["elbo-00000020-abcd"]),
        (["logs", "be", "--eval", ""], []),
        (["logs", "nothing", "--eval", ""], []),
        (["sample", "bet", "--checkpoint", "1"], []),
        (["sample", "bet", "--checkpoint", "3"], ["30"]),
        (["sample", "alpha-1", "--checkpoint", "2"], ["20"]),
        (["sample", "--method", "s"], ["sscs", "splitting"]),
        (["sample", "alpha-1", "sampling.rt"], ["sampling.rtol=", "sampling.rtol=1.0e-05"]),
        (["sample", "alpha-1", "train.st"], []),
        (["eval", "alpha-1", "eval.see"], ["eval.seed=", "eval.seed=0"]),
        (["eval", "beta-1", "--checkpoint", "3"], ["30"]),
        (["bench", "samplers", "bet"], ["beta-1"]),
        (["bench", "samplers", "--sampler", "em"], ["em-quadratic"]),
        (["bench", "samplers", "--metric", "w2,f"], ["w2,fid", "w2,flow-distance"]),
        (["bench", "samplers", "--metric", "el"], []),
        (["bench", "samplers", "alpha-1", "eval.see"], ["eval.seed=", "eval.seed=0"]),
        (["data", "stats", "beta"], ["beta-1"]),
        (["data", "prepare", "c"], ["cifar10", "celebahq256"]),
        (["import", "x", "--recipe", "toy_di"], ["toy_diamond"]),
        (["explain", "sde.v"], ["sde.vpsde"]),
        (["explain", "train.ema_l"], ["train.ema_lengths"]),
        (["render", str(ROOT / "recipes/toy_de")], [str(ROOT / "recipes/toy_demo.yaml")]),
        (["rm", "nothing"], []),
    ],
    ids=lambda value: " ".join(value)[-50:] if isinstance(value, list) else "",
)  # fmt: skip
def test_what_is_offered(runs, words, expected):
    found = [text for text in offered(runs, *words) if text]
    if expected is None:
        assert {"train.ema=", "train.steps="} <= set(found)
        assert all(text.startswith("train.") for text in found)
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("path", "expected"), [("/my data/x", None), ("/my, data/x", None), ("/mine/x", "data.path=/mine/x")]
)
def test_a_value_of_a_recipe_is_offered_as_it_is_or_not_at_all(tmp_path, runs, path, expected):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"extends: cifar10\ndata: {{path: {path!r}}}\n")
    found = offered(runs, "submit", str(recipe), "data.pat")
    assert "data.path=" in found
    assert [text for text in found if "x" in text] == ([] if expected is None else [expected])


def test_nothing_that_a_shell_would_run_is_offered(runs):
    for shell in ("bash", "zsh", "fish"):
        asked = {"_CLDCTL_COMPLETE": f"complete_{shell}", "COMP_WORDS": "cldctl\nwhy\n", "COMP_CWORD": "2"}
        asked |= {"_TYPER_COMPLETE_ARGS": "cldctl why ", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        said = invoke(runs=runs, code=None, **asked).stdout
        assert "alpha-1" in said
        assert "hacked" not in said


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A working directory with recipes, one of each kind whose name a shell would run."""
    monkeypatch.chdir(tmp_path)
    for folder in ("recipes", "config/cldctl/profiles"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("x-good", "x$(touch hacked)", "x`touch hacked`", "x;touch hacked", "x y", "-x"):
            (tmp_path / folder / f"{name}.yaml").write_text("extends: toy\n")
    (tmp_path / "recipes/x$(touch hacked)").mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["submit", "x"], ["x-good"]),
        (["submit", "-"], []),
        (["submit", "recipes/x"], ["recipes/x-good.yaml"]),
        (["submit", "./recipes/"], ["./recipes/x-good.yaml"]),
        (["submit", "toy", "--profile", "x"], ["x-good"]),
    ],
)
def test_no_file_whose_name_a_shell_would_run_is_offered(runs, hostile, words, expected):
    options = {"--help", "-h", "--follow", "-f"}
    found = [text for text in offered(runs, *words) if text]
    assert [text for text in found if text not in options and not text.startswith("--")] == expected


def test_a_word_is_completed_without_torch(runs):
    asked = {
        "_CLDCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "cldctl\nsubmit\ncifar10\nnetwork.mul",
        "COMP_CWORD": "3",
    }
    done = cldctl(runs=runs, PYTHONPROFILEIMPORTTIME="1", **asked)
    assert "network.multipliers=" in done.stdout
    assert not re.search(r"\| +(torch|numpy|scipy|matplotlib|tensorboard|submitit)$", done.stderr, re.MULTILINE)


def test_states_are_those_that_status_takes():
    from cldctl.cli.completing import states
    from tests.cldctl.cli.test_whole import COMMANDS

    help_ = next(param.help for param in COMMANDS["status",].params if param.name == "state")
    assert help_.partition(": ")[2] == f"{', '.join(states(None, ''))}."
    for state in states(None, ""):
        assert not selection(state, None, (), None, None).is_empty
    assert ToyDataSpec().name  # the default of a section is offered, too


@pytest.fixture
def bash(runs, tmp_path):
    """Type into an interactive bash that has loaded the completion; returns what it shows after the typed text."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    import pty

    script = tmp_path / "bin" / "cldctl"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m cldctl "$@"\n')
    script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{script.parent}:{os.environ['PATH']}",
        "PS1": "$ ",
        "TERM": "dumb",
        "CLDCTL_RUNS": str(runs),
        "PYTHONPATH": str(ROOT),
        "HISTFILE": "",
    }
    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["bash", "--norc", "-i"], stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)

    def until(text: bytes) -> bytes:
        seen, deadline = b"", time.monotonic() + 60
        os.set_blocking(master, False)
        while text not in seen:
            assert time.monotonic() < deadline, seen
            try:
                seen += os.read(master, 65536)
            except BlockingIOError:
                time.sleep(0.02)
        return seen

    def type_(text: str, end: str) -> str:
        os.write(master, text.encode())
        return until(end.encode()).decode()

    yield type_
    os.close(master)
    process.kill()
    process.wait()


def test_a_real_bash_completes_keys_and_values(bash):
    bash('eval "$(cldctl --show-completion)"; echo rea""dy\n', "ready\r\n")
    bash("cldctl submit toy train.st\t", "eps=")
    bash("\x15cldctl submit toy train.precision=b\t", "f16 ")
    bash("\x15cldctl why be\t", "ta-1 ")


def test_a_real_bash_completes_no_file_that_it_would_run(bash, hostile):
    bash('eval "$(cldctl --show-completion)"; echo rea""dy\n', "ready\r\n")
    bash(f"cd {hostile}; echo there\n", "there\r\n")
    bash("cldctl render recipes/x\t", "-good.yaml ")
    bash("\x15cldctl submit x\t", "-good ")
    bash('--help | head -n 0; echo do""ne\n', "done\r\n")
    assert not list(hostile.rglob("hacked"))


def test_completion_is_installed_where_the_shell_finds_it(tmp_path, runs):
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -m cldctl --install-completion; true'],
        env={**os.environ, "HOME": str(tmp_path)}, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "completion installed" in done.stdout + done.stderr
    assert "_CLDCTL_COMPLETE" in (tmp_path / ".bash_completions" / "cldctl.sh").read_text()

"""What holds for all commands: help, options, examples, versions, quiet and verbose; what a shell offers for them."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer

from cld_core.config.registry import SECTIONS
from cld_core.evaluate.registry import METRICS
from cld_core.run.groups import Group
from cldctl.app import app
from tests.support.made_up import run_with
from tests.support.paths import ROOT as REPO
from tests.support.scheduler import clients
from tests.support.scripted import trained
from tests.support.tools import invoke

ROOT = typer.main.get_command(app)


def commands(group=ROOT, path=()):
    """All commands with their names, those of groups too."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())
EXAMPLES = [
    (name, line.strip().removeprefix("Example: "))
    for name, command in {**COMMANDS, (): ROOT}.items()
    for line in re.sub(r"\n +(?=\S)", "\n", command.help or "").splitlines()
    if line.strip().startswith("Example: ")
]


@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_and_help_for_everything(name):
    command = COMMANDS[name]
    assert any(owner == name for owner, _ in EXAMPLES)
    for param in command.params:
        is_option = param.param_type_name == "option"
        assert getattr(param, "help", None), param.name
        if is_option:
            assert any(text.startswith("--") for text in param.opts), f"{param.opts} has no long form"


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_examples_are_commands(name, example):
    """Each is parsed as it stands: the command exists, and so do its options; values are of their types."""
    program, *words = shlex.split(example)
    assert program == "cldctl"
    assert tuple(words[: len(name)]) == name
    if name:
        with COMMANDS[name].make_context(" ".join(name), words[len(name) :]) as context:
            assert not context.args


def test_the_versions_are_said(tmp_path):
    done = invoke("--version", runs=tmp_path)
    assert done.stdout.splitlines() == [
        f"cldctl {metadata.version('cldctl')}",
        f"torch {metadata.version('torch')}",
        f"Python {platform.python_version()}",
    ]


def test_quiet_leaves_data_and_errors(tmp_path):
    run_with(tmp_path / "mine", 10)
    assert "mine" in invoke("why", runs=tmp_path).stderr, "which run is meant"
    done = invoke("-q", "why", runs=tmp_path)
    assert done.stderr == ""
    assert "mine" in done.stdout
    assert invoke("--quiet", "note", "mine", "text", runs=tmp_path).stderr == ""
    assert invoke("-q", "why", "yours", runs=tmp_path, code=3).stderr.startswith("error: no run at")
    assert "mine" in invoke("why", runs=tmp_path).stderr, "the next command says everything again"


def test_verbose_says_what_is_called(tmp_path, monkeypatch):
    clients(tmp_path, monkeypatch)
    run = trained(run_with(tmp_path / "runs" / "mine"), "7", cluster="slurm")
    done = invoke("-v", "status", "mine", runs=run.path.parent)
    assert re.search(r"^\d+\.\d+ s: squeue ", done.stderr, re.MULTILINE), done.stderr
    again = invoke("status", "mine", runs=run.path.parent)
    assert not re.search(r"^\d+\.\d+ s: ", again.stderr, re.MULTILINE)


def test_global_options_go_before_the_command(tmp_path):
    for words in (["status", "-q"], ["status", "--verbose"], ["data", "stats", "-v"]):
        *command, option = words
        fix = f"it goes before the command, as in `cldctl {option} {' '.join(command)}`"
        assert fix in invoke(*words, runs=tmp_path, code=2).stderr


def test_the_methods_in_the_help_are_those_there_are():
    param = next(param for param in COMMANDS["sample",].params if param.name == "method")
    assert param.metavar == "|".join([*SECTIONS["sampling"].variants])


LOOKS = """
import os, sys
from cldctl import app
app.run(["--help"])
print("help", *sys.modules, file=sys.stderr)
for words in ("--version", "submit --help", "recipes", "status", "status done", "status --json"):
    app.run(words.split())
from cldctl import clusters
for name in clusters.CLUSTERS:
    clusters.find(name)
os.environ |= {"_CLDCTL_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
os.environ["COMP_WORDS"] = "cldctl submit cifar10 network.mul"
app.run([])
print("looks", *sys.modules, file=sys.stderr)
"""


def test_commands_that_do_not_compute_load_nothing_heavy(runs):
    environment = {**os.environ, "CLDCTL_RUNS": str(runs), "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", LOOKS], capture_output=True, text=True, env=environment, timeout=120)
    assert "network.multipliers=" in done.stdout
    of_help, of_looks = ({*line.split()} for line in done.stderr.splitlines() if line.startswith(("help ", "looks ")))
    assert "cldctl.cli.train" in of_help
    assert not of_help & {"yaml", "cld_core.config", "cld_core.run", "cldctl.runs", "cldctl.clusters"}
    assert not of_looks & {"torch", "numpy", "scipy", "matplotlib", "tensorboard", "submitit", "textual", "omegaconf"}


@pytest.fixture(scope="module")
def offering(tmp_path_factory):
    """Two runs with checkpoints and an evaluation, a group, and folders that are none of these."""
    root = tmp_path_factory.mktemp("runs")
    (run_with(root / "alpha-1", 10, 20).evals / "elbo-00000020-abcd").mkdir(parents=True)
    run_with(root / "beta-1", 30)
    Group(root, "alpha-group").add({})
    (root / "alpha-folder").mkdir()
    (root / "alpha-$(touch hacked)").mkdir()
    (root / "alpha-link").symlink_to("nowhere")
    return root


def offered(root, *words):
    """What is offered for the last of the words, as bash asks: it splits them at "="."""
    typed = [part for word in words for part in re.split("(=)", word)]
    if words[-1].endswith("="):
        typed.pop()
    typed = ["cldctl", *(part for index, part in enumerate(typed) if part or index == len(typed) - 1)]
    asked = {"_CLDCTL_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(typed), "COMP_CWORD": str(len(typed) - 1)}
    done = invoke(runs=root, **asked)
    assert done.stderr == ""
    return [text for text in done.stdout.split("\n") if text]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sub"], ["submit"]),
        (["submit", "toy_d"], ["toy_demo", "toy_diamond"]),
        (["submit", "toy", "train.st"], ["train.steps=", "train.steps=800000"]),
        (["submit", "toy", "train.precision="], ["fp32", "bf16", "fp16"]),
        (["submit", "toy", "--eval", ""], [*METRICS]),
        (["resume", "al"], ["alpha-1", "alpha-group"]),
        (["resume", "alpha-1", "--from", ""], ["last", "20", "10"]),
        (["status", "--state", "RUNNING,FI"], ["RUNNING,FINISHED"]),
        (["logs", "alpha-", "--eval", "e"], ["elbo-00000020-abcd"]),
        (["sample", "bet", "--checkpoint", "3"], ["30"]),
        (["rm", "nothing"], []),
    ],
    ids=lambda value: " ".join(value)[-50:],
)  # fmt: skip
def test_what_is_offered(offering, words, expected):
    assert offered(offering, *words) == expected


@pytest.mark.parametrize("words", [["submit", "x"], ["submit", "toy", "--profile", "x"], ["why", "x"]])
def test_nothing_that_a_shell_would_run_is_offered(offering, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("x-good", "x$(touch hacked)", "x`touch hacked`", "x;touch hacked", "x y"):
        for folder in ("recipes", "config/cldctl/profiles"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f"{name}.yaml").write_text("extends: toy\n")
        shutil.copytree(offering / "beta-1", tmp_path / "runs" / name)
    assert offered(tmp_path / "runs", *words) == ["x-good"]


BASH = """
cldctl --install-completion > installed
eval "$(cldctl --show-completion)"
COMP_WORDS=(cldctl submit toy train.precision = b)
COMP_CWORD=5
_cldctl_completion cldctl
echo "${COMPREPLY[@]}"
"""


def test_bash_is_told_to_ask_and_where_to_find_that(tmp_path, offering):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(tmp_path), "CLDCTL_RUNS": str(offering)}
    done = subprocess.run(["bash", "--norc", "-c", BASH], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "bf16\n", done.stderr
    assert "completion installed" in (tmp_path / "installed").read_text()
    assert "_CLDCTL_COMPLETE" in (tmp_path / ".bash_completions" / "cldctl.sh").read_text()

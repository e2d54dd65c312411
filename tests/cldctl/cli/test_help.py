"""All commands: help, short and long options, examples, versions, quiet and verbose."""

import os
import re
import shlex
import subprocess
import sys
from importlib import metadata

import pytest
import typer

from cldctl.app import command_line
from docs.site import commands
from tests.support.made_up import run_with
from tests.support.paths import ROOT as REPO
from tests.support.scheduler import clients
from tests.support.scripted import trained
from tests.support.tools import invoke

ROOT = typer.main.get_command(command_line())


COMMANDS = {tuple(path.split()[1:]): command for path, command in commands.walk()}
EXAMPLES = [
    (name, line.strip().removeprefix("Example: "))
    for name, command in {**COMMANDS, (): ROOT}.items()
    for line in re.sub(r"\n +(?=\S)", "\n", command.help or "").splitlines()
    if line.strip().startswith("Example: ")
]


NAMES = """
submit resume cancel status top logs why usage board report eval compare sample tune
export import note rm prune init recipes render explain doctor
bench samplers data stats data prepare data verify
"""


def test_the_commands_are_those_that_are_promised():
    """Every public function of `cldctl.cli` is one, and so a helper might become one."""
    assert [word for name in COMMANDS for word in name] == NAMES.split()


def test_every_command_has_an_example_and_help_for_everything():
    assert {*COMMANDS} <= {owner for owner, _ in EXAMPLES}
    for name, command in COMMANDS.items():
        for param in command.params:
            assert getattr(param, "help", None), (name, param.name)
            is_option = param.param_type_name == "option"
            assert not is_option or any(text.startswith("--") for text in param.opts), (
                name,
                param.opts,
            )


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_examples_are_commands(name, example):
    """Each is parsed: the command and its options exist, and values have their types."""
    program, *words = shlex.split(example)
    assert program == "cldctl"
    assert tuple(words[: len(name)]) == name
    if name:
        with COMMANDS[name].make_context(" ".join(name), words[len(name) :]) as context:
            assert not context.args


def test_quiet_leaves_data_and_errors(tmp_path):
    run_with(tmp_path / "mine", 10)
    done = invoke("-q why")
    assert done.stderr == ""
    assert "mine" in done.stdout
    assert invoke("-q why yours", code=3).stderr.startswith("error: no run at")
    assert "mine" in invoke("why").stderr, "the next command says everything again"


def test_verbose_says_what_is_called(tmp_path, monkeypatch):
    clients(tmp_path, monkeypatch)
    trained(run_with(tmp_path / "mine"), "7", cluster="slurm")
    assert " s: squeue " in invoke("-v status mine").stderr
    assert " s: " not in invoke("status mine").stderr


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
os.environ |= {"_CLDCTL_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
os.environ["COMP_WORDS"] = "cldctl submit cif"
app.run([])
print("looks", *sys.modules, file=sys.stderr)
"""


def test_commands_that_do_not_compute_load_nothing_heavy(runs):
    environment = {**os.environ, "CLDCTL_RUNS": str(runs), "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-c", LOOKS], capture_output=True, text=True, env=environment, timeout=120
    )
    assert "cifar10_psld" in done.stdout
    assert f"torch {metadata.version('torch')}\n" in done.stdout
    of_help, of_looks = (
        {*line.split()} for line in done.stderr.splitlines() if line.startswith(("help ", "looks "))
    )
    assert "cldctl.cli.train" in of_help
    assert not of_help & {
        "yaml",
        "cld_core.config",
        "cld_core.run",
        "cldctl.runs",
        "cldctl.clusters",
    }
    assert not of_looks & {
        "torch",
        "numpy",
        "scipy",
        "matplotlib",
        "tensorboard",
        "submitit",
        "textual",
        "omegaconf",
    }

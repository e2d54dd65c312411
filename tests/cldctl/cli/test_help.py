"""What holds for all commands: help, short and long options, examples, versions, quiet and verbose."""

import ast
import logging
import platform
import re
import shlex
import subprocess
import sys
from importlib import metadata

import pytest
import typer

from cld_core.config.registry import names
from cld_core.run.events import JobRef, Requested, Submitted
from cldctl import lookup
from cldctl.app import app
from cldctl.show.console import err, out
from tests.support.made_up import run_with
from tests.support.paths import ROOT as REPO
from tests.support.tools import DEBUG, ONE, invoke

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


def test_every_command_is_in_a_group_of_the_help():
    shown = invoke("--help", runs="").stdout
    for panel in ("Train", "Look", "Evaluate and sample", "Manage", "Set up"):
        assert re.search(rf"─ {panel} ─", shown)
    assert "─ Commands ─" not in shown


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_examples_are_commands(name, example):
    """Each is parsed as it stands: the command exists, and so do its options; values are of their types."""
    program, *words = shlex.split(example)
    assert program == "cldctl"
    assert tuple(words[: len(name)]) == name
    if name:
        with COMMANDS[name].make_context(" ".join(name), words[len(name) :]) as context:
            assert not context.args


RUNS = ("toy-0102-101112-ab12", "toy-0102-101530-cd34", "cifar10-0102-101112-ab12")
# What computes nothing, needs no data and starts nothing.
DRY = ("recipes", "render", "explain", "status", "logs", "why", "usage", "cancel", "note", "prune")


@pytest.mark.parametrize(
    "example",
    [example for name, example in EXAMPLES if name and name[0] in (*DRY, "submit")],
)
def test_examples_that_only_look_work(tmp_path, example, monkeypatch):
    runs = tmp_path / "runs"
    for name in RUNS:
        run_with(runs / name, 10)
    words = shlex.split(example)[1:]
    more = [*(["--dry-run"] if words[0] in ("submit", "prune") else [])]
    more += ["--cluster", "local"] if words[0] == "submit" else []
    # These runs have neither logs nor results, which is said.
    codes = {"logs": (0, 3), "cancel": (0, 3)}.get(words[0], (0,))
    done = invoke(*words, *more, runs=runs, code=None)
    assert done.returncode in codes, done.stderr
    assert "internal error" not in done.stderr


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
    failed = invoke("-q", "why", "yours", runs=tmp_path, code=3)
    assert failed.stderr.startswith("error: no run at")
    wrong = invoke("-q", "submit", "toyy", runs=tmp_path, code=2)
    assert wrong.stderr.startswith("error: toyy")
    assert "mine" in invoke("why", runs=tmp_path).stderr, "the next command says everything again"


def test_quiet_leaves_out_how_far_a_training_in_this_process_is(tmp_path):
    words = ("submit", "toy", *ONE, "--name", "mine", *DEBUG)
    done = invoke("-q", *words, runs=tmp_path)
    assert (done.stdout, done.stderr) == ("mine\n", "")
    again = invoke("resume", "mine", "train.steps=30", *DEBUG, runs=tmp_path)
    assert "step 30/30 loss" in again.stderr, "the next command says everything again"


def test_a_terminal_shows_the_name_of_a_new_run_once(tmp_path, monkeypatch):
    for console in (out, err):
        monkeypatch.setattr(console, "_as_terminal", True)
    done = invoke("submit", "toy", *ONE, "--name", "mine", *DEBUG, runs=tmp_path)
    assert "run mine in" in done.stderr
    assert done.stdout == ""
    assert invoke("-q", "submit", "toy", *ONE, "--name", "other", *DEBUG, runs=tmp_path).stdout == "other\n"


def test_verbose_says_what_is_called(tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("squeue", "sbatch", "scontrol", "sacct"):
        (tools / name).write_text("#!/bin/sh\nexit 1\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    run = run_with(tmp_path / "runs" / "mine")
    run.ledger.append(Requested(steps=5))
    run.ledger.append(Submitted(job=JobRef(cluster="slurm", job_id="7")))
    done = invoke("-v", "status", "mine", runs=tmp_path / "runs")
    assert re.search(r"^\d+\.\d+ s: squeue ", done.stderr, re.MULTILINE), done.stderr
    again = invoke("status", "mine", runs=tmp_path / "runs")
    assert not re.search(r"^\d+\.\d+ s: ", again.stderr, re.MULTILINE)


def test_a_warning_of_the_library_says_that_it_is_one(tmp_path, monkeypatch):
    first = dict([*lookup.recipe_files().items()][:1])

    def warned():
        logging.getLogger("cld_core.samplers").warning("it is too small")
        return first

    monkeypatch.setattr(lookup, "recipe_files", warned)
    assert "warning: it is too small" in invoke("recipes", runs=tmp_path).stderr.splitlines()
    assert "warning" not in invoke("-q", "recipes", runs=tmp_path).stderr
    assert not logging.getLogger("cld_core").handlers


def test_global_options_go_before_the_command(tmp_path):
    for words in (["status", "-q"], ["status", "--verbose"], ["data", "stats", "-v"]):
        *command, option = words
        fix = f"it goes before the command, as in `cldctl {option} {' '.join(command)}`"
        assert fix in invoke(*words, runs=tmp_path, code=2).stderr


def test_the_methods_in_the_help_are_those_there_are():
    param = next(param for param in COMMANDS["sample",].params if param.name == "method")
    assert param.metavar == "|".join(names("sampling"))


def test_compare_says_what_eval_compare_does(tmp_path):
    from cld_core.evaluate.request import EvalRequest
    from tests.support.made_up import report

    for name in ("a", "b"):
        run = run_with(tmp_path / name, 10)
        request = EvalRequest.of(run.recipe(), ("elbo",), 10, 1)
        report(run, request, elbo={"nll": 1.5, "stderr": 0.1, "n": 5, "nfe_mean": 3.0})
    for more in ((), ("--json",), ("--checkpoint", "10")):
        one = invoke("compare", "a", "b", *more, runs=tmp_path)
        other = invoke("eval", "--compare", "a", "b", *more, runs=tmp_path)
        assert (one.stdout, one.stderr) == (other.stdout, other.stderr)
        assert "1.5" in one.stdout


DECLARING = sorted((REPO / "cldctl/cli").glob("*.py"))


@pytest.mark.parametrize("path", DECLARING, ids=lambda path: path.stem)
def test_what_declares_a_command_loads_only_what_declaring_needs(path):
    """What a body needs is imported in it: help and completion load all of these files, and must answer at once."""
    shown = {"cldctl.show.console", "cldctl.show.format", "cldctl.show.progress"}
    allowed = {*sys.stdlib_module_names, "typer", "cld_core.errors", "options", "completion", *shown}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [node.module] if isinstance(node, ast.ImportFrom) and node.module else [it.name for it in node.names]
            )
            assert {name if name in allowed else name.partition(".")[0] for name in names} <= allowed, ast.unparse(node)


def test_help_loads_neither_recipes_nor_runs():
    code = "import sys; from cldctl import app; app.run(['--help']); print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, timeout=120)
    loaded = set(done.stderr.split())
    assert "cldctl.cli.train" in loaded
    assert not loaded & {
        "yaml",
        "cld_core.config",
        "cld_core.run",
        "cldctl.runs",
        "cldctl.clusters",
        "submitit",
        "torch",
    }

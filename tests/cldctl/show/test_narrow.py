"""On a narrow terminal nothing breaks inside a word, and what may be copied stays whole."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.text import Text

from cld_core.evaluation.evaluation import evaluations_of
from cld_core.evaluation.request import EvalRequest
from cld_core.run.groups import Group
from cldctl.cli import board
from cldctl.cli import why as why_command
from cldctl.runs import board as policy
from cldctl.runs.usage import Usage
from cldctl.show import follow, follow_group
from cldctl.show.console import Messages, PlainConsole
from cldctl.show.groups import group_details
from cldctl.show.usage import usage_table
from cldctl.show.wrap import between_words
from tests.support.made_up import run_with
from tests.support.on_pty import lines_of
from tests.support.screen import evaluation, row, screen

SENTENCE = "no longer watching; its jobs go on, each of them, as long as they need. Again: cldctl status demo --watch"


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("arguments", [("status", "nosuch"), ("submit", "nosuch"), ("explain", "train.emma")])
def test_errors_break_between_words(columns, arguments):
    runs = Path("/nowhere/to-be-found-here")  # So that no word of the error is longer than a line.
    code = 3 if arguments[0] == "status" else 2
    lines = lines_of(arguments, runs, columns, code)
    whole = lines_of(arguments, runs, 1000, code)[0]
    assert len(whole) > columns, "it is long enough to break"
    words = [word for line in lines for word in line.split()]
    assert words == whole.split()
    assert any(len(line) < columns for line in lines[:-1])


@pytest.mark.parametrize("columns", [60, 80])
def test_messages_break_between_words_and_not_inside_a_command(columns):
    lines = between_words(Text(SENTENCE), columns).plain.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert " ".join(lines) == SENTENCE
    assert any("cldctl status demo --watch" in line for line in lines)
    quoted = between_words(Text("It is not there, or no longer. See what is: `cldctl status --all`."), 56).plain
    assert "`cldctl status --all`." in quoted.splitlines()


@pytest.mark.parametrize(
    "whole",
    [
        "  cldctl cancel demo-0102-101112-ab12 --runs-dir /scratch/of-somebody/else",
        "    cldctl status demo-0102-101112-ab12 --runs-dir .. --watch --sort loss",
        "# cldctl render demo-0102-101112-ab12 --comments --runs-dir /scratch/of-somebody",
    ],
)
def test_a_command_on_a_line_of_its_own_stays_whole(whole):
    assert between_words(Text(f"next:\n{whole}\n{whole}"), 40).plain == f"next:\n{whole}\n{whole}"


@pytest.mark.parametrize("folder", [".", "..", "../..", "./runs"])
def test_a_folder_of_dots_does_not_end_a_command(folder):
    command = f"cldctl status demo --runs-dir {folder} --watch"
    broken = between_words(Text(f"Again: {command}. And a few more words"), len(command) + 1).plain
    assert broken.splitlines() == ["Again:", f"{command}.", "And a few more words"]


def test_what_is_longer_than_a_line_stays_whole_on_a_line_of_its_own():
    path = "/scratch/" + "of-somebody/" * 8
    lines = between_words(Text(f"run demo in {path} is new"), 60).plain.splitlines()
    assert lines == ["run demo in", path, "is new"]


def test_a_comment_stays_one():
    line = "#   name: toy_demo instead of toy  (recipes/toy_demo.yaml, line 5)"
    broken = between_words(Text(line), 60).plain.splitlines()
    assert broken == ["#   name: toy_demo instead of toy  (recipes/toy_demo.yaml,", "#   line 5)"]


def test_a_style_stays_with_its_words():
    text = Text.assemble("a few words before ", ("strong ones", "bold"), " and after")
    broken = between_words(text, 22)
    assert broken.plain == "a few words before\nstrong ones and after"
    assert [broken.plain[span.start : span.end] for span in broken.spans if span.style == "bold"] == ["strong", " ones"]


def test_pipes_get_whole_lines_and_files_are_shown_as_they_are():
    for console in (PlainConsole(file=(pipe := io.StringIO()), width=60), Messages(file=pipe, width=60)):
        console.print(SENTENCE)
        console.print(Text(SENTENCE), "again")
    assert pipe.getvalue() == f"{SENTENCE}\n{SENTENCE} again\n" * 2
    terminal = io.StringIO()
    PlainConsole(file=terminal, width=60, force_terminal=True, no_color=True).print(SENTENCE, no_wrap=True)
    assert terminal.getvalue() == f"{SENTENCE}\n"


@pytest.mark.parametrize("stream", ["out", "err"])
def test_what_wraps_is_whole_in_a_pipe(stream):
    code = f"from cldctl.show import console, wrap; console.{stream}.print(wrap.Wrapped({SENTENCE!r}))"
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout + done.stderr == f"{SENTENCE}\n"


def test_a_recipe_on_a_terminal_can_be_copied(tmp_path):
    long = f"data.plugin={'folder of a plug-in/' * 3}mine.py"
    lines = lines_of(("render", "toy", "data.name=mine", long), tmp_path, 60)
    assert long.partition("=")[2] in "".join(line.ljust(60) for line in lines), "only the terminal breaks it"


@pytest.mark.parametrize("columns", [60, 80])
def test_the_names_of_runs_stay_in_the_table_of_usage(monkeypatch, columns):
    used = Usage(
        **{"unit": "CPU-hours", "used": 123.4, "useful": 100.0, "startup": 3.0, "lost_to_preemption": 10.0},
        **{"lost_to_crashes": 10.4, "set_aside": 0.2, "waited_s": 50_000.0, "attempts": 3},
    )
    names = [f"toy-spirals-1126-07{minute}-p2mm" for minute in (15, 48)]
    shown = screen(monkeypatch, columns)
    lines = shown(usage_table([(name, "a-group", used) for name in names], {"a-group": [used]}, [used]))
    assert all(len(line) <= columns for line in lines)
    for name in names:
        (line,) = (line for line in lines if line.strip().startswith("toy-") and line.split()[0].endswith(name[-7:]))
        assert "123 CPU-hours" in line
    heading = next(line.split() for line in lines if line.strip().startswith("run "))
    assert set(heading) <= {"run", "used", "waited", "preempted", "crashed", "goodput", "useful", "start-up"}
    assert heading[-1] == "goodput"


def test_results_of_a_group_leave_its_states_whole(monkeypatch):
    rows = [row(f"seeds-seed{seed}", "FINISHED", group="seeds", sweep={"train.seed": f"{seed}"}) for seed in range(2)]
    for it in rows:
        it.evals.append(evaluation())
    lines = screen(monkeypatch, 60)(group_details("seeds", rows))
    assert sum("FINISHED" in line and "-0.39" in line for line in lines) == 2


@pytest.mark.parametrize("of_group", [False, True])
def test_where_an_evaluation_is_not_complete_the_command_to_see_why_stays_whole(
    tmp_path, monkeypatch, capsys, of_group
):
    screen(monkeypatch, 60)
    run = run_with(tmp_path / "r" / "mine", 10)
    monkeypatch.setenv("CLDCTL_RUNS", str(run.path.parent))
    request = EvalRequest.of(run.recipe(), ("elbo",), 10)
    request.save(run)
    if of_group:
        monkeypatch.setattr(follow_group, "follow_works", lambda *about: None)
        follow_group.follow_group_evaluations(Group(run.path.parent, "g"), [run], evaluations_of(run))
    else:
        follow._results(run, [request.id])
    said = capsys.readouterr().err
    assert any(line.endswith(f"`cldctl logs mine --eval {request.id}`") for line in said.splitlines())


def test_what_why_says_to_type_next_stays_whole(tmp_path, monkeypatch, capsys):
    screen(monkeypatch, 60)
    monkeypatch.setenv("CLDCTL_RUNS", str(tmp_path / "elsewhere"))
    runs = tmp_path / "a-folder-of-somebody" / "with-runs"
    why_command.why(run_with(runs / "mine", 10).name, directory=runs)
    lines = capsys.readouterr().out.splitlines()
    (command,) = (line for line in lines if line.startswith("next "))
    assert command.endswith(f"--runs-dir {runs}")


def test_the_line_to_type_elsewhere_stays_whole(tmp_path, monkeypatch, capsys):
    screen(monkeypatch, 30)
    run = run_with(tmp_path / "mine", 10)
    running = SimpleNamespace(
        url="http://localhost:6006/",
        tunnel="ssh -N -L 6006:localhost:6006 ada@login.lab.org",
        wait_until_ready=lambda: None,
        stay=lambda: None,
    )
    monkeypatch.setattr(policy, "tensorboard", lambda *about: contextlib.nullcontext(running))
    board.board([run.name], 6006, tmp_path)
    assert running.tunnel in capsys.readouterr().err.splitlines()

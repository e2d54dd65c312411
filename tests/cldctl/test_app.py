"""The last net of the command line: one line and an exit code, whatever happens."""

import os
import signal
import sys
from unittest.mock import Mock

import pytest
import typer

from cld_core import plugins
from cld_core.run import RunFolder
from cld_core.train.step import Trainer
from cldctl import __main__, app
from tests.support.tools import DEBUG, ONE, invoke


@pytest.fixture
def failing(monkeypatch):
    """Let `cldctl recipes` raise an error; returns stderr and the exit code."""

    def fail(error, **env):
        def command():
            raise error

        broken = typer.Typer(pretty_exceptions_enable=False)
        broken.command("recipes")(command)
        broken.command("other")(command)
        monkeypatch.setattr(app, "command_line", lambda words: broken)
        done = invoke("recipes", code=None, **env)
        return done.stderr, done.returncode

    return fail


@pytest.mark.parametrize(
    "error",
    [
        TypeError("unsupported\nthing\x1b[31m"),
        KeyError("x" * 5000),
        AssertionError(),
        RuntimeError("\ud800"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_nobody_expected_is_one_line_and_a_traceback_for_who_asks(failing, error):
    said, code = failing(error)
    assert failing(error, CLDCTL_DEBUG="1")[0].startswith("Traceback (most recent call last):")
    assert code == 1
    assert said.startswith(f"error: internal error ({type(error).__name__}")
    assert said.endswith("Set CLDCTL_DEBUG=1 to see the traceback, and report it with that.\n")
    assert said.count("\n") == 1
    assert len(said) < 500
    assert "\x1b" not in said


def test_the_error_of_a_plugin_is_not_one_of_cldctl_s(failing, monkeypatch):
    monkeypatch.setattr(plugins, "plugin_line_of", lambda error: "mine.py")
    said, code = failing(TypeError("unsupported"))
    assert (said.partition(". ")[0], code) == ("error: plug-in mine.py: TypeError: unsupported", 1)


def test_other_ways_to_end_keep_their_codes(failing):
    for error, code in ((typer.Exit(5), 5), (typer.Abort(), 1), (KeyboardInterrupt(), 130)):
        assert failing(error)[1] == code
    missing = "error: x: No such file. Check the path and its permissions.\n"
    assert failing(FileNotFoundError(2, "No such file", "x")) == (missing, 1)
    wrong = "error: Invalid value: wrong here. See `cldctl recipes --help`.\n"
    assert failing(typer.BadParameter("\x1b[31mwrong\nhere")) == (wrong, 2)


def test_ctrl_c_while_the_commands_are_loaded_is_130_too(monkeypatch, capsys):
    monkeypatch.delattr("cldctl.app")
    monkeypatch.delitem(sys.modules, "cldctl.app")
    monkeypatch.setattr(sys, "meta_path", [Mock(find_spec=Mock(side_effect=KeyboardInterrupt))])
    with pytest.raises(SystemExit, match="130"):
        __main__.main()
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_in_a_training_of_this_process_saves_and_is_130(monkeypatch, tmp_path):
    whole = Trainer.step

    def step(trainer, number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        whole(trainer, number)

    monkeypatch.setattr(Trainer, "step", step)
    done = invoke("submit toy --name mine", *ONE, *DEBUG, code=130)
    assert "cldctl resume mine" in done.stderr
    assert RunFolder(tmp_path / "mine").checkpoint_steps() == [5]

"""The commands of docs/notifications.md do what it says: they are read from there and run."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from cld_core.config import load
from cldctl.jobs.hook_call import call
from cldctl.jobs.hook_runner import sentence, variables
from tests.support.paths import RECIPES, ROOT

DOC = (ROOT / "docs" / "notifications.md").read_text()
CONTENT = {
    "run": "toy-1",
    "path": "/runs/toy-1",
    "what": "run",
    "state": "FAILED",
    "cause": "crashed",
    "reason": """it's "quoted"; $(touch /tmp/x) `id` & more""",
    "step": 120,
    "steps": 1000,
    "link": "file:///runs/toy-1",
}
TEXT = sentence(CONTENT)
NAMES = ("mail", "sendmail", "webhook", "slack", "ntfy")
COMMANDS = [yaml.safe_load(block)["hooks"]["on_change"] for block in re.findall(r"```yaml\n(.*?)```", DOC, re.DOTALL)]


def said(name: str, home: Path) -> tuple[list[str], str]:
    """What a documented command tells the program that it calls: arguments and standard input."""
    content = {**CONTENT, "text": TEXT}
    environment = {**os.environ, "HOME": str(home), "PATH": f"{home}:{os.environ['PATH']}", **variables(content)}
    line, command = json.dumps(content) + "\n", COMMANDS[NAMES.index(name)]
    result = call(command, environment=environment, content=line, timeout_s=60.0, folder=home)
    assert result.problem is None, result.output
    return (home / "arguments").read_text().splitlines(), (home / "input").read_text()


@pytest.fixture
def home(tmp_path) -> Path:
    """A home in whose programs write down what they get, and in which addresses are kept."""
    (tmp_path / ".config" / "cldctl").mkdir(parents=True)
    for name in ("mail", "sendmail", "curl"):
        file = tmp_path / name
        file.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\ncat > {tmp_path}/input\n')
        file.chmod(0o755)
    for name in ("webhook", "slack", "ntfy"):
        (tmp_path / ".config" / "cldctl" / name).write_text(f"https://example.org/{name}\n")
    return tmp_path


def test_every_example_is_a_recipe():
    assert len(COMMANDS) == len(NAMES)
    for name, command in zip(NAMES, COMMANDS, strict=True):
        recipe = load(RECIPES / "toy.yaml", [f"hooks.on_change={json.dumps(command)}"])
        assert name in recipe.hooks.on_change


def test_mail(home):
    assert said("mail", home) == (["-s", "toy-1 FAILED", "you@example.org"], f"{TEXT}\n\nfile:///runs/toy-1\n")
    assert said("sendmail", home) == (["-t"], f"To: you@example.org\nSubject: toy-1 FAILED\n\n{TEXT}\n")


def test_what_is_posted(home):
    whole = {**CONTENT, "text": TEXT}
    for name, body in (("webhook", whole), ("slack", {"text": TEXT})):
        arguments, content = said(name, home)
        assert arguments[-1] == f"https://example.org/{name}"
        assert json.loads(content) == body
    arguments, _ = said("ntfy", home)
    assert arguments[-3:] == ["--data-raw", TEXT, "https://example.org/ntfy"]


def test_all_variables_are_documented():
    for name in variables({**CONTENT, "text": TEXT}):
        assert f"`{name}`" in DOC

"""What a shell offers: asked as a shell asks, and in a real bash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cld_core.run.groups import Group
from tests.support.made_up import run_with
from tests.support.tools import invoke


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs, a group, and folders that are none of these."""
    root = tmp_path_factory.mktemp("runs")
    run_with(root / "alpha-1", 10)
    run_with(root / "beta-1", 10)
    Group(root, "alpha-group").add({})
    (root / "alpha-folder").mkdir()
    (root / "alpha-$(touch hacked)").mkdir()
    (root / "alpha-link").symlink_to("nowhere")
    return root


def offered(runs, *words):
    """The completions of the last word, as in bash."""
    asked = {
        "_CLDCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(["cldctl", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = invoke("", runs=runs, **asked)
    assert done.stderr == ""
    return [text for text in done.stdout.split("\n") if text]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sub", ["submit"]),
        ("submit toy_d", ["toy_demo", "toy_diamond"]),
        ("import x.pth --recipe toy_d", ["toy_demo", "toy_diamond"]),
        ("resume al", ["alpha-1", "alpha-group"]),
        ("why al", ["alpha-1"]),
        ("resume alpha-1 train.st", []),
    ],
)
def test_what_is_offered(runs, words, expected):
    assert offered(runs, *words.split(" ")) == expected


@pytest.mark.parametrize("words", [["submit", "x"], ["why", "x"]])
def test_nothing_that_a_shell_would_run_is_offered(runs, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    for name in ("x-good", "x$(touch hacked)", "x`touch hacked`", "x;touch hacked", "x y"):
        (tmp_path / f"recipes/{name}.yaml").write_text("extends: toy\n")
        shutil.copytree(runs / "beta-1", tmp_path / "runs" / name)
    assert offered(tmp_path / "runs", *words) == ["x-good"]


BASH = """
cldctl --install-completion > installed
eval "$(cldctl --show-completion)"
COMP_WORDS=(cldctl resume b)
COMP_CWORD=2
_cldctl_completion cldctl
echo "${COMPREPLY[@]}"
"""


def test_bash_is_told_to_ask_and_where_to_find_that(tmp_path, runs):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(tmp_path), "CLDCTL_RUNS": str(runs)}
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "beta-1\n", done.stderr
    assert "completion installed" in (tmp_path / "installed").read_text()
    assert "_CLDCTL_COMPLETE" in (tmp_path / ".bash_completions" / "cldctl.sh").read_text()

"""What a shell offers: asked as a shell asks, and in a real bash."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cld_core.metrics import METRICS
from cld_core.run.groups import Group
from tests.support.made_up import run_with
from tests.support.tools import invoke


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


def offered(runs, *words):
    """The completions of the last word, as in bash, which splits words at "="."""
    typed = [part for word in words for part in re.split("(=)", word)]
    if words[-1].endswith("="):
        typed.pop()
    typed = [
        "cldctl",
        *(part for index, part in enumerate(typed) if part or index == len(typed) - 1),
    ]
    asked = {
        "_CLDCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(typed),
        "COMP_CWORD": str(len(typed) - 1),
    }
    done = invoke(runs=runs, **asked)
    assert done.stderr == ""
    return [text for text in done.stdout.split("\n") if text]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sub", ["submit"]),
        ("submit toy_d", ["toy_demo", "toy_diamond"]),
        ("submit toy train.st", ["train.steps=", "train.steps=800000"]),
        ("submit toy train.precision=", ["fp32", "bf16", "fp16"]),
        ("submit toy --eval ", [*METRICS]),
        ("resume al", ["alpha-1", "alpha-group"]),
        ("resume alpha-1 --from ", ["last", "20", "10"]),
        ("status --state RUNNING,FI", ["RUNNING,FINISHED"]),
        ("logs alpha- --eval e", ["elbo-00000020-abcd"]),
        ("compare alpha-group --checkpoint ", ["last"]),
    ],
)
def test_what_is_offered(runs, words, expected):
    assert offered(runs, *words.split(" ")) == expected


@pytest.mark.parametrize(
    "words", [["submit", "x"], ["submit", "toy", "--profile", "x"], ["why", "x"]]
)
def test_nothing_that_a_shell_would_run_is_offered(runs, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("x-good", "x$(touch hacked)", "x`touch hacked`", "x;touch hacked", "x y"):
        for folder in ("recipes", "config/cldctl/profiles"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f"{name}.yaml").write_text("extends: toy\n")
        shutil.copytree(runs / "beta-1", tmp_path / "runs" / name)
    assert offered(tmp_path / "runs", *words) == ["x-good"]


BASH = """
cldctl --install-completion > installed
eval "$(cldctl --show-completion)"
COMP_WORDS=(cldctl submit toy train.precision = b)
COMP_CWORD=5
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
    assert done.stdout == "bf16\n", done.stderr
    assert "completion installed" in (tmp_path / "installed").read_text()
    assert "_CLDCTL_COMPLETE" in (tmp_path / ".bash_completions" / "cldctl.sh").read_text()

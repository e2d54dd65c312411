"""What a shell offers: asked as a shell asks, and in a real bash."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from cld_core.evaluate.registry import METRICS
from cld_core.run.groups import Group
from cldctl.runs.state import STATES
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


def offered(runs, *words):
    """What is offered for the last of the words, as bash asks: it splits them at "="."""
    typed = [part for word in words for part in re.split("(=)", word)]
    if words[-1].endswith("="):
        typed.pop()
    typed = ["cldctl", *(part for index, part in enumerate(typed) if part or index == len(typed) - 1)]
    asked = {"_CLDCTL_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(typed), "COMP_CWORD": str(len(typed) - 1)}
    done = invoke(runs=runs, **asked)
    assert done.stderr == ""
    return [text for text in done.stdout.split("\n") if text]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sub"], ["submit"]),
        (["submit", "toy_d"], ["toy_demo", "toy_diamond"]),
        (["submit", "toy", "train.st"], ["train.steps=", "train.steps=800000"]),
        (["submit", "toy", "train.precision="], ["fp32", "bf16", "fp16"]),
        (["submit", "toy", "train.precision=b"], ["bf16"]),
        (["submit", "toy", "--sweep", "train.see"], ["train.seed=", "train.seed=0"]),
        (["submit", "toy", "--eval", ""], [*METRICS]),
        (["submit", "toy", "--eval", "fid,k"], ["fid,kid"]),
        (["submit", "toy", "--cluster", "l"], ["local"]),
        (["submit", "toy", "--profile", "ex"], ["example"]),
        (["resume", "al"], ["alpha-1", "alpha-group"]),
        (["resume", "alpha-1", "--from", ""], ["last", "20", "10"]),
        (["status", "--state", "RUNNING,FI"], ["RUNNING,FINISHED"]),
        (["status", "--sort", "lo"], ["loss"]),
        (["top", "--group", ""], ["alpha-group"]),
        (["logs", "alpha-", "--eval", "e"], ["elbo-00000020-abcd"]),
        (["logs", "nothing", "--eval", ""], []),
        (["sample", "bet", "--checkpoint", "3"], ["30"]),
        (["sample", "--method", "s"], ["sscs", "splitting"]),
        (["sample", "alpha-1", "train.st"], []),
        (["eval", "alpha-1", "eval.see"], ["eval.seed=", "eval.seed=0"]),
        (["bench", "samplers", "bet"], ["beta-1"]),
        (["bench", "samplers", "--sampler", "em"], ["em-quadratic"]),
        (["data", "stats", "beta"], ["beta-1"]),
        (["data", "prepare", "c"], ["cifar10", "celebahq256"]),
        (["import", "x", "--recipe", "toy_di"], ["toy_diamond"]),
        (["explain", "sde.v"], ["sde.vpsde"]),
        (["explain", "train.ema_l"], ["train.ema_lengths"]),
        (["rm", "nothing"], []),
    ],
    ids=lambda value: " ".join(value)[-50:],
)  # fmt: skip
def test_what_is_offered(runs, words, expected):
    assert offered(runs, *words) == expected


def test_a_section_that_is_the_only_one_offers_its_keys(runs):
    found = offered(runs, "submit", "toy", "trai")
    assert {"train.ema=", "train.steps="} <= set(found)
    assert all(text.startswith("train.") for text in found)


@pytest.mark.parametrize("words", [["submit", "x"], ["submit", "toy", "--profile", "x"], ["why", "x"]])
def test_nothing_that_a_shell_would_run_is_offered(runs, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for folder in ("recipes", "config/cldctl/profiles"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("x-good", "x$(touch hacked)", "x`touch hacked`", "x;touch hacked", "x y"):
            (tmp_path / folder / f"{name}.yaml").write_text("extends: toy\n")
            shutil.copytree(runs / "beta-1", tmp_path / "runs" / name, dirs_exist_ok=True)
    assert offered(tmp_path / "runs", *words) == ["x-good"]


def test_a_word_is_completed_without_torch(runs):
    asked = {"_CLDCTL_COMPLETE": "complete_bash", "COMP_WORDS": "cldctl\nsubmit\ncifar10\nnetwork.mul"}
    done = cldctl(runs=runs, PYTHONPROFILEIMPORTTIME="1", COMP_CWORD="3", **asked)
    assert "network.multipliers=" in done.stdout
    assert not re.search(r"\| +(torch|numpy|scipy|matplotlib|tensorboard|submitit)$", done.stderr, re.MULTILINE)


def test_the_help_lists_the_states_that_status_takes():
    from tests.cldctl.cli.test_help import COMMANDS

    help_ = next(param.help for param in COMMANDS["status",].params if param.name == "state")
    assert help_.partition(": ")[2] == f"{', '.join(STATES)}."


def test_a_real_bash_completes_keys_values_and_names(runs, tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    import pty

    script = tmp_path / "bin" / "cldctl"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m cldctl "$@"\n')
    script.chmod(0o755)
    environment = {"PATH": f"{script.parent}:{os.environ['PATH']}", "PS1": "$ ", "TERM": "dumb", "HISTFILE": ""}
    environment = {**os.environ, **environment, "CLDCTL_RUNS": str(runs), "PYTHONPATH": str(ROOT)}
    master, slave = pty.openpty()
    bash = ["bash", "--norc", "-i"]
    process = subprocess.Popen(
        bash, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=ROOT, start_new_session=True
    )
    os.close(slave)
    os.set_blocking(master, False)

    def type_(text: str, end: str) -> None:
        """Type, and wait until bash shows the rest."""
        os.write(master, text.encode())
        seen, deadline = b"", time.monotonic() + 120
        while end.encode() not in seen:
            assert time.monotonic() < deadline, seen
            try:
                seen += os.read(master, 65536)
            except BlockingIOError:
                time.sleep(0.02)

    try:
        type_('eval "$(cldctl --show-completion)"; echo rea""dy\n', "ready\r\n")
        type_("cldctl submit toy train.st\t", "eps=")
        type_("\x15cldctl submit toy train.precision=b\t", "f16 ")
        type_("\x15cldctl why be\t", "ta-1 ")
    finally:
        os.close(master)
        process.kill()
        process.wait()


def test_completion_is_installed_where_the_shell_finds_it(tmp_path, runs):
    install = ["bash", "-c", f'"{sys.executable}" -m cldctl --install-completion; true']
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(install, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "completion installed" in done.stdout + done.stderr
    assert "_CLDCTL_COMPLETE" in (tmp_path / ".bash_completions" / "cldctl.sh").read_text()

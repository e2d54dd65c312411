"""What a reader copies from a page works: Python runs, YAML loads, commands exist and have the
options shown."""

import contextlib
import functools
import os
import re
import shutil
from itertools import pairwise
from unittest import mock

import matplotlib
import pytest
import typer
import yaml
from matplotlib import pyplot

import cld_core
from cld_core.config import load
from cld_core.config.registry import SECTIONS
from cld_core.data import toy as toys
from cldctl.app import command_line
from docs.site import recipe_keys
from tests.docs.blocks import ROOT, blocks, commands, filled_in
from tests.support.tools import DEBUG, ONE, invoke

BLOCKS = list(blocks())
COMMANDS = commands()
CONSOLES = {block.place for block in BLOCKS if block.language == "console"}
_KEY = re.compile(r"(?P<key>[a-z_]+(?:\.[a-z_]+)+)=")
_SECTION = re.compile(r'^register\("(\w+)"', re.MULTILINE)
_OWN_KEY = re.compile(r"^    (\w+): \w+ = key\(", re.MULTILINE)
_PRINTED = re.compile(r"print\(\w+\)  # (.+)$", re.MULTILINE)
_NAME = re.compile(r"^name: (\S+)$", re.MULTILINE)
_PLUGIN = re.compile(r'^(?:@toy\(|register\(\s*"\w+",\s*)"(\w+)"', re.MULTILINE)


def of(language):
    return [
        pytest.param(block, id=block.place)
        for block in BLOCKS
        if block.language == language and block.run
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder as that of somebody who follows the pages: a finished run, its weights, files that
    pages define."""
    folder = tmp_path_factory.mktemp("reader")
    runs = folder / "runs"
    invoke("submit toy_diamond --name first", *ONE, *DEBUG, runs=runs)
    shutil.copytree(runs / "first", runs / "NAME")
    invoke(f"export first -o {folder}/model.safetensors", runs=runs)
    for block in BLOCKS:
        recipe, density = _NAME.search(block.text), _PLUGIN.search(block.text)
        if block.language == "yaml" and recipe:
            (folder / f"{recipe[1]}.yaml").write_text(block.text)
        if block.language == "python" and density:
            (folder / f"{density[1]}.py").write_text(block.text)
    for name in ("recipes", "docs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    for example in (ROOT / "examples").glob("*.py"):
        shutil.copy(example, folder)
    profiles = folder / ".config" / "cldctl" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "mine.yaml").write_text("cluster:\n  partition: gpu\n")
    return folder


@pytest.fixture
def reader(made, monkeypatch):
    """The working directory is that folder; what plug-ins register is forgotten afterwards."""
    monkeypatch.chdir(made)
    matplotlib.use("Agg")
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.delenv("CLDCTL_RUNS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(made / ".config"))
    with contextlib.ExitStack() as stack:
        for table in (toys._REGISTRY, *(section.variants for section in SECTIONS.values())):
            stack.enter_context(mock.patch.dict(table))
        yield made


# What a block of Python prints is in the next one, which has no language, or in a comment.
SHOWN = [
    block
    for before, block in pairwise(BLOCKS)
    if block.page == before.page
    and before.language == "python"
    and "print(" in before.text
    and not block.language
]
PAGES = sorted({block.page for block in BLOCKS if block.language == "python" and block.run})

SLOW = dict.fromkeys(("README.md", "docs/api.md"), pytest.mark.slow)


@pytest.mark.parametrize("page", [pytest.param(page, marks=SLOW.get(page, ())) for page in PAGES])
def test_python_runs(page, reader, capsys):
    """A page's blocks go on from each other, as in one session, and print what is shown."""
    names = {"__name__": page}
    said = ""
    for block in (block for block in BLOCKS if block.page == page):
        if block.language == "python" and block.run:
            exec(compile(block.text, block.place, "exec"), names)
            said = capsys.readouterr().out
            for shown in _PRINTED.findall(block.text):
                assert f"{shown}\n" in said, block.place
        elif block in SHOWN:
            assert said == block.text, block.place
    pyplot.close("all")


# Pages with a complete plug-in, which their commands use.
OWN = ("own-network", "own-diffusion", "own-objective", "own-metric", "plug-ins")
QUICK = (*ONE, "train.steps=4", "train.checkpoint_every=4")


@pytest.mark.parametrize("page", OWN)
def test_what_is_ones_own_goes_from_its_file_to_samples(page, reader, tmp_path):
    """The commands of the page in their order, as a reader types them, with fewer steps."""
    file = f"docs/howto/{page}.md"
    typed = [
        command.words
        for command in COMMANDS
        if command.place.startswith(f"{file}:") and not command.prose
    ]
    assert {"submit"} < {words[0] for words in typed}
    quick = {
        "submit": (*QUICK, *DEBUG),
        "eval": ("eval.points=16", *DEBUG),
        "sample": ("-n", "16"),
        "export": (),
    }
    for words in typed:
        keys = {word.partition("=")[0] for word in words if "=" in word}
        more = [word for word in quick[words[0]] if word.partition("=")[0] not in keys]
        invoke(*words, *more, runs=tmp_path)
    if page == "own-network":
        (block,) = (it for it in BLOCKS if it.page == file and it.language == "python" and it.run)
        assert (reader / "examples" / "own_network.py").read_text().endswith(block.text)
        model = cld_core.load("own.safetensors", allow_plugin=True)
        assert model.sample(2, method="em", nfe=3).shape == (2, 2)


@pytest.mark.parametrize("block", of("yaml"))
def test_yaml_is_a_recipe_or_a_profile(block, reader):
    keys = yaml.safe_load(block.text)
    if isinstance(keys.get("cluster"), str):
        pytest.skip("a file of the user's defaults, whose cluster is a name")
    file = reader / "block.yaml"
    file.write_text(block.text)
    load(file, profile=file if list(keys) == ["cluster"] else None)


@functools.cache
def parser():
    """That of all commands, which takes longer to make than to ask."""
    return typer.main.get_command(command_line())


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_one_of_ours_and_takes_what_it_is_given(command):
    parsed, words = parser(), filled_in(command.words)
    while (below := getattr(parsed, "commands", None)) is not None:
        if not words:
            return
        # Options before the command are looked up, not parsed: some of them act at once.
        if words[0].startswith("-"):
            parameters = parsed.get_params(
                parsed.make_context("cldctl", [], resilient_parsing=True)
            )
            assert words[0] in [option for parameter in parameters for option in parameter.opts]
        else:
            assert words[0] in below, f"{command.place}: there is no command {words[0]!r}"
            parsed = below[words[0]]
        words = words[1:]
    try:
        parsed.make_context("cldctl", words)
    except Exception as error:
        allowed = ("Exit", "MissingParameter", "BadOptionUsage") if command.prose else ("Exit",)
        if type(error).__name__ not in allowed:
            message = error.format_message() if hasattr(error, "format_message") else str(error)
            pytest.fail(f"{command}: {message}")


def test_commands_set_keys_that_exist():
    """Except for those that show what a wrong one gives."""
    words = {
        word for command in COMMANDS if command.place not in CONSOLES for word in command.words
    }
    sections = [
        (_SECTION.search(block.text), block.text) for block in BLOCKS if block.language == "python"
    ]
    own = {
        f"{found[1]}.{name}" for found, text in sections if found for name in _OWN_KEY.findall(text)
    }
    assert {found["key"] for found in map(_KEY.match, words) if found} <= {
        *recipe_keys.names(),
        *own,
    }


def dry(command):
    """Whether it changes nothing, needs no cluster, and is not a synopsis."""
    words = command.words
    plain = not command.prose and not any(re.fullmatch(r"[A-Z]+|\.\.\.", word) for word in words)
    return plain and (
        words[0] in ("render", "recipes", "explain")
        or (words[0] == "submit" and "--dry-run" in words)
    )


@pytest.mark.parametrize("command", list(filter(dry, COMMANDS)), ids=str)
def test_what_changes_nothing_runs(command, reader, without_slurm):
    """As it is typed, on a machine without Slurm."""
    invoke(*command.words, runs=reader / "runs")


@pytest.mark.parametrize("block", of("console"))
def test_console_blocks_show_what_is_printed(block, reader):
    command, _, shown = block.text.partition("\n")
    words = next(entry.words for entry in COMMANDS if entry.place == block.place)
    assert command.startswith("$ cldctl ")
    done = invoke(*words, runs=reader / "runs", code=None)
    printed = " ".join((done.stdout + done.stderr).split())
    wanted = re.escape(" ".join(shown.split())).replace(re.escape("..."), ".*")
    assert re.fullmatch(wanted, printed), f"{block.place}: {os.linesep}{printed}"


def test_blocks_are_found():
    """A parser that finds nothing would let every test here pass."""
    assert len(COMMANDS) > 100
    assert {block.language for block in BLOCKS} >= {"python", "yaml", "sh", "console"}
    assert {block.page for block in SHOWN} == {"docs/api.md"}

"""The page of a run: what it says first, and that nothing in a run folder gets out of its place."""

import base64
import hashlib
import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from cld_core.evaluation.sweeps import Sweep
from cld_core.run.atomic import write_json
from cldctl import page as package
from cldctl.page import rendering
from tests.cldctl.page.parsed import Parsed
from tests.support.made_up import run_with
from tests.support.paths import RECIPES
from tests.support.reported import HOSTILE, everything
from tests.support.tools import invoke

# What the last start of the made-up run writes first into its log.
START = "--- start 3 of job 7: rank 1 on node3, 2023-11-15T02:00:00 ---\n"


def page_of(run, *options: str) -> str:
    target = run.path.parent / "page.html"
    invoke("report", run.name, *options, "-o", str(target), runs=run.path.parent)
    return target.read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("runs") / "mine")


def test_the_verdict_of_a_run_that_is_done(made):
    text = " ".join(Parsed(page_of(made)).text.split())
    assert "Finished: all 8,000 steps are done. Best NLL bound: -1.100 ± 0.040 nats." in text
    assert "true entropy -1.400, gap 0.300" in text
    assert "cldctl sample mine" not in text, "samples of this step are on the page"
    assert "paper" in text


def test_the_next_command_draws_samples_if_there_are_none_of_the_last_step(tmp_path):
    run = everything(tmp_path / "mine", points=2)
    for file in run.samples.glob("*.png"):
        file.rename(file.with_name(file.name.replace("8000", "4000")))
    assert "Next cldctl sample mine" in " ".join(Parsed(page_of(run)).text.split())


@pytest.mark.parametrize(
    ("smoothed", "expected"), [(0.25, "loss (smoothed) 0.25 step 20; last loss 0.5"), (None, "last loss 0.5 step 20")]
)
def test_the_loss_says_which_one_it_is(tmp_path, smoothed, expected):
    run = run_with(tmp_path / "mine", 20)
    write_json(run.progress_file, {"step": 20, "loss": 0.5, "smoothed_loss": smoothed, "time": 1.0})
    assert expected in " ".join(Parsed(page_of(run)).text.split())


def test_the_verdict_of_a_run_that_failed(tmp_path):
    run = everything(tmp_path / "mine", end="crashed", points=2)
    (run.logs / "7_1_log.err").write_text(f"{START}Traceback\nOSError: <b>disk</b>\n")
    text = " ".join(Parsed(page_of(run)).text.split())
    assert "Rank 1 failed first on node3, in attempt 3: OSError:" in text
    assert "Traceback OSError: <b>disk</b>" in text
    assert "cldctl resume mine" in text


def test_last_words_are_not_taken_from_elsewhere(tmp_path):
    run = everything(tmp_path / "mine", end="crashed", points=2)
    private = tmp_path / "private"
    private.mkdir()
    (private / "7_1_log.err").write_text(f"{START}Traceback\nOSError: SECRET\n")
    run.logs.rmdir()
    run.logs.symlink_to(private)
    assert "SECRET" not in page_of(run)
    assert "SECRET" in page_of(run, "--follow-links")


def test_nothing_of_a_run_becomes_markup(made):
    content = page_of(made)
    parsed = Parsed(content)
    assert HOSTILE.replace("\u202e", "") in parsed.text, "it is shown, without what would turn the text around"
    assert "\u202e" not in content
    assert {attributes["src"][:22] for attributes in parsed.all("img")} == {"data:image/png;base64,"}
    assert not parsed.all("a")
    assert len(parsed.all("script")) == len(parsed.all("style")) == 1
    assert not any(name.startswith("on") or name == "style" for _, attributes in parsed.elements for name in attributes)
    assert sorted(parsed.scripts) == sorted([rendering._text("page.css"), rendering._text("page.js")])


def test_names_of_a_sweep_stay_in_their_attribute(tmp_path):
    run = everything(tmp_path / "mine", points=2)
    (file,) = run.evals.glob("sweep-*/sweep.json")
    content = json.loads(file.read_text())
    content["axes"][1]["values"][2] = HOSTILE
    for cell in content["cells"][2::3]:
        cell["values"]["eval.elbo.probes"] = HOSTILE
    file.write_text(json.dumps(content))
    file.parent.rename(run.evals / Sweep.load(file.parent).id)
    parsed = Parsed(page_of(run))
    (names,) = (json.loads(it["data-names"]) for it in parsed.all("svg") if "data-names" in it)
    assert list(names.values()) == ["1", "2", HOSTILE]
    assert len(parsed.all("script")) == 1
    assert len(parsed.all("img")) == 2


def test_a_browser_is_told_to_refuse_everything_else(made):
    parsed = Parsed(page_of(made))
    (policy,) = (it["content"] for it in parsed.all("meta") if it.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for text, rule in zip(parsed.scripts, ("style-src", "script-src"), strict=True):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_tables_and_pictures_can_be_read_aloud(made):
    parsed = Parsed(page_of(made))
    assert all(attributes["alt"].strip() for attributes in parsed.all("img"))
    assert all(attributes.get("scope") in ("col", "row") for attributes in parsed.all("th"))
    charts = [it for it in parsed.all("svg") if it.get("class") in ("chart", "time-line")]
    assert len(charts) >= 5
    assert all(it["aria-label"].strip() and it["role"] == "img" for it in charts)
    assert parsed.all("html") == [{"lang": "en"}]


def test_a_long_training_makes_a_small_page(tmp_path):
    assert len(page_of(everything(tmp_path / "mine", points=6_000))) < 400_000


def test_a_run_without_anything_has_a_page(tmp_path):
    text = Parsed(page_of(run_with(tmp_path / "mine"))).text
    assert "No loss has been recorded" in text
    assert "Failed: the submission was interrupted" in text


def test_damaged_files_are_told_of(tmp_path):
    run = everything(tmp_path / "mine", points=2)
    run.ledger.path.write_text("no ledger\n")
    run.recipe_file.write_text("no: recipe")
    text = " ".join(Parsed(page_of(run)).text.split())
    assert "The recipe cannot be read" in text
    assert "attempts.jsonl" in text


def test_the_package_holds_every_template():
    folder = Path(package.__file__).parent
    patterns = tomllib.loads((RECIPES.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = [file for file in (folder / "templates").iterdir() if file.is_file()]
    assert {file.suffix for file in files} == {".html", ".css", ".js"}
    for file in files:
        name = file.relative_to(folder.parent).as_posix()
        assert any(fnmatch(name, pattern) for pattern in patterns["cldctl"]), name
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", "".join(file.read_text() for file in files))

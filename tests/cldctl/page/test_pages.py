"""What pages of one and of many runs say and draw; nothing in a run folder gets out of its place, or is cut off."""

import math
import os
import re

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch.utils.tensorboard import SummaryWriter

from cld_core.config import with_overrides
from cld_core.evaluate.request import request_of
from cld_core.files import write_json
from cld_core.run import RunFolder
from cld_core.run.events import Labelled
from cld_core.run.folder import FORMAT
from cld_core.train.loggers import About, Monitor
from cldctl.page import curves, document
from cldctl.page import report as pages
from cldctl.page.document import chart
from cldctl.runs import survey
from cldctl.runs.status import status_of
from tests.cldctl.page.parsed import Parsed
from tests.support.browser import CLIPPED, FAINT, chromium, opened
from tests.support.made_up import report, run_with, seeds
from tests.support.on_screen import HOSTILE, reported
from tests.support.tools import invoke

# What the last start of the made-up run writes first into its log.
START = "--- start 3 of job 7: rank 1 on node3, 2023-11-15T02:00:00 ---\n"


def page_of(*runs, options=(), root=None):
    root = root or next(run.path.parent for run in runs if isinstance(run, RunFolder))
    names = [run.name if isinstance(run, RunFolder) else run for run in runs]
    target = root / "page.html"
    invoke("report", *names, *options, "-o", str(target), runs=root)
    return Parsed(target.read_text())


def words(parsed):
    return " ".join(parsed.text.split())


def titles(parsed):
    return [text for tag, text in parsed.texts if tag == "figcaption"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return reported(tmp_path_factory.mktemp("runs") / "mine", points=300)


def test_a_page_has_verdict_results_curves_attempts_and_recipe(made):
    parsed = page_of(made)
    text = words(parsed)
    for expected in (
        "Finished: all 8,000 steps are done. Best NLL bound: -1.100 ± 0.040 nats.",
        "true entropy -1.400, gap 0.300 step 8,000, 2,000 points, 312 NFE",
        "0 2,000 2,000 0 15m00s 1h06m preempted",
        "Sweep over eval.elbo.velocities and eval.elbo.probes",
        "6 of 6 evaluations are complete",
        "1 1 -1.200 ± 0.040 312",
        "optim.lr 0.002 0.001",
        "Constant: learning rate 0.002.",
    ):
        assert expected in text, expected
    assert "cldctl sample mine" not in text, "samples of this step are on the page"
    assert titles(parsed)[:4] == [
        "loss",
        "mine, samples/step_00008000.png",
        "NLL bound, nats, by step",
        "NLL bound, nats, by eval.elbo.probes",
    ]
    assert "norm of the gradient" in titles(parsed)
    bars = [str(it["class"]) for it in parsed.all("i") if it.get("class")]
    assert ", ".join(bars) == (
        "dim queued, blue starting, magenta preempted, dim queued, blue starting, red node failure, "
        "dim queued, blue starting, red out of memory, dim queued, blue starting, green finished"
    )


def test_nothing_of_a_run_becomes_markup_and_nothing_is_asked_for(made):
    parsed = page_of(made)
    assert HOSTILE.replace("\u202e", "") in parsed.text, "it is shown, without what would turn the text around"
    assert "\u202e" not in parsed.text
    assert not parsed.all("script")
    assert not parsed.all("a")
    assert {str(it["src"])[:22] for it in parsed.all("img")} == {"data:image/png;base64,"}
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert {str(it["xlink:href"])[:1] for it in parsed.all("use")} <= {"#"}
    (policy,) = (it["content"] for it in parsed.all("meta") if it.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert all(str(it["alt"]).strip() for it in parsed.all("img"))


def test_a_run_that_failed_shows_its_last_words_unless_they_are_from_elsewhere(tmp_path):
    run = reported(tmp_path / "mine", end="crashed", points=2)
    (run.logs / "7_1_log.err").write_text(f"{START}Traceback\nOSError: <b>disk</b>\n")
    text = words(page_of(run))
    assert "Rank 1 on node3 failed first in attempt 3: OSError:" in text
    assert "Traceback OSError: <b>disk</b>" in text
    assert "cldctl resume mine" in text
    run.logs.rename(tmp_path / "private")
    run.logs.symlink_to(tmp_path / "private")
    assert "Traceback" not in words(page_of(run))
    assert "Left out, because a link leads out of the run: logs." in words(page_of(run))
    assert "Traceback" in words(page_of(run, options=("--follow-links",)))


def test_a_run_without_anything_or_with_damaged_files_has_a_page(tmp_path):
    text = words(page_of(run_with(tmp_path / "empty")))
    assert "No loss has been recorded" in text
    assert "Failed: the submission was interrupted" in text
    run = reported(tmp_path / "mine", points=2)
    run.ledger.path.write_text("no ledger\n")
    run.recipe_file.write_text("no: recipe")
    write_json(run.identity_file, {"format": FORMAT, "created": 1e17, "versions": "x", "git": "y", "sweep": "z"})
    text = words(page_of(run))
    assert "The recipe cannot be read" in text
    assert "attempts.jsonl" in text


def answered(run, nll, *overrides, **sections):
    recipe = with_overrides(run.recipe(), list(overrides), "test")
    report(run, request_of(recipe, ("elbo",), 10), elbo={"nll": nll, "stderr": 0.1, "nfe_mean": 80.0}, **sections)


def test_the_best_number_is_over_the_most_examples_and_beside_the_published_one(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    write_json(run.identity_file, run.identity() | {"recipe": "cifar10"})
    answered(run, -9.0, "eval.points=50")
    answered(run, -1.25, "eval.points=800", fid={"value": 2.5, "samples": 64})
    answered(run, float("nan"), "eval.points=900")
    text = words(page_of(run))
    assert "NLL bound, nats -1.250 ± 0.100 step 10, 800 points, 80 NFE" in text
    assert "published 2.25 (probability flow, 312 NFE, 50,000 samples)" in text


def test_several_runs_are_one_page_that_says_what_differs(tmp_path):
    runs = [with_losses(tmp_path / "one"), with_losses(tmp_path / "two", "optim.lr=0.5")]
    answered(runs[0], 1.0, "eval.points=800")
    for run in runs:
        (run.samples / "step_00000010.png").write_bytes(b"\x89PNG\r\n\x1a\n" + run.name.encode())
    parsed = page_of(*runs)
    text = words(parsed)
    assert "2 runs compared" in text
    assert "1.000 ± 0.100 (800 points)" in text
    assert "key one two optim.lr 0.001 0.5" in text
    assert titles(parsed) == [
        "multimodal_swissroll, cld, hsm",
        "one, samples/step_00000010.png",
        "two, samples/step_00000010.png",
    ]
    assert [words for tag, words in parsed.texts if tag == "li"] == ["one", "two"]
    assert invoke("report", "one", "two", runs=tmp_path).stdout == f"{tmp_path / 'comparison.html'}\n"


def with_losses(path, *overrides):
    run = run_with(path, 10, overrides=overrides)
    with SummaryWriter(str(run.tensorboard)) as board:
        for step in range(30):
            board.add_scalar("train/loss", 2.0 - 0.01 * step, step)
    return run


def test_the_index_leads_to_pages_and_writes_those_that_are_out_of_date(tmp_path, monkeypatch):
    root = tmp_path / "runs"
    first = reported(root / "first", points=2)
    run_with(root / "third").path.rename(root / "javascript:alert(1)")

    def links():
        return [str(it["href"]) for it in Parsed((root / "index.html").read_text()).all("a")]

    invoke("report", "--all", runs=root)
    assert links() == []
    text = words(Parsed((root / "index.html").read_text()))
    assert "Without a page yet: 2. cldctl report --all --pages" in text
    assert "cldctl report 'javascript:alert(1)'" in text
    assert "-1.100 ± 0.040" in text
    assert "2 pages written" in invoke("report", "--all", "--pages", runs=root).stderr
    assert sorted(links()) == ["./first/report.html", "./javascript%3Aalert%281%29/report.html"]
    before = (first.path / "report.html").stat().st_mtime_ns
    invoke("report", "--all", "--pages", runs=root)
    assert (first.path / "report.html").stat().st_mtime_ns == before, "it is finished, and nothing has happened"
    first.ledger.append(Labelled(note="looks good"))
    invoke("report", "--all", "--pages", runs=root)
    assert "looks good" in (first.path / "report.html").read_text()
    first.ledger.append(Labelled(note="again"))
    monkeypatch.setattr(pages, "page", lambda run, follow: 1 / 0)
    done = invoke("-q", "report", "--all", "--pages", runs=root, code=1)
    assert "first: " in done.stderr
    assert done.stdout == f"{root / 'index.html'}\n"


def test_the_index_of_a_group_shows_what_was_swept_and_averages_over_seeds(tmp_path):
    for run, nll in zip(seeds(tmp_path, "mine", 3, 10), (0.5, 0.7, 0.9), strict=True):
        report(run, request_of(run.recipe(), ("elbo",), 10), elbo={"nll": nll, "stderr": 0.1})
    run_with(tmp_path / "another", 10)
    assert invoke("report", "mine", runs=tmp_path).stdout == f"{tmp_path / 'index-mine.html'}\n"
    text = words(Parsed((tmp_path / "index-mine.html").read_text()))
    assert "run state train.seed step" in text
    assert "another" not in text
    assert "mine 10 3 0.700 ± 0.200" in text, "the standard deviation of 0.5, 0.7 and 0.9"
    (tmp_path / "mine-1" / "recipe.yaml").write_text("[")
    text = words(page_of("mine", "another", root=tmp_path))
    assert "mine 10 2 0.700 ± 0.283" in text
    assert "mine-1 is left out, because it cannot be read" in text
    assert "cldctl report another" in text


@pytest.mark.parametrize("arguments", [("mine",), ("--all", "--pages")])
def test_what_is_noted_while_a_page_is_made_is_in_the_next_one(tmp_path, monkeypatch, arguments):
    finished = reported(tmp_path / "runs" / "mine", points=2)
    explain = pages.why

    def why(run):
        found = explain(run)
        run.ledger.append(Labelled(note="came late"))
        return found

    monkeypatch.setattr(pages, "why", why)
    invoke("report", *arguments, runs=finished.path.parent)
    assert not pages.is_up_to_date(finished, status_of(finished, survey.of_runs([finished])), follow=False)


def test_a_curve_is_its_mean_over_its_points_and_is_the_same_each_time():
    points = [(step, 1.0 + 0.1 * math.sin(step)) for step in range(5_000)]
    drawn = chart("loss", {"loss": points})
    assert drawn.count("stroke: var(--c0)") == 2
    assert not re.search(r"#0001\d\d|<metadata|<script", drawn)
    assert len(drawn) < 30_000
    assert chart("loss", {"loss": points}) == drawn
    assert chart("loss", {"loss": []}) == ""


def picture(run, name, width):
    about = PngInfo()
    about.add_text("Description", f"other, step 30: {name}")
    file = run.path / name
    file.parent.mkdir(exist_ok=True)
    Image.effect_noise((width, width), 50).save(file, pnginfo=about)


def test_pictures_say_what_they_are_the_newest_first_and_nothing_else_is_shown(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    names = ("samples/step_00000010.png", "samples/step_00000030.png", "evals/elbo-1/samples.png")
    for age, (name, width) in enumerate(zip(names, (90, 400, 20), strict=True)):
        picture(run, name, width)
        os.utime(run.path / name, (age, age))
    drawn = "".join(document.gallery(run, follow=False, most=2))
    alts = [it["alt"] for it in Parsed("".join(document.gallery(run, follow=False))).all("img")]
    assert alts == [f"mine, step 30: {names[place]}" for place in (1, 0, 2)]
    assert drawn.count('class="pixelated"') == 1
    assert "1 older" in drawn
    picture(run_with(tmp_path / "other", 10), "samples/private.png", 9)
    (run.samples / "linked.png").symlink_to(tmp_path / "other/samples/private.png")
    (run.evals / "elbo-2").symlink_to(tmp_path / "other/samples")
    (run.samples / "cut.png").write_bytes(document.PNG)
    (run.samples / "text.png").write_bytes(b"secret")
    drawn = "".join(document.gallery(run, follow=False, most=9))
    assert {*(it["alt"] for it in Parsed(drawn).all("img"))} == {*alts, "mine, samples/cut.png"}
    assert all(f"samples/{name}.png: not a picture" in drawn for name in ("linked", "text"))


def attempt(run, number, first, last, every=10):
    """What an attempt writes that begins after step ``first``; its files are those of a second of its own."""
    before = set(run.tensorboard.glob("*"))
    about = About(folder=run, recipe=run.recipe(), attempt=number, first_step=first)
    monitor = Monitor(about, may_write=lambda: False)
    for step in range(first + every, last + 1, every):
        monitor.report(step, {"loss": 100.0 * number + step})
        monitor.plot("periodic", {"nfe": float(number)}, step)
    monitor.close()
    (file,) = set(run.tensorboard.glob("*")) - before
    file.rename(run.tensorboard / f"events.out.tfevents.{number:010d}")


def test_what_later_attempts_repeat_replaces_what_was_there(run, caplog):
    for number, (first, last) in enumerate(((0, 40), (20, 30), (20, 60))):
        attempt(run, number, first, last)
    found = curves.read(run)
    assert found["train/loss"] == [(10, 10.0), (20, 20.0), (30, 230.0), (40, 240.0), (50, 250.0), (60, 260.0)]
    assert [step for step, _ in found["periodic/nfe"]] == [10, 20, 30, 40, 50, 60]
    assert caplog.text == ""
    # A record that is being written is read once it is whole.
    *_, file = sorted(run.tensorboard.glob("*"))
    whole, curve = file.read_bytes(), curves.Curves(run.tensorboard, curves.LOSS)
    for content in (whole[:200], whole):
        file.write_bytes(content)
        curve.look()
    assert curve.losses == (10.0, 20.0, 230.0, 240.0, 250.0, 260.0)


def test_what_is_not_finite_is_no_point_and_a_subfolder_names_its_tags(run):
    with SummaryWriter(str(run.tensorboard / "eval-1")) as board:
        for step, value in enumerate((1.0, float("nan"), float("inf"), 2.0)):
            board.add_scalar("other", value, step)
    assert curves.read(run)["eval-1: other"] == [(0, 1.0), (3, 2.0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page of a run, the index over three of them, and two beside each other."""
    runs = tmp_path_factory.mktemp("shown") / "runs"
    reported(runs / "a_run_with_a_name_that_is_rather_long-1126-160401-ab12")
    reported(runs / "failed", end="crashed", points=50)
    run_with(runs / "empty")
    for names, target in ((["a_run"], "one"), (["--all"], "all"), (["a_run", "failed"], "two")):
        invoke("report", *names, "-o", str(runs.parent / f"{target}.html"), runs=runs)
    return runs.parent


@pytest.mark.by_hand
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_cut_off_and_nothing_is_asked_for(folder, width, scheme):
    with chromium() as browser:
        for name in ("one", "all", "two"):
            with opened(browser, folder / f"{name}.html", width=width, scheme=scheme) as shown:
                assert shown.page.locator("h1").is_visible()
                assert shown.page.evaluate(CLIPPED) == [], name
                assert shown.page.evaluate(FAINT) == [], name
                assert (shown.complaints, shown.requests) == ([], [])

"""What pages of one and of many runs say and draw; nothing in a run folder gets out of its place,
or is cut off."""

import math
import os
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from cld_core.config import with_overrides
from cld_core.evaluate.request import request_of
from cld_core.files import write_json
from cld_core.run import RunFolder
from cld_core.run.folder import FORMAT
from cld_core.train.loggers import LoggedAttempt, Monitor
from cldctl.page import curves, document
from cldctl.page.document import chart
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


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return reported(tmp_path_factory.mktemp("runs") / "mine", points=300)


def test_a_page_has_verdict_results_curves_attempts_and_recipe(made):
    parsed = page_of(made)
    text = words(parsed)
    for expected in (
        "Finished: all 8,000 steps are done.",
        "NLL bound, nats -1.100 ± 0.040",
        "true entropy -1.400, gap 0.300 step 8,000, 2,000 points, 312 NFE",
        "0 2,000 2,000 0 15m00s 1h06m preempted",
        "6 of 6 evaluations are complete",
        "1 1 -1.200 ± 0.040 312",
        "optim.lr 0.002 0.001",
        "Constant: learning rate 0.002.",
    ):
        assert expected in text, expected
    shown = {
        "loss",
        "mine, samples/step_00008000.png",
        "NLL bound, nats, by step",
        "norm of the gradient",
    }
    assert shown <= {*parsed.captions}
    bars = [str(it["class"]) for it in parsed.all("i") if it.get("class")]
    ends = [bar for bar in bars if not bar.endswith(("queued", "starting"))]
    assert ends == ["magenta preempted", "red node failure", "red out of memory", "green finished"]


def test_nothing_of_a_run_becomes_markup_and_nothing_is_asked_for(made):
    parsed = page_of(made)
    assert HOSTILE.replace("\u202e", "") in parsed.text, (
        "it is shown, without what would turn the text around"
    )
    assert not parsed.all("script")
    assert not parsed.all("a")
    assert {str(it["src"])[:22] for it in parsed.all("img")} == {"data:image/png;base64,"}
    assert not any(
        name.startswith("on") for _, attributes in parsed.elements for name in attributes
    )
    assert {str(it["xlink:href"])[:1] for it in parsed.all("use")} <= {"#"}
    (policy,) = (
        it["content"]
        for it in parsed.all("meta")
        if it.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_run_that_failed_shows_its_last_words_unless_they_are_from_elsewhere(tmp_path):
    run = reported(tmp_path / "mine", end="crashed", points=2)
    (run.logs / "7_1_log.err").write_text(f"{START}Traceback\nOSError: <b>disk</b>\n")
    text = words(page_of(run))
    assert "Rank 1 on node3 failed first in attempt 3: OSError:" in text
    assert "Traceback OSError: <b>disk</b>" in text
    run.logs.rename(tmp_path / "private")
    run.logs.symlink_to(tmp_path / "private")
    text = words(page_of(run))
    assert "Traceback" not in text
    assert "Left out, because a link leads out of the run: logs." in text
    assert "Traceback" in words(page_of(run, options=("--follow-links",)))


def test_a_run_without_anything_or_with_damaged_files_has_a_page(tmp_path):
    text = words(page_of(run_with(tmp_path / "empty")))
    assert "No loss has been recorded" in text
    assert "Failed: the submission was interrupted" in text
    run = reported(tmp_path / "mine", points=2)
    run.ledger.path.write_text("no ledger\n")
    run.recipe_file.write_text("no: recipe")
    write_json(
        run.identity_file,
        {"format": FORMAT, "created": 1e17, "versions": "x", "git": "y", "sweep": "z"},
    )
    text = words(page_of(run))
    assert "The recipe cannot be read" in text
    assert "attempts.jsonl" in text


def answered(run, nll, *overrides, **sections):
    recipe = with_overrides(run.recipe(), list(overrides), "test")
    elbo = {"nll": nll, "stderr": 0.1, "n": recipe.eval.points, "nfe_mean": 80.0}
    report(run, request_of(recipe, ("elbo",), 10), elbo=elbo, **sections)


def test_the_best_number_is_over_the_most_examples_and_beside_the_published_one(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    write_json(run.identity_file, run.identity() | {"recipe": "cifar10"})
    w2 = {"value": 0.31, "floor": 0.29, "floor_stderr": 0.04}
    for nll, points in ((-9.0, 50), (-1.25, 800), (float("nan"), 900)):
        answered(run, nll, f"eval.points={points}", fid={"value": 2.5, "samples": 64}, w2=w2)
    text = words(page_of(run))
    assert "NLL bound, nats -1.250 ± 0.100 step 10, 800 points, 80 NFE" in text
    assert "published 2.25" in text
    assert "sliced W2 0.3100 W2 of two true sets 0.2900 ± 0.0400" in text


def test_several_runs_are_one_page_that_says_what_differs(tmp_path):
    runs = [
        run_with(tmp_path / "one", 10),
        run_with(tmp_path / "two", 10, overrides=("optim.lr=0.5",)),
    ]
    answered(runs[0], 1.0, "eval.points=800")
    for run in runs:
        (run.samples / "step_00000010.png").write_bytes(b"\x89PNG\r\n\x1a\n" + run.name.encode())
    parsed = page_of(*runs)
    text = words(parsed)
    assert "2 runs compared" in text
    assert "1.000 ± 0.100 (800 points)" in text
    assert "key one two optim.lr 0.001 0.5" in text
    assert {f"{name}, samples/step_00000010.png" for name in ("one", "two")} <= {*parsed.captions}
    assert invoke("report", "one", "two").stdout == f"{tmp_path / 'comparison.html'}\n"


def test_the_index_is_the_table_of_status_and_leads_to_the_pages_that_exist(tmp_path):
    root = tmp_path / "runs"
    reported(root / "first", points=2)
    run_with(root / "third").path.rename(root / "javascript:alert(1)")
    for name in ("first", "javascript:alert(1)"):
        invoke("report", str(root / name), runs=root)
    run_with(root / "without-page")
    assert invoke("report", "--all", runs=root).stdout == f"{root / 'index.html'}\n"
    page = Parsed((root / "index.html").read_text())
    links = sorted(str(link["href"]) for link in page.all("a"))
    assert links == ["./first/report.html", "./javascript%3Aalert%281%29/report.html"]
    for line in invoke("status", "--all", runs=root).stdout.splitlines():
        assert "─" in line or " ".join(line.split()) in words(page), line


def test_the_page_of_a_group_shows_what_was_swept_and_averages_over_seeds(tmp_path):
    for run, nll in zip(seeds(tmp_path, "mine", 3, 10), (0.5, 0.7, 0.9), strict=True):
        report(run, request_of(run.recipe(), ("elbo",), 10), elbo={"nll": nll, "stderr": 0.1})
    run_with(tmp_path / "another", 10)
    page = tmp_path / "comparison-mine.html"
    assert invoke("report", "mine").stdout == f"{page}\n"
    text = words(Parsed(page.read_text()))
    assert "run seed state step" in text
    assert "another" not in text
    assert "mine 10 3 0.700 ± 0.200" in text, "the standard deviation of 0.5, 0.7 and 0.9"
    (tmp_path / "mine-1" / "recipe.yaml").write_text("[")
    text = words(page_of("mine", "another", root=tmp_path))
    assert "mine 10 2 0.700 ± 0.283" in text
    assert "mine-1 is left out, because it cannot be read" in text


def test_a_curve_is_its_mean_over_its_points_and_is_the_same_each_time():
    points = [(step, 1.0 + 0.1 * math.sin(step)) for step in range(5_000)]
    drawn = chart("loss", {"loss": points})
    assert len(drawn) < 30_000
    assert chart("loss", {"loss": points}) == drawn
    assert chart("loss", {"loss": []}) == ""


def test_numbers_beside_an_axis_have_room():
    drawn = chart("learning rate", {"": [(0, 0.00098), (1, 0.001)]})
    labels = re.findall(r'text-anchor: end[^>]* x="([\d.]+)"[^>]*>([\d.]+)<', drawn)
    assert "0.00099" in [number for _, number in labels]
    # A digit takes 0.64 of the size of the font, which is 15 on a small screen, and a point half.
    assert all(float(right) > 9.6 * (len(number) - 0.5) for right, number in labels)


def test_pictures_are_shown_the_newest_first_and_nothing_else_is(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    names = ("samples/step_00000010.png", "samples/step_00000030.png", "evals/elbo-1/samples.png")
    for age, name in enumerate(names):
        (run.path / name).parent.mkdir(exist_ok=True)
        Image.effect_noise((20, 20), 50).save(run.path / name)
        os.utime(run.path / name, (age, age))
    assert "1 older" in "".join(document.gallery(run, follow=False, most=2))
    (tmp_path / "private.png").write_bytes((run.path / names[0]).read_bytes())
    (run.samples / "linked.png").symlink_to(tmp_path / "private.png")
    (run.samples / "text.png").write_bytes(b"secret")
    drawn = "".join(document.gallery(run, follow=False))
    assert [it["alt"] for it in Parsed(drawn).all("img")] == [
        f"mine, {names[place]}" for place in (1, 0, 2)
    ]
    assert all(f"samples/{name}.png: not a picture" in drawn for name in ("linked", "text"))


def attempt(run, number, first, last, every=10):
    """What an attempt writes that begins after step ``first``; its files are those of a second of
    its own."""
    before = set(run.tensorboard.glob("*"))
    about = LoggedAttempt(folder=run, recipe=run.recipe(), attempt=number, first_step=first)
    monitor = Monitor(about, may_write=lambda: False)
    for step in range(first + every, last + 1, every):
        monitor.report(step, {"loss": 100.0 * number + step})
        monitor.plot("periodic", {"nfe": float(number)}, step)
    monitor.close()
    (file,) = set(run.tensorboard.glob("*")) - before
    file.rename(run.tensorboard / f"events.out.tfevents.{number:010d}")


def test_what_later_attempts_repeat_replaces_what_was_there(run):
    for number, (first, last) in enumerate(((0, 40), (20, 30), (20, 60))):
        attempt(run, number, first, last)
    found = curves.read(run)
    losses = {10: 10.0, 20: 20.0, 30: 230.0, 40: 240.0, 50: 250.0, 60: 260.0}
    assert dict(found["train/loss"]) == losses
    assert [step for step, _ in found["periodic/nfe"]] == list(losses)
    # A record that is being written is read once it is whole.
    *_, file = sorted(run.tensorboard.glob("*"))
    whole = file.read_bytes()
    curve = curves.Curves(run.tensorboard, curves.LOSS)
    for content in (whole[:200], whole):
        file.write_bytes(content)
        curve.look()
    assert curve.losses == tuple(losses.values())
    with SummaryWriter(str(run.tensorboard / "eval-1")) as board:
        for step, value in enumerate((1.0, float("nan"), 2.0)):
            board.add_scalar("other", value, step)
    assert curves.read(run)["eval-1: other"] == [(0, 1.0), (2, 2.0)], (
        "what is not finite is not a point"
    )


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


_WITHIN_A_LINE = ("a", "b", "code", "span", "small")


class Parsed(HTMLParser):
    """The elements and the text of a page.

    Attributes:
        elements: name and attributes, in their order.
        captions: what stands in the captions of figures.
        text: everything but styles, scripts and drawings.
    """

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements = []
        self.captions = []
        self.text = ""
        self._inside = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style", "svg"):
            self._inside.append(tag)
        if tag == "figcaption":
            self.captions.append("")

    def handle_endtag(self, tag):
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()
        elif tag not in _WITHIN_A_LINE:
            self.text += " "

    def handle_data(self, data):
        if self._inside:
            return
        self.text += data
        if self.captions:
            self.captions[-1] = self.captions[-1] or data.strip()

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

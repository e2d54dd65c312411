"""Charts that show what there is to see, and pictures within a budget."""

import math
import os
import re

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch.utils.tensorboard import SummaryWriter

from cld_core.run import RunFolder
from cld_core.train.loggers import About
from cld_core.train.monitoring import Monitor
from cldctl.page import curves, document
from cldctl.page.document import chart, is_logarithmic
from tests.cldctl.page.parsed import Parsed
from tests.support.made_up import run_with


def labels(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_a_curve_is_its_mean_over_its_points_and_is_the_same_each_time():
    points = [(step, 1.0 + 0.1 * math.sin(step)) for step in range(5_000)]
    drawn = chart("loss", {"loss": points})
    assert drawn.count("stroke: var(--c0)") == 2
    assert "var(--c0)" in drawn
    assert not re.search(r"#0001\d\d|<metadata|<script", drawn)
    assert len(drawn) < 30_000
    assert chart("loss", {"loss": points}) == drawn
    assert chart("loss", {"loss": []}) == ""


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.48, 0.16, *[0.15] * 50], True),  # One early point takes most of a linear axis.
        ([float(10**power) for power in range(4)], True),
        ([1.0 - 0.01 * step for step in range(50)], False),
        ([1e-4 * (1.0 + math.cos(math.pi * step / 100)) + 1e-10 for step in range(101)], False),  # A learning rate.
        ([-1.0, 1e3], False),
        ([2.0], False),
    ],
)
def test_the_axis_is_logarithmic_where_a_linear_one_would_flatten_the_curve(values, expected):
    assert is_logarithmic(sorted(values)) is expected
    drawn = chart("loss", {"loss": list(enumerate(values))})
    assert ("loss, logarithmic" in drawn) is expected
    assert labels(drawn)


@pytest.mark.parametrize("values", [(0.0,), (5e-324, 0.0), (-1e300, 1e300), (3.0, 3.0), (1e12, 1.0)])
def test_values_at_the_ends_of_what_floats_can_say_are_drawn(values):
    assert "<svg" in chart("loss", {"loss": list(enumerate(values))})


def picture(run, name, width):
    about = PngInfo()
    about.add_text("Description", f"other, step 30: {name}")
    file = run.path / name
    file.parent.mkdir(exist_ok=True)
    Image.effect_noise((width, width), 50).save(file, pnginfo=about)


def captions(run, *, follow=False) -> list[str]:
    parsed = Parsed("".join(document.gallery(run, follow=follow)))
    return [str(it["alt"]) for it in parsed.all("img")] + [
        it.strip() for it in parsed.text.splitlines() if "not a" in it
    ]


def test_pictures_are_named_after_their_run_and_say_what_they_are_and_the_newest_is_first(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    names = ("samples/step_00000010.png", "samples/step_00000020_em.png", "samples/step_00000030.png")
    for age, (name, width) in enumerate(zip(names, (90, 400, 400), strict=True)):
        picture(run, name, width)
        os.utime(run.path / name, (age, age))
    picture(run, "evals/elbo-1/samples.png", 20)
    (run.evals / "elbo-2").mkdir()
    (run.evals / "elbo-2/samples.png").write_bytes((run.evals / "elbo-1/samples.png").read_bytes())
    drawn = "".join(document.gallery(run, follow=False, most=4))
    assert captions(run) == [
        "mine, step 30: samples/step_00000030.png",
        "mine, step 30: samples/step_00000020_em.png",
        "mine, step 30: samples/step_00000010.png",
        "mine, step 30: evals/elbo-1/samples.png",
    ]
    assert drawn.count('class="pixelated"') == 2
    assert "1 older" in drawn


def test_what_is_not_a_picture_is_named_and_no_link_leads_out(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    (run.samples / "cut.png").write_bytes(document.PNG)
    (run.samples / "text.png").write_bytes(b"secret")
    picture(run_with(tmp_path / "other", 10), "samples/private.png", 9)
    (run.samples / "linked.png").symlink_to(tmp_path / "other/samples/private.png")
    (run.evals / "elbo-1").symlink_to(tmp_path / "other/samples")
    assert sorted(captions(run)) == [
        "mine, samples/cut.png",
        "samples/linked.png: not a picture",
        "samples/text.png: not a picture",
    ]


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return run_with(tmp_path / "mine", 60)


def attempt(run: RunFolder, number: int, first: int, last: int, every: int = 10) -> None:
    """What an attempt writes that begins after step ``first``; its files are those of a second of its own."""
    before = set(run.tensorboard.glob("*"))
    about = About(folder=run, recipe=run.recipe(), attempt=number, first_step=first)
    monitor = Monitor(about, may_write=lambda: False)
    for step in range(first + every, last + 1, every):
        monitor.report(step, {"loss": 100.0 * number + step})
        monitor.add(step, {"nfe": float(number)})
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


def test_what_is_not_finite_is_no_point_and_a_subfolder_names_its_tags(run):
    with SummaryWriter(str(run.tensorboard / "eval-1")) as board:
        for step, value in enumerate((1.0, float("nan"), float("inf"), 2.0)):
            board.add_scalar("other", value, step)
    assert curves.read(run)["eval-1: other"] == [(0, 1.0), (3, 2.0)]


def test_nothing_outside_of_the_run_is_read_unless_somebody_wants_it(run, tmp_path):
    with SummaryWriter(str(tmp_path / "private")) as board:
        board.add_scalar("salary", 1.0, 1)
    (run.tensorboard / "linked").symlink_to(tmp_path / "private")
    os.mkfifo(run.tensorboard / "events.out.tfevents.1")
    assert curves.read(run) == {}
    assert list(curves.read(run, follow=True)) == ["linked: salary"]

"""Charts that show what there is to see, and pictures within a budget."""

import math
import os
import re

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cldctl.page import document
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

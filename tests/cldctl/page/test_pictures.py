"""Each picture once, the newest first, and not more than a page can hold."""

import math
import os
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cld_core.evaluation import pictures as titles
from cldctl.page import captions, pictures
from cldctl.page.curves import read
from cldctl.page.places import Places
from tests.support.made_up import run_with
from tests.support.reported import everything


def gallery(run):
    return pictures.gallery(run, read(run.tensorboard), Places(run))


def test_the_same_pixels_are_shown_once(tmp_path):
    run = everything(tmp_path / "mine", points=2)
    contents = {file.read_bytes() for file in run.samples.glob("*.png")}
    (_, board), *others = read(run.tensorboard).pictures.values()
    assert not others
    assert board not in contents, "TensorBoard has compressed the same picture in another way"
    shown = gallery(run).shown
    assert [picture.caption for picture in shown] == ["step 8,000", "step 4,000"]
    assert [(picture.width, picture.height, picture.is_small) for picture in shown] == [(32, 32, True)] * 2


def test_the_newest_is_shown_whatever_its_size_and_the_others_while_there_is_room(tmp_path, monkeypatch):
    run = run_with(tmp_path / "mine", 10)
    for step, width in ((10, 400), (20, 90), (30, 400)):
        file = run.samples / f"step_{step:08d}_em.png"
        Image.effect_noise((width, width), 50).save(file)
        os.utime(file, (step, step))
    monkeypatch.setattr(pictures, "_ALL_BYTES", 60_000)
    found = gallery(run)
    assert [picture.caption for picture in found.shown] == ["step 30, em", "step 20, em"]
    assert [picture.is_small for picture in found.shown] == [False, True]
    assert found.left_out == 1


def drawn(run, name, samples, *, step=30, method="ode, ", nfe=170):
    """A picture that no other one shares a pixel with, and what `pictures` says of it."""
    pixels = Image.effect_noise((9, 9), 50)
    about = PngInfo()
    about.add_text("Description", f"toy, step {step}: {samples:,} samples, {method}{nfe} NFE")
    file = run.path / name
    file.parent.mkdir(exist_ok=True)
    pixels.save(file, pnginfo=about)


def test_of_samples_that_are_drawn_in_the_same_way_the_most_are_shown(tmp_path):
    run = run_with(tmp_path / "mine", 30)
    drawn(run, "samples/step_00000020.png", 64, step=20)
    drawn(run, "samples/step_00000030.png", 64, nfe=173)
    drawn(run, "samples/step_00000030_ode_n2000.png", 2000)
    drawn(run, "samples/step_00000030_ode_n500_seed3.png", 500)
    drawn(run, "samples/step_00000030_em_nfe100_n500.png", 500, method="em, ", nfe=100)
    drawn(run, "evals/elbo-1/samples.png", 2000, method="")
    drawn(run, "evals/elbo-2/samples.png", 2000, nfe=60)
    assert {picture.caption for picture in gallery(run).shown} == {
        "step 20: 64 samples, ode, 170 NFE",
        "step 30: 2,000 samples, ode, 170 NFE",
        "step 30: 500 samples, ode, 170 NFE, seed3",
        "step 30: 500 samples, em, 100 NFE",
        "evaluation elbo-2, step 30: 2,000 samples, ode, 60 NFE",
    }


@pytest.mark.parametrize(
    "title", [None, b"step 1: 5 samples, 3 NFE", "step 1", "step 1: 5 samples, " + "9" * 99 + " NFE"]
)
def test_a_title_of_another_kind_tells_nothing(title):
    assert captions.settings_of("step_00000001", title) is None


def test_titles_are_those_that_pictures_of_samples_have():
    model = SimpleNamespace(recipe=SimpleNamespace(name="toy"), step=1_000)
    title = titles.title(torch.full((2_000, 2), math.nan), model, "em, 50 NFE")
    assert title == "toy, step 1,000: 2,000 samples (2,000 not finite), em, 50 NFE"
    expected = captions.Settings(step=1_000, samples=2_000, method="em", nfe=50, others=("denoise-false",))
    assert captions.settings_of("step_00001000_em_nfe50_n2000_denoise-false", title) == expected


def test_damaged_pictures_do_not_stop_a_page(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    head = b"\x89PNG\r\n\x1a\n"
    for name, content in (("cut", head), ("huge", head + b"\0\0\0\rIHDR" + b"\x7f\xff\xff\xff" * 2), ("text", b"no")):
        (run.samples / f"{name}.png").write_bytes(content)
    found = gallery(run)
    assert {picture.caption for picture in found.shown} == {"cut", "huge"}
    assert found.refused == ["text"]


def test_a_linked_evaluation_is_named_and_not_read(tmp_path):
    run = run_with(tmp_path / "mine", 10)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.effect_noise((9, 9), 50).save(elsewhere / "samples.png")
    (run.evals / "elbo-1").symlink_to(elsewhere)
    (run.evals / "elbo-2").symlink_to(run.samples)
    assert Places(run).left_out == ["evals/elbo-1"]
    assert gallery(run).shown == []
    assert Places(run, follow=True).left_out == []
    followed = pictures.gallery(run, read(run.tensorboard), Places(run, follow=True))
    assert [picture.caption for picture in followed.shown] == ["evaluation elbo-1"]

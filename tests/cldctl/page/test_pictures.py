"""Each picture once, the newest first, and not more than a page can hold."""

import math
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cld_core.evaluation import pictures as titles
from cld_core.evaluation.request import EvalRequest
from cld_core.recipe.sampling import EmSpec, ExponentialSpec, OdeSpec, SscsSpec
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
    drawn(run, evaluated(run, run.recipe().sampling), 1900, method="")
    assert {picture.caption for picture in gallery(run).shown} == {
        "step 20: 64 samples, ode, 170 NFE",
        "step 30: 2,000 samples, ode, 170 NFE",
        "step 30: 500 samples, ode, 170 NFE, seed 3",
        "step 30: 500 samples, em, 100 NFE",
    }


def evaluated(run, sampling, *, seed=0) -> str:
    """Where the picture of an evaluation of these samples lies in the run."""
    recipe = run.recipe()
    wanted = replace(recipe, sampling=sampling, eval=replace(recipe.eval, seed=seed, points=64))
    request = EvalRequest.of(wanted, ("elbo",), 30)
    # The id of a bound does not depend on the sampler.
    folder = run.evals / f"{request.id}-{len(list(run.evals.glob('*')))}"
    request.store(folder)
    return f"evals/{folder.name}/samples.png"


def test_samples_that_differ_in_anything_but_their_number_are_all_shown(tmp_path):
    run = run_with(tmp_path / "mine", 30, overrides=("sampling.method=em", "sampling.nfe=50"))
    spec = run.recipe().sampling
    drawn(run, "samples/step_00000030_em_nfe52_n64.png", 64, method="em, ", nfe=52)
    drawn(run, "samples/step_00000030_em_nfe50_n64.png", 64, method="em, ", nfe=50)
    for place, (sampling, seed) in enumerate(
        [
            (spec, 0),
            (spec, 1),
            (replace(spec, grid="quadratic"), 0),
            (replace(spec, eps=1e-4), 0),
            (replace(spec, denoise=False), 0),
        ]
    ):
        drawn(run, evaluated(run, sampling, seed=seed), 100 + place, method="em, ", nfe=50)
    drawn(run, "evals/elbo-unknown/samples.png", 2000, method="em, ", nfe=50)
    drawn(run, "evals/elbo-unknown2/samples.png", 2000, method="em, ", nfe=50)
    assert sorted(picture.caption.partition("step ")[2] for picture in gallery(run).shown) == [
        "30: 100 samples, em, 50 NFE",
        "30: 101 samples, em, 50 NFE, seed 1",
        "30: 102 samples, em, 50 NFE, grid=quadratic",
        "30: 103 samples, em, 50 NFE, eps=0.0001",
        "30: 104 samples, em, 50 NFE, denoise=false",
        "30: 2,000 samples, em, 50 NFE",
        "30: 2,000 samples, em, 50 NFE",
        "30: 64 samples, em, 52 NFE",
    ]


def test_a_picture_of_the_training_was_drawn_as_its_recipe_says_if_its_title_agrees(tmp_path):
    run = run_with(tmp_path / "mine", 30, overrides=("sampling.method=em", "sampling.nfe=50", "sampling.eps=0.01"))
    drawn(run, "samples/step_00000030.png", 64, method="em, ", nfe=50)
    drawn(run, "samples/step_00000020.png", 64, step=20, method="em, ", nfe=70)
    drawn(run, "samples/step_00000030_em_nfe50_n500_eps-0.01.png", 500, method="em, ", nfe=50)
    assert {picture.caption for picture in gallery(run).shown} == {
        "step 20: 64 samples, em, 70 NFE",
        "step 30: 500 samples, em, 50 NFE, eps=0.01",
    }


@pytest.mark.parametrize(
    "title", [None, b"step 1: 5 samples, 3 NFE", "step 1", "step 1: 5 samples, " + "9" * 99 + " NFE"]
)
def test_a_title_of_another_kind_tells_nothing(title):
    assert captions.settings_of(title, None) is None


def test_titles_are_those_that_pictures_of_samples_have():
    model = SimpleNamespace(recipe=SimpleNamespace(name="toy"), step=1_000, ema_length=None)
    title = titles.title(torch.full((2_000, 2), math.nan), model, "em, 50 NFE")
    assert title == "toy, step 1,000: 2,000 samples (2,000 not finite), em, 50 NFE"
    draw = captions.Draw.of(EmSpec(nfe=50, denoise=False), 0)
    assert captions.Draw.named("step_00001000_em_nfe50_n2000_denoise-false") == draw
    expected = captions.Settings(step=1_000, samples=2_000, method="em", nfe=50, draw=draw)
    assert captions.settings_of(title, draw) == expected
    model.ema_length = 0.05
    other = captions.settings_of(titles.title(torch.zeros(2_000, 2), model, "em, 50 NFE"), draw)
    assert other == replace(expected, average="EMA length 0.05")
    assert other.caption == "step 1,000: EMA length 0.05, 2,000 samples, em, 50 NFE, denoise=false"
    assert not other.is_like(expected), "other weights"


@pytest.mark.parametrize("length", [None, 0.05, 1e-5])
@pytest.mark.parametrize(
    ("spec", "unusual"),
    [
        (EmSpec(nfe=50, grid="power", grid_power=3.0), ["seed 3", "grid=power", "grid_power=3.0"]),
        (SscsSpec(nfe=50, sscs_order=2, eps=1e-5), ["seed 3", "eps=1e-05", "sscs_order=2"]),
        (ExponentialSpec(nfe=50, order=2, corrector=False), ["seed 3", "order=2", "corrector=false"]),
        (OdeSpec(rtol=1e-3), ["seed 3", "rtol=0.001"]),
    ],
)
def test_names_tell_what_pictures_were_drawn_with(spec, unusual, length):
    model = SimpleNamespace(recipe=SimpleNamespace(sampling=spec), step=7, ema_length=length)
    draw = captions.Draw.named(titles.name_of(model, 64, 3).removesuffix(".png"))
    assert draw == captions.Draw.of(spec, 3)
    assert draw.unusual == unusual


@pytest.mark.parametrize(
    "name",
    [
        "step_00000007",
        "mine",
        "step_7_magic_n5",
        "step_7_em_n5_magic-1",
        "step_7_em_nfe5_n5_eps",
        "step_7_em_nfe5_n5_method-ode",
        "step_7_em_n5_nfe-9",
    ],
)
def test_a_name_of_another_kind_tells_nothing(name):
    assert captions.Draw.named(name) is None


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

"""Each picture once, the newest first, and not more than a page can hold."""

import os

from PIL import Image

from cldctl.page import pictures
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

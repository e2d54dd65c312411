"""Commands on images, also on sources of another kind (exit code 2) or damaged ones (1)."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cld_core.files import read_object
from cld_core.run import find_runs
from tests.support.extractor import TINY
from tests.support.images import SMALL_RECIPE, make_images
from tests.support.paths import FIXTURES
from tests.support.tools import invoke, status

FILE = FIXTURES / "parity" / "published_checkpoint_ncsnpp.pth"


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL_RECIPE)
    return str(tmp_path / "small.yaml")


def test_prepare_says_where_it_made_the_data_and_checks_it(tmp_path):
    pictures = sorted((FIXTURES / "cifar").rglob("*.jpg"))
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for file in pictures:
            archive.write(file, file.relative_to(FIXTURES / "cifar"))
    files = f"--source {tmp_path}/pictures.zip --out {tmp_path}/set"
    for _ in range(2):
        done = invoke(f"data prepare folder --size 16 {files}")
        assert done.stdout == f"{tmp_path}/set\n"
        assert "30 train, 10 validation images of 16x16" in done.stderr
    assert "40 images" in invoke(f"data verify {tmp_path}/set").stdout


@pytest.mark.slow
def test_a_published_checkpoint_becomes_a_run(tmp_path, recipe):
    invoke(f"import {FILE} --recipe {recipe} --name pub")
    row = status("pub")
    assert (row["state"], row["step"], row["steps"], row["checkpoint_step"]) == (
        "STOPPED",
        3,
        800_000,
        3,
    )
    invoke(f"sample pub -o {tmp_path}/grid.png -n 5 --method em --nfe 3")
    picture = Image.open(tmp_path / "grid.png")
    assert picture.size == (9 * (3 * 18 + 2), 9 * (2 * 18 + 2)), "enlarged to about 512 pixels"
    assert "pub, step 3: 5 samples, em, 3 NFE" in picture.info["Description"]
    data = f"data.path={make_images(tmp_path / 'set', size=16)}"
    steps = (
        "train.steps=5",
        "train.checkpoint_every=1",
        "train.keep=1",
        "train.batch_size=2",
        "train.emulated=true",
    )
    sampler = ("periodic.samples_every=null", "sampling.method=em", "sampling.nfe=3")
    invoke("resume pub --cluster debug", data, *steps, *sampler)
    left = sorted(path.stem for path in (tmp_path / "pub" / "checkpoints").glob("*.pt"))
    assert left == ["step_00000003", "step_00000005"]
    invoke("sample pub")
    assert "drawing" not in invoke(f"export pub --card {tmp_path}/card").stderr
    card = (tmp_path / "card" / "README.md").read_text()
    assert "x = model.sample(64)  # (64, 3, 16, 16), in [-1, 1]" in card
    assert (
        "The training part of the folder of images set, 16 x 16 pixels, mirrored at random." in card
    )
    assert str(tmp_path) not in card


def test_grey_pictures_of_any_size_from_a_folder_to_samples_bounds_and_fid(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (24, 12, 12), dtype=np.uint8)
    for number, array in enumerate(levels):
        split = ("train", "test")[number % 3 == 0]
        folder = tmp_path / "pictures" / split / ("dark", "light")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / f"{number}.png")
    data = f"--source {tmp_path}/pictures --out {tmp_path}/set"
    done = invoke(f"data prepare folder --size 12 {data}")
    assert "16 train, 8 validation grey images of 12x12 in 2 classes" in done.stderr

    recipe = (
        f"data.path={tmp_path}/set",
        "data.labels=true",
        "network.channels=8",
        *TINY,
    )
    quick = (
        "sampling.nfe=3",
        "eval.samples=8",
        "eval.points=4",
        "eval.elbo.rtol=0.1",
        "eval.elbo.atol=0.1",
    )
    short = ("train.steps=2", "train.batch_size=4", "periodic.samples_every=2")
    submit = "submit cifar10_smoke --cluster debug"
    invoke(f"{submit} --name grey", *recipe, *quick, *short)
    assert Image.open(tmp_path / "grey" / "samples" / "step_00000002.png").mode == "L"

    invoke(f"sample grey -n 4 --label light -o {tmp_path}/x.npz")
    drawn = np.load(tmp_path / "x.npz")
    assert drawn["x"].shape == (4, 1, 12, 12)
    assert drawn["images"].shape == (4, 12, 12, 1)
    Image.fromarray(np.repeat(np.uint8([[0, 255]]), 6, 1).repeat(12, 0)).save(tmp_path / "mask.png")
    picture = tmp_path / "pictures" / "train" / "light" / "1.png"
    painted = f"--inpaint {picture} --mask {tmp_path}/mask.png --how replacement"
    invoke(f"sample grey -n 2 {painted} -o {tmp_path}/p.npz")
    known = np.load(tmp_path / "p.npz")["images"][:, :, :, 0] == levels[1]
    assert known[:, :, :6].all()
    assert not known[:, :, 6:].all()
    invoke(f"sample grey -n 2 {painted} -o {tmp_path}/p.png")

    # What is missing is said before there is a run.
    refused = invoke(f"{submit} --eval fid", *recipe, *quick, *short, code=2)
    assert "`cldctl data stats RECIPE|RUN`" in refused.stderr
    assert [run.name for run in find_runs(tmp_path)] == ["grey"]
    done = invoke("data stats grey --shards 2 --cluster debug")
    assert Path(done.stdout.strip()).parent == tmp_path / "set"
    assert not Path(f"{done.stdout.strip()}.partial").exists()
    invoke("eval grey --fid --elbo --shards 2 --cluster debug")
    found = status("grey")["evals"][0]
    assert min(found["fid"], found["bpd"]) > 0
    report = read_object(tmp_path / "grey" / "evals" / found["id"] / "report.json")
    assert (report["fid"]["nfe_mean"], report["fid"]["samples"], report["elbo"]["n"]) == (3, 8, 4)
    invoke(f"export grey -o {tmp_path}/grey.safetensors --card {tmp_path}/card")
    assert "(64, 1, 12, 12), in [-1, 1]" in (tmp_path / "card" / "README.md").read_text()
    invoke(f"report grey -o {tmp_path}/report.html")


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (
            "data prepare folder --source none --out out --size 8",
            2,
            ["none does not exist", "--source"],
        ),
        (
            "data prepare folder --source cut --out out --size 8",
            1,
            ["cut cannot be listed, or is not complete"],
        ),
        ("data prepare cifar10 --source none --out out", 2, ["does not exist", "--download"]),
        ("import none --recipe toy", 3, ["no such file"]),
        ("import cut --recipe toy", 1, ["plain tensors"]),
        ("import text.txt --recipe toy", 2, ["not a checkpoint"]),
    ],
)
def test_wrong_usage_and_damage_have_different_codes(tmp_path, monkeypatch, line, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("not an archive\n" * 100)
    (tmp_path / "cut").write_bytes(FILE.read_bytes()[:1000])
    before = sorted(tmp_path.iterdir())
    done = invoke(line, runs=tmp_path / "runs", code=code)
    message = " ".join(done.stderr.split())
    assert [word for word in words if word not in message] == []
    assert sorted(tmp_path.iterdir()) == before

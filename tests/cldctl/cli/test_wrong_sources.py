"""What `data` and `import` are given: something else is wrong usage (2), something damaged is a failure (1)."""

import shutil
import zipfile

import pytest

from tests.cld_core.test_importing import published
from tests.support.paths import ROOT
from tests.support.tools import invoke

PICTURES = ROOT / "tests" / "fixtures" / "cifar"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Sources and places of all kinds: texts, empty and cut files, folders, a prepared set, a checkpoint."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "text.txt").write_text("not an archive\n" * 100)
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("a")
    (folder / "mixed").mkdir()
    for name in ("train", "validation", "else"):
        shutil.copytree(PICTURES / "test" / "frog", folder / "mixed" / name)
    with zipfile.ZipFile(folder / "whole.zip", "w") as archive:
        archive.write(PICTURES / "test" / "frog" / "0000.jpg", "0000.jpg")
    (folder / "cut.zip").write_bytes((folder / "whole.zip").read_bytes()[:200])
    (folder / "cut.tar.gz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00")
    whole = published(folder / "whole.pth", 20)
    (folder / "cut.pth").write_bytes(whole.read_bytes()[:1000])
    invoke("data", "prepare", "folder", "--source", str(PICTURES), "--size", "8", "--out", str(folder / "set"),
           runs=folder / "runs")  # fmt: skip
    return folder


def prepare(name: str, source: str, out: str = "out", *more: str) -> list[str]:
    return ["data", "prepare", name, "--source", source, "--out", out, *more]


SMALL = ("--size", "8")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (prepare("folder", "none", "out", *SMALL), 2, ["none does not exist", "--source"]),
        (prepare("folder", "texts", "out", *SMALL), 2, ["has no pictures"]),
        (prepare("folder", "texts", "out", "--download"), 2, ["cannot be downloaded"]),
        (prepare("folder", "mixed", "out", *SMALL), 2, ["Besides the folders", "--split"]),
        (prepare("folder", str(PICTURES), "texts", *SMALL), 2, ["is not a prepared data set", "--out"]),
        (prepare("folder", str(PICTURES), "set", "--size", "4"), 2, ["already holds folder at 8x8"]),
        (prepare("folder", "cut.zip", "out", *SMALL), 1, ["neither a folder nor a complete zip"]),
        (prepare("cifar10", "none"), 2, ["does not exist", "--download"]),
        (prepare("cifar10", "cut.tar.gz"), 1, ["damaged or cut short"]),
        (prepare("celebahq256", "texts"), 2, ["has no shards named train-r08"]),
        (prepare("celebahq256", "cut.tar.gz"), 2, ["compressed", "Unpack it"]),
        (["data", "verify", "texts"], 2, ["has no about.json"]),
        (["import", "none", "--recipe", "toy"], 3, ["no such file"]),
        (["import", "text.txt", "--recipe", "toy"], 2, ["not a checkpoint"]),
        (["import", "cut.pth", "--recipe", "toy"], 1, ["plain tensors"]),
        (["import", "whole.pth", "--recipe", "toy"], 2, ["Choose the --recipe, or the network.* keys"]),
    ],
    ids=lambda value: " ".join(value)[-60:] if isinstance(value, list) else "",
)
def test_wrong_usage_and_damage_have_different_codes(place, monkeypatch, tmp_path, arguments, code, words):
    monkeypatch.chdir(place)
    before = sorted(path.name for path in place.iterdir())
    done = invoke(*arguments, runs=tmp_path / "runs", code=code)
    assert done.stdout == ""
    message = " ".join(done.stderr.split())
    for word in words:
        assert word in message
    assert sorted(path.name for path in place.iterdir()) == before
    assert not (tmp_path / "runs").exists()

"""Files of weights that would run code: nothing in them runs, wherever they lie and whoever asks."""

import pytest
import torch

from cld_core.config import Recipe, with_overrides
from cld_core.config.eval import INCEPTION
from cld_core.digests import digest_of
from cld_core.errors import UsageError
from cld_core.evaluate import extraction, extractors
from cld_core.evaluate.extraction import Extraction
from cld_core.evaluate.statistics import StatsRequest
from cld_core.run import RunFolder
from tests.support.crafted import KINDS, crafted

from .on_images import request

REAL = (f"eval.fid.extractor={INCEPTION}", "plugins=[]")


def recipe_of(run: RunFolder, *overrides: str) -> Recipe:
    return with_overrides(run.recipe(), [*REAL, *overrides], "test")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extractor", [INCEPTION, "vgg16"])
def test_a_crafted_file_that_is_named(run, tmp_path, kind, extractor):
    file = crafted(tmp_path / "w.pth", kind, tmp_path / "marker")
    named = (f"eval.fid.weights={file}", f"eval.fid.extractor={extractor}")
    with pytest.raises(UsageError, match=rf"w\.pth: these are not weights of {extractor}") as refusal:
        StatsRequest.of(recipe_of(run, *named), tmp_path / "s.npz", features=False, shards=1)
    assert "\n" not in str(refusal.value)
    with pytest.raises(UsageError, match="these are not weights"):
        request(run, *REAL, *named, metrics=("isc",))
    assert not (tmp_path / "marker").exists()


def test_a_crafted_file_where_torch_keeps_downloads(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = extraction.weights_path()
    place.parent.mkdir(parents=True)
    crafted(place, "zip", tmp_path / "marker")
    with pytest.raises(UsageError, match=rf"{place}: not the published weights.*Remove it and download https://"):
        StatsRequest.of(recipe_of(run), tmp_path / "s.npz", features=False, shards=1)
    # A request that somebody else wrote names none.
    for name in (INCEPTION, "vgg16", "clip-vit-b-32", "dinov2-vit-s-14"):
        layer = extractors.find(name).get_provided_features_list()[0]
        with pytest.raises(UsageError, match=f"{name} needs weights"):
            extractors.load(Extraction(extractor=name, layer=layer), {}, "cpu")
    assert not (tmp_path / "marker").exists()


def test_only_all_digits_make_a_file_the_published_one(run, tmp_path, monkeypatch):
    assert len(extraction.PUBLISHED_SHA256) == 64
    # torch's own weights there are accepted without being loaded, as far as their digest says that they are those.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = extraction.weights_path()
    place.parent.mkdir(parents=True)
    place.write_bytes(b"published")
    monkeypatch.setattr(extraction, "PUBLISHED_SHA256", digest_of(place))
    made = StatsRequest.of(recipe_of(run), tmp_path / "s.npz", features=False, shards=1)
    assert (made.extraction.weights, made.files["weights"]) == (digest_of(place), str(place))


@pytest.mark.parametrize("name", ["clip-vit-b-32", "dinov2-vit-s-14"])
def test_extractors_whose_files_are_programs(run, tmp_path, name):
    scripted = torch.jit.script(torch.nn.Linear(1, 1))
    torch.jit.save(scripted, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"not the published file|runs code from the internet"):
        request(run, *REAL, f"eval.fid.weights={tmp_path / 'w.pth'}", f"eval.fid.extractor={name}", metrics=("isc",))


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": {"b": torch.zeros(1)}}, torch.zeros(1)])
def test_what_is_not_a_list_of_named_tensors(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    extraction = Extraction(extractor=INCEPTION, layer="64", weights=digest_of(tmp_path / "w.pth"))
    with pytest.raises(UsageError, match=r"w\.pth: these are not weights of inception-v3-compat \("):
        extractors.load(extraction, {"weights": str(tmp_path / "w.pth")}, "cpu")

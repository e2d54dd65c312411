"""Requests: what their names depend on, what is refused at once, and files that vanish later."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch

from cld_core import metrics as registry
from cld_core.config import with_overrides
from cld_core.config.eval import INCEPTION, FlowSpec
from cld_core.config.sampling import EmSpec, OdeSpec
from cld_core.config.train import EmaSpec
from cld_core.digests import digest, digest_of
from cld_core.errors import DataError, UsageError
from cld_core.evaluate import features, stats_file
from cld_core.evaluate import request as made_of
from cld_core.evaluate.request import request_of
from cld_core.evaluate.rows import RowComputer
from cld_core.evaluate.statistics import StatsRequest
from cld_core.metrics import Metric, Quantity, RowKind
from cld_core.plugins import resolve
from cld_core.ranks import Ranks
from cld_core.run.evaluations import EvalRequest, Evaluation, Extraction, numbers
from cld_core.run.work import KINDS, Work
from tests.support.crafted import KINDS as PICKLES
from tests.support.crafted import crafted
from tests.support.images import make_images
from tests.support.made_up import ordered
from tests.support.recipes import toy_recipe

from .on_images import request


def asked(sampling):
    return replace(request_of(toy_recipe(), ("w2", "elbo"), 120), sampling=sampling)


def test_another_division_is_the_same_evaluation():
    request = asked(OdeSpec())
    division = {"shards": 3, "batch_size": 7, "retries": 0, "files": {"fid": "/elsewhere"}}
    assert replace(request, **division).id == request.id
    others = {"seed": 1, "samples": 1999, "ema": EmaSpec(length=0.1), "sampling": EmSpec(nfe=50)}
    for name, value in others.items():
        assert replace(request, **{name: value}).id != request.id


def test_the_flow_is_reused_for_another_number_of_samples():
    def flow(**keys):
        spec = replace(FlowSpec(), **keys)
        return replace(asked(OdeSpec()), metrics=("flow-distance",), flow=spec)

    few = flow(samples=100)
    many = flow(samples=200)
    finer = flow(samples=100, rtol=1e-7)
    assert few.row_settings("flow") == many.row_settings("flow") != finer.row_settings("flow")
    assert len({few.id, many.id, finer.id}) == 3
    assert (few.sizes, many.sizes) == ({"flow": 100}, {"flow": 200})


def test_another_precision_is_another_evaluation():
    precisions = ("fp32", "tf32", "bf16", "fp16")
    requests = [asked(replace(OdeSpec(), precision=name)) for name in precisions]
    assert len({request.id for request in requests}) == 4
    # Bounds are always computed in float32.
    for kind, number in (("vectors", 4), ("elbo", 1)):
        assert len({digest(request.row_settings(kind)) for request in requests}) == number


pytestmark = pytest.mark.usefixtures("no_pictures")


class DrawRows(RowComputer):
    """Samples themselves, of data that need not be images."""

    def compute(self, first, last):
        return {"x": self.model.draw(last - first, seed=self.request.seed, first=first).x.numpy()}


DRAWS = RowKind(over="samples", depends=("sampling",), implementation=f"{__name__}:DrawRows")
SPREAD = Metric(
    name="spread",
    help="Standard deviation of the samples.",
    rows="draws",
    quantities=(Quantity(key="spread", label="spread"),),
    section=lambda joined: {"value": float(joined.arrays["x"].std()), "n": len(joined.arrays["x"])},
    how=lambda request: request.sampling.method,
)


def test_every_name_leads_somewhere():
    for name in registry.METRICS:
        metric = registry.metric(name)
        assert (metric.name, metric.flag) == (name, f"--{name}")
        assert metric.rows in registry.ROWS
        assert callable(resolve(metric.section))
        fields = EvalRequest.__dataclass_fields__
        depends = {*metric.same, *registry.ROWS[metric.rows].depends}
        assert {place.partition(".")[0] for place in depends} <= fields.keys()
    for kind in registry.ROWS:
        assert issubclass(resolve(registry.ROWS[kind].implementation), RowComputer)
    for kind, (name, _) in KINDS.items():
        work = resolve(name)
        assert issubclass(work, Work)
        assert get_type_hints(work).get("request", work).kind == kind
    keys = [quantity.key for _, quantity in registry.quantities()]
    assert len(keys) == len(set(keys))


def test_a_metric_and_a_kind_of_rows_are_an_entry_each(toy, monkeypatch, chunks):
    chunks(35)
    monkeypatch.setitem(registry.ROWS, "draws", DRAWS)
    monkeypatch.setitem(registry.METRICS, "spread", f"{__name__}:SPREAD")
    work = ordered(toy, 20, "spread", 2)
    assert work.compute(Ranks()).is_done
    assert work.report["spread"]["n"] == 70
    assert numbers(work.report)["spread"].value > 0
    words = r"--fid compares images.*are vectors.*Ask for --w2 .* or --loss or --spread"
    with pytest.raises(UsageError, match=words):
        request_of(toy.recipe(), ("fid", "spread"), 20)


def refused(run, words, *overrides, metrics=("fid",), error=UsageError):
    with pytest.raises(error, match=words):
        request(run, *overrides, metrics=metrics)
    assert not list(run.evals.iterdir()), "nothing is begun"


COMPAT = ("eval.fid.extractor=inception-v3-compat", "plugins=[]")
NO_WEIGHTS = "these are not weights of inception-v3-compat .*https://"


@pytest.mark.parametrize(
    ("words", "keys", "metric"),
    [
        (r"Download https://.*6726825d\.pth and put it at .*torch/hub/checkpoints", COMPAT, "fid"),
        ("no such file", (*COMPAT, "eval.fid.weights=none.pth"), "fid"),
        (NO_WEIGHTS, (*COMPAT, "eval.fid.weights=wrong.pth"), "fid"),
        (NO_WEIGHTS, (*COMPAT, "eval.fid.weights=text.pth"), "fid"),
        (
            "'tinny', but torch-fidelity has clip.*inception-v3-compat.*tiny",
            ["eval.fid.extractor=tinny"],
            "fid",
        ),
        ("layer' is 'most', but tiny has all, some", ["eval.fid.layer=most"], "fid"),
        ("vgg16 needs weights", ["eval.fid.extractor=vgg16"], "fid"),
        (
            r"no statistics of the training images.*`cldctl data stats RECIPE.RUN`",
            ["eval.fid.layer=some"],
            "fid",
        ),
        (
            "statistics of 3 features, but tiny, layer all, has 12.*cldctl data stats",
            ["eval.fid.stats=small.npz"],
            "fid",
        ),
        (r"neither mu and sigma nor pool_3, but mu \(12,\)", ["eval.fid.stats=odd.npz"], "fid"),
        ("statistics that are not finite", ["eval.fid.stats=nan.npz"], "fid"),
        ("not an .npz file of statistics", ["eval.fid.stats=text.pth"], "fid"),
        ("subset_size' is 30, too many for 20 features", ["eval.kid.subset_size=30"], "kid"),
        ("splits' is 50, too many for 40 samples", ["eval.isc.splits=50"], "isc"),
        ("'eval.points' is 41, but .* has 40 test examples", ["eval.points=41"], "loss"),
    ],
)
def test_refusals_before_anything_starts(run, tmp_path, monkeypatch, words, keys, metric):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(1)}, "wrong.pth")
    Path("text.pth").write_text("not found")
    np.savez("small.npz", mu=np.zeros(3), sigma=np.eye(3))
    np.savez("odd.npz", mu=np.zeros(12))
    np.savez("nan.npz", mu=np.full(12, np.nan), sigma=np.eye(12))
    refused(run, words, *keys, metrics=(metric,))


def test_weights_are_fetched_and_held_against_their_hash(tmp_path):
    (tmp_path / "there").write_bytes(b"weights")
    source = (tmp_path / "there").as_uri()
    kept = tmp_path / "hub" / "kept.pth"
    with pytest.raises(UsageError, match=f"cannot be downloaded.*Put the file at {kept} by hand"):
        features.download(source, kept, made_of.PUBLISHED_SHA256)
    assert not kept.exists()
    features.download(source, kept, digest_of(tmp_path / "there"))
    assert kept.read_bytes() == b"weights"


def test_no_test_set(run, tmp_path):
    data = make_images(tmp_path / "only", splits={"train": 4})
    words = "no validation images.*data prepare"
    refused(run, words, f"data.path={data}", metrics=("elbo",), error=DataError)


def test_what_vanishes_or_changes_meanwhile_is_reported(run, tmp_path, chunks):
    chunks(20)
    stats = tmp_path / "stats.npz"
    theirs = stats_file.read(Path(str(request(run).files["stats"])))
    np.savez(stats, mu=theirs.mu, sigma=theirs.sigma)
    work = Evaluation(request(run, f"eval.fid.stats={stats}", metrics=("fid",), shards=2).save(run))
    assert work.compute(Ranks(), pieces=[0]).is_done
    np.savez(stats, mu=theirs.mu + 1, sigma=theirs.sigma)
    with pytest.raises(UsageError, match="has changed since the evaluation was requested"):
        work.compute(Ranks(), pieces=[1])
    stats.unlink()
    with pytest.raises(UsageError, match="is gone since the evaluation was requested"):
        work.compute(Ranks(), pieces=[1])
    assert work.missing() == [1], "what was computed is kept"


def test_both_layouts_of_statistics(tmp_path):
    about = np.array(json.dumps({"images": 7}))
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3), about=about)
    assert stats_file.read(tmp_path / "a.npz").outline.images == 7
    features = np.random.default_rng(1).normal(size=(5, 3))
    np.savez(tmp_path / "b.npz", pool_3=features)
    read = stats_file.read(tmp_path / "b.npz", features=True)
    assert np.allclose(read.sigma, np.cov(features.T))
    assert np.array_equal(read.features, features)


REAL = (f"eval.fid.extractor={INCEPTION}", "plugins=[]")


def statistics(run, folder, *overrides):
    recipe = with_overrides(run.recipe(), [*REAL, *overrides], "test")
    return StatsRequest.of(recipe, folder / "s.npz", features=False, shards=1)


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("extractor", [INCEPTION, "vgg16"])
def test_a_crafted_file_that_is_named(run, tmp_path, kind, extractor):
    file = crafted(tmp_path / "w.pth", kind, tmp_path / "marker")
    named = (f"eval.fid.weights={file}", f"eval.fid.extractor={extractor}")
    words = rf"w\.pth: these are not weights of {extractor}"
    with pytest.raises(UsageError, match=words) as refusal:
        statistics(run, tmp_path, *named)
    assert "\n" not in str(refusal.value)
    with pytest.raises(UsageError, match="these are not weights"):
        request(run, *REAL, *named, metrics=("isc",))
    assert not (tmp_path / "marker").exists()


def test_a_crafted_file_where_torch_keeps_downloads(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = made_of.weights_path()
    place.parent.mkdir(parents=True)
    crafted(place, "zip", tmp_path / "marker")
    words = rf"{place}: not the published weights.*Remove it and download https://"
    with pytest.raises(UsageError, match=words):
        statistics(run, tmp_path)
    # A request that another program wrote may name none.
    for name in (INCEPTION, "vgg16", "clip-vit-b-32", "dinov2-vit-s-14"):
        layer = features.find(name).get_provided_features_list()[0]
        with pytest.raises(UsageError, match=f"{name} needs weights"):
            features.load(Extraction(extractor=name, layer=layer), {}, "cpu")
    assert not (tmp_path / "marker").exists()


def test_only_all_digits_make_a_file_the_published_one(run, tmp_path, monkeypatch):
    assert len(made_of.PUBLISHED_SHA256) == 64
    # torch's own weights there are accepted without being loaded, as far as their digest says that
    # they are those.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = made_of.weights_path()
    place.parent.mkdir(parents=True)
    place.write_bytes(b"published")
    monkeypatch.setattr(made_of, "PUBLISHED_SHA256", digest_of(place))
    made = statistics(run, tmp_path)
    assert (made.extraction.weights, made.files["weights"]) == (digest_of(place), str(place))


@pytest.mark.parametrize("name", ["clip-vit-b-32", "dinov2-vit-s-14"])
def test_extractors_whose_files_are_programs(run, tmp_path, name):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "w.pth")
    keys = (f"eval.fid.weights={tmp_path / 'w.pth'}", f"eval.fid.extractor={name}")
    words = r"not the published file|runs code from the internet"
    refused(run, words, *REAL, *keys, metrics=("isc",))

"""FID and similar metrics: those of torch-fidelity in any division; samples that are not finite."""

import dataclasses
import json
import math
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from cld_core import metrics as registry
from cld_core.data.images import to_grey, to_model, to_pixels
from cld_core.data.source import form_of, source
from cld_core.digests import digest_of
from cld_core.errors import UnusableSamplesError, UsageError
from cld_core.evaluate import likelihood, stats_file
from cld_core.evaluate.features import FeatureRows, ImageRows, _precision_and_recall, frechet, load
from cld_core.evaluate.likelihood import LossRows
from cld_core.evaluate.request import extractor, request_of
from cld_core.evaluate.rows import not_finite, remark_on, require_few_lost
from cld_core.evaluate.statistics import Statistics, StatsRequest
from cld_core.model import Model
from cld_core.nets import execution
from cld_core.plugins import resolve
from cld_core.ranks import Ranks
from cld_core.run.evaluations import Evaluation
from cld_core.run.work import open_work
from tests.support.extractor import TINY, random_inception
from tests.support.images import labelled_images, make_images, opened, run_folder, tiny_recipe
from tests.support.recipes import shipped_recipe
from tests.support.spoiled import spoil
from tests.support.tools import train

from .on_images import SETTINGS, evaluated, request, stats_of

pytestmark = pytest.mark.usefixtures("no_pictures")


def pngs(folder, images):
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:03d}.png")
    return str(folder)


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_of_equal_sets_is_not_negative(seed):
    """Sets of fewer images than features, whose covariances are singular."""
    few = np.random.default_rng(seed).normal(size=(20, 192))
    assert 0.0 <= frechet(few, *stats_file.moments([few])) < 1e-3


def test_all_numbers_are_those_of_torch_fidelity_on_the_same_pictures(run, tmp_path):
    """The real Inception, from a local file; its layer of 192 features keeps the test short."""
    from torch_fidelity import calculate_metrics

    weights = random_inception(tmp_path / "weights.pth")
    data = opened(make_images(tmp_path / "few", splits={"train": 6}), "train", cache="disk")
    settings = ("eval.fid.extractor=inception-v3-compat", f"eval.fid.weights={weights}")
    settings += ("eval.fid.layer=192", f"data.path={tmp_path / 'few'}", "plugins=[]")
    settings += ("eval.samples=5", "eval.kid.subset_size=5")
    stats = stats_of(run, *settings, shards=1)
    report = evaluated(run, *settings, metrics=("fid", "kid", "isc", "prc"), shards=2)
    expected = calculate_metrics(
        input1=pngs(tmp_path / "ours", to_pixels(Model.from_run(run.path).sample(5))),
        input2=pngs(tmp_path / "theirs", data.batch(torch.arange(data.n))),
        **dict.fromkeys(("fid", "kid", "isc", "prc"), True),
        **{f"feature_layer_{metric}": "192" for metric in ("fid", "kid", "prc")},
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        kid_subsets=5,
        kid_subset_size=5,
        isc_splits=2,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    for metric, field, theirs, rel in (
        ("fid", "value", "frechet_inception_distance", 1e-4),
        ("kid", "value", "kernel_inception_distance_mean", 1e-4),
        ("kid", "std", "kernel_inception_distance_std", 1e-4),
        ("isc", "value", "inception_score_mean", 1e-5),
        ("isc", "std", "inception_score_std", 1e-3),
        *(("prc", name, name, 1e-6) for name in ("precision", "recall", "f_score")),
    ):
        assert report[metric][field] == pytest.approx(expected[theirs], rel=rel, abs=1e-7), theirs
    fid = report["fid"]
    about = {"samples": 5, "nfe_mean": 3.0, "quantisation": "round", "layer": "192"}
    assert fid.items() >= about.items()
    digest = digest_of(weights)
    assert fid["weights"] == {"file": str(weights), "sha256": digest, "published": False}
    assert (fid["stats"]["file"], fid["stats"]["images"]) == (str(stats), data.n)


def test_statistics_of_a_training_set_in_pieces(trained, tmp_path, chunks):
    chunks(5)
    recipe = trained.recipe()
    data = opened(recipe.data.path, "train", cache="disk")
    folder = StatsRequest.of(recipe, tmp_path / "s.npz", features=True, shards=4).save()
    work = open_work(folder)
    assert isinstance(work, Statistics)
    assert work.name == "s.npz"
    assert work.compute(Ranks()).is_done
    made = stats_file.read(Path(work.request.output), features=True)
    extractor = load(work.request.extraction, work.request.files, "cpu")
    features = extractor(data.batch(torch.arange(data.n)))["features"]
    assert_allclose(made.features, features, rtol=1e-6)
    assert_allclose(made.mu, features.astype(float).mean(0), rtol=1e-12)
    assert_allclose(made.sigma, np.cov(features.astype(float), rowvar=False), rtol=1e-10)
    assert not (folder / "rows").exists(), "nothing is left of the rows"
    about = stats_file.outline(Path(work.request.output)).about
    assert (made.outline.images, about["data"]) == (20, work.request.data_fingerprint)


def test_moments_merge_exactly():
    """Rows of several blocks, however they are cut."""
    rows = np.random.default_rng(0).normal(3.0, 2.0, (9000, 6))
    mean, covariance = stats_file.moments([rows])
    cut = stats_file.moments([rows[:7], rows[7:5000], rows[5000:]])
    assert_array_equal(cut[0], mean)
    assert_array_equal(cut[1], covariance)
    assert_allclose(mean, rows.mean(0), rtol=1e-13)
    assert_allclose(covariance, np.cov(rows, rowvar=False), rtol=1e-12)
    value = frechet(rows, mean + 1.0, covariance)
    assert value == pytest.approx(6.0, rel=1e-9), "equal covariances: the squared distance of means"


def test_the_test_loss_is_the_training_objective_keyed_by_example(run):
    report = evaluated(run, metrics=("loss",), shards=3)["loss"]
    assert (report["n"], report["weighting"]) == (10, "reweightedv2")
    model = Model.from_run(run.path)
    many = request(run, "eval.loss.draws=100", metrics=("loss",))
    losses = LossRows(model, many).compute(0, 10)["loss"]
    from cld_core import seeds
    from cld_core.loss import ScoreMatching

    objective = ScoreMatching(model.sde, run.recipe().objective)
    x = model.source.test_data(0, 0, 10).repeat(100, 1, 1, 1)
    with torch.no_grad():
        drawn = objective.draw(seeds.generator(7), len(x), model.data_shape)
        trained_on = objective.losses(model.score, x, drawn).weighted.double()
    stderr = float(trained_on.std()) / len(x) ** 0.5
    assert abs(losses.mean() - float(trained_on.mean())) < 4 * 2**0.5 * stderr
    part = LossRows(model, many).compute(3, 7)["loss"]
    assert_allclose(part, losses[3:7], rtol=1e-5)
    assert json.loads(json.dumps(report)) == report


def test_a_uniform_density_has_eight_bits(tmp_path):
    model = Model(tiny_recipe(make_images(tmp_path / "set")))
    nats = math.prod(model.data_shape) * math.log(2.0)
    request = request_of(model.recipe, ("elbo",), 0)
    arrays = {name: np.full(4, -nats) for name in (*likelihood._BOUNDS, "nfe")}
    rows = SimpleNamespace(model=model, request=request, arrays=arrays)
    report = likelihood.elbo(rows)
    assert (report["unit"], report["n"], report["stderr"]) == ("bits/dim", 4, 0.0)
    for name in ("bpd", "bpd_paper_estimator", "bpd_importance"):
        assert report[name] == pytest.approx(8.0)
    assert "nll" not in report


INACCURATE = ("eval.elbo.rtol=0.1", "eval.elbo.atol=0.1")
EXACT = (False, False, False)
TF32 = (True, True, False)


@contextmanager
def seen(net):
    """TF32 of products and of convolutions and cuDNN's benchmark, during the calls of ``net``."""
    found = set()

    def record(*_):
        products = torch.backends.cuda.matmul.allow_tf32
        cudnn = torch.backends.cudnn
        found.add((products, cudnn.allow_tf32, cudnn.benchmark))

    with net.register_forward_pre_hook(record), execution.using(tf32=True, fixed_shapes=True):
        yield found


@pytest.mark.parametrize("kind", ["elbo", "loss", "features"])
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_rows_have_their_own_precision_within_training(run, kind, precision):
    model = Model.from_run(run.path)
    settings = (*INACCURATE, f"sampling.precision={precision}")
    order = request(run, *settings, metrics=("fid", "elbo", "loss"))
    model.recipe = dataclasses.replace(model.recipe, sampling=order.sampling)
    with seen(model.net) as found:
        resolve(registry.ROWS[kind].implementation)(model, order).compute(0, 2)
    assert found == {TF32 if (kind, precision) == ("features", "tf32") else EXACT}
    if kind == "features":
        with seen(load(order.inputs, order.files, model.device)._net) as found:
            FeatureRows(model, order).compute(0, 2)
        assert found == {EXACT}, "the extractor's"


BAD = (0, 17, 39)
SOME = "eval.max_nonfinite=0.1"


def work_of(run, *overrides, metrics=("fid",), shards=1):
    whole = "eval.batch_size=64"
    return Evaluation(request(run, whole, *overrides, metrics=metrics, shards=shards).save(run))


def test_a_sample_is_not_finite_if_any_of_its_numbers_is_not():
    x = torch.zeros(4, 3, 2, 2)
    x[1, 2, 0, 1] = math.nan
    x[2, 0, 0, 0] = math.inf
    x[3, 1, 1, 1] = -math.inf
    assert not_finite(x).tolist() == [False, True, True, True]
    assert not_finite(x[:, :, 0, 0]).tolist() == [False, False, True, False]
    assert remark_on(x) == "3 of 4 samples are not finite"
    assert remark_on(x[:2]) == "1 of 2 samples is not finite"
    assert remark_on(x[:1]) is None


@pytest.mark.parametrize(
    ("count", "samples", "allowed", "passes"),
    [
        (0, 40, 0.0, True),
        (1, 40, 0.0, False),
        (29, 100, 0.29, True),
        (30, 100, 0.29, False),
        (40, 40, 1.0, True),
    ],
)
def test_the_limit_is_a_fraction_of_all_samples(count, samples, allowed, passes):
    with nullcontext() if passes else pytest.raises(UnusableSamplesError):
        require_few_lost(count, samples, samples=samples, allowed=allowed)


def test_too_many_end_the_work_at_once_and_nothing_is_lost(run, monkeypatch, ranges):
    spoil(monkeypatch, BAD)
    work = work_of(run, "eval.batch_size=16")
    words = r"1 of 16 samples is not finite, a fraction of 0\.025 of the 40 .* allows 0\.001\. Li"
    for _ in range(2):
        with pytest.raises(UnusableSamplesError, match=words) as refusal:
            work.compute(Ranks())
        assert (ranges, work.report) == ([(0, 16)], None)
    assert refusal.value.exit_code == 1
    assert "\n" not in str(refusal.value)
    # The same evaluation, which continues where it was ended.
    more = work_of(run, SOME, "eval.batch_size=23")
    assert (more.folder, more.compute(Ranks()).is_done) == (work.folder, True)
    assert (more.report["fid"]["nonfinite"], ranges[1:]) == (3, [(16, 39), (39, 40)])


def test_processes_that_each_see_few_are_refused_when_merged(run, monkeypatch, ranges, chunks):
    chunks(10)
    spoil(monkeypatch, BAD)
    work = work_of(run, "eval.max_nonfinite=0.05", shards=4)
    for shard in range(3):
        assert work.compute(Ranks(rank=shard, world_size=4)).is_done
    with pytest.raises(UnusableSamplesError, match="3 of 40 samples are not finite"):
        work.compute(Ranks(rank=3, world_size=4))
    assert (work.missing(), work.to_start(), work.report, len(ranges)) == ([], [0], None, 4)
    assert work_of(run, SOME).compute(Ranks(), pieces=[0]).is_done
    assert (work.report["fid"]["nonfinite"], len(ranges)) == (3, 4)


LABELLED = ("data.labels=true", "eval.samples=60")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("classes")
    data = labelled_images(root / "set", {"train": 40, "validation": 10})
    settings = [text for text in SETTINGS if not text.startswith("eval.samples")]
    return train(run_folder(root, data, *settings, *TINY, *LABELLED))


def test_each_class_is_compared_with_its_own_images(labelled, chunks):
    chunks(20)
    file = stats_of(labelled)
    reference = stats_file.read(file, features=True)
    assert reference.outline.classes == ("even", "odd", "rest")
    reports = [evaluated(labelled, metrics=("fid", "classes"), shards=shards) for shards in (1, 3)]
    section = reports[0]["classes"]
    assert reports[1]["classes"] == section
    model = Model.from_run(labelled.path)
    label = np.array(model.classes.drawn(0, 60))
    order = request(labelled, metrics=("classes",))
    features = load(order.fid, order.files, "cpu")(to_pixels(model.sample(60)))["features"]
    for number, name in enumerate(reference.outline.classes):
        ours = features[label == number]
        theirs = reference.features[reference.labels == number]
        values = section["classes"][name]
        assert (values["samples"], values["images"]) == (len(ours), len(theirs))
        wide = theirs.astype(float)
        assert values["fid"] == pytest.approx(frechet(ours, wide.mean(0), np.cov(wide.T)), rel=1e-3)
        found = _precision_and_recall(torch.from_numpy(ours), torch.from_numpy(theirs), 3)
        assert (values["precision"], values["recall"]) == (found["precision"], found["recall"])
    distances = [values["fid"] for values in section["classes"].values()]
    assert section["fid"] == pytest.approx(np.mean(distances))


def test_classes_with_few_samples_are_left_out_and_counted(labelled):
    stats_of(labelled)
    section = evaluated(labelled, "eval.samples=28", metrics=("classes",))["classes"]
    drawn = np.bincount(Model.from_run(labelled.path).classes.drawn(0, 28), minlength=3)
    assert section["left_out"] == int((drawn < 10).sum())
    assert len(section["classes"]) == int((drawn >= 10).sum())
    assert 0 < section["left_out"] < 3
    words = f"{section['left_out']} of 3 classes have too few"
    assert registry.metric("classes").remark(section).startswith(words)


def test_statistics_without_labels_are_computed_again_when_there_are_some(labelled):
    file = stats_of(labelled)
    content = stats_file.read(file, features=True)
    about = stats_file.outline(file).about
    order = StatsRequest.of(labelled.recipe(), None, features=True, shards=1)
    work = Statistics(order.folder, order)
    assert work.is_done
    others = replace(order, data_fingerprint="0" * 64)
    assert not Statistics(others.folder, others).is_done, "of other images"
    old = {name: value for name, value in about.items() if name != "classes"}
    arrays = {"mu": content.mu, "sigma": content.sigma, "pool_3": content.features}
    stats_file.write(file, old, arrays)
    assert not work.is_done
    words = r"does not know the classes of its images\. Prepare the data again"
    with pytest.raises(UsageError, match=words):
        request(labelled, metrics=("classes",))
    assert request(labelled, metrics=("fid", "prc"))
    assert stats_of(labelled) == file
    assert work.is_done


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_arrays_of_pictures_have_features_as_their_samples_do(tmp_path, kind):
    x = np.random.default_rng(0).normal(size=(30, 1, 8, 6)) * 40 + 128
    np.savez(tmp_path / "x.npz", x=x.clip(0, 255).astype(kind), test=x[:4].astype(kind))
    keys = ["data.name=arrays", f"data.path={tmp_path}/x.npz", *TINY]
    recipe = shipped_recipe("cifar10_smoke", *keys)
    extraction, _, files = extractor(recipe)
    rows = ImageRows(recipe.data, extraction, files, torch.device("cpu"))
    form = form_of(source(recipe.data))
    stored = np.load(tmp_path / "x.npz")["x"]
    low, high = (stored.min(), stored.max()) if kind == np.float32 else (0, 255)
    levels = (stored.astype(np.float64) - low) / (high - low) * 255
    grey = torch.from_numpy(levels.round().astype(np.uint8))
    expected = load(extraction, files, "cpu")(grey)["features"]
    assert_allclose(rows.compute(3, 9)["features"], expected[3:9], rtol=1e-5, atol=1e-5)
    z = to_model(grey) if kind == np.uint8 else form.to_model(torch.from_numpy(stored))
    assert_array_equal(to_grey(form.to_data(z), form), grey)
    assert rows.n == 30

"""FID and its kin: equal to torch-fidelity's, however they are cut; and what is refused before anything is drawn."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cld_core.data.images import open_images, to_pixels
from cld_core.errors import CldError, DataError, NotFoundError, UsageError
from cld_core.evaluation import extractors, inputs, merge, pictures, shard, statistics, training_set, work
from cld_core.evaluation.features import frechet
from cld_core.evaluation.moments import Moments
from cld_core.evaluation.request import EvalRequest
from cld_core.evaluation.stats_request import StatsRequest
from cld_core.model import Model
from cld_core.recipe import load, with_overrides
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json
from cld_core.train import session
from cld_core.train.distributed import Ranks
from cld_core.train.stop import StopFlag
from tests.extractor import TINY, inception_weights
from tests.images import RECIPES, make_images, run_folder

STEP = 2
SETTINGS = (
    f"train.steps={STEP}",
    "sampling.nfe=3",
    "eval.samples=40",
    "eval.points=10",
    "eval.kid.subsets=5",
    "eval.kid.subset_size=8",
    "eval.isc.splits=2",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> RunFolder:
    """A run on 8x8 images, whose samples a tiny extractor looks at, and the statistics of its training set."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("features")
    run = run_folder(root, make_images(root / "set"), *SETTINGS, *TINY)
    session.run(run, Ranks(), StopFlag(), job_id="test")
    stats_of(run)
    return run


@pytest.fixture
def run(trained, tmp_path) -> RunFolder:
    """A copy that a test may spoil."""
    shutil.copytree(trained.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def stats_of(run: RunFolder, *overrides: str, shards: int = 3) -> Path:
    recipe = with_overrides(run.recipe(), list(overrides), "test")
    request = StatsRequest.of(recipe, None, features=True, shards=shards).save()
    assert training_set.compute(request.folder, Ranks())
    shutil.rmtree(request.folder)
    return Path(request.output)


def request(run: RunFolder, *overrides: str, metrics=("fid", "kid"), shards: int = 1) -> EvalRequest:
    return EvalRequest.of(with_overrides(run.recipe(), list(overrides), "test"), metrics, STEP, shards)


def evaluated(run: RunFolder, *overrides: str, metrics=("fid", "kid"), shards: int = 1) -> dict:
    name = request(run, *overrides, metrics=metrics, shards=shards).save(run)
    assert shard.compute(run, name, Ranks())
    return read_json(run.evals / name / "report.json")


def samples_of(run: RunFolder, n: int) -> torch.Tensor:
    return to_pixels(Model.from_run(run.path).sample(n))


def pngs(folder: Path, images: torch.Tensor) -> str:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:03d}.png")
    return str(folder)


def test_all_numbers_are_those_of_torch_fidelity_on_the_same_pictures(run, tmp_path):
    """The real Inception, from a local file; its layer of 192 features keeps the test short."""
    from torch_fidelity import calculate_metrics

    weights = inception_weights(tmp_path / "weights.pth")
    data = open_images(make_images(tmp_path / "few", splits={"train": 9}), "train", cache="disk")
    settings = ("eval.fid.extractor=inception-v3-compat", "eval.fid.plugin=null", f"eval.fid.weights={weights}")
    settings += ("eval.fid.layer=192", f"data.path={tmp_path / 'few'}", "eval.samples=8")
    stats = stats_of(run, *settings, shards=1)
    found = evaluated(run, *settings, metrics=("fid", "kid", "isc", "prc"), shards=2)
    expected = calculate_metrics(
        input1=pngs(tmp_path / "ours", samples_of(run, 8)),
        input2=pngs(tmp_path / "theirs", data.batch(torch.arange(data.n))),
        **dict.fromkeys(("fid", "kid", "isc", "prc"), True),
        **{f"feature_layer_{metric}": "192" for metric in ("fid", "kid", "prc")},
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        kid_subsets=5,
        kid_subset_size=8,
        isc_splits=2,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    assert found["fid"]["value"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    assert found["kid"]["value"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    assert found["kid"]["std"] == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-4)
    assert found["isc"]["value"] == pytest.approx(expected["inception_score_mean"], rel=1e-5)
    assert found["isc"]["std"] == pytest.approx(expected["inception_score_std"], rel=1e-3, abs=1e-7)
    for name in ("precision", "recall", "f_score"):
        assert found["prc"][name] == pytest.approx(expected[name])
    fid = found["fid"]
    assert (fid["samples"], fid["nfe_mean"], fid["quantisation"], fid["layer"]) == (8, 3.0, "round", "192")
    assert fid["weights"] == {"file": str(weights), "sha256": inputs.digest_of(weights), "published": False}
    assert (fid["stats"]["file"], fid["stats"]["images"]) == (str(stats), data.n)


def test_shards_and_batches_change_rounding_only(run):
    """Eight shards equal one array of features to 1e-6, by torch-fidelity's own functions."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    found = []
    for shards in (1, 3, 8):
        for batch in (7, 64):
            both = request(run, f"eval.batch_size={batch}", shards=shards)
            report = evaluated(run, f"eval.batch_size={batch}", shards=shards)
            arrays, _ = merge.gather(run.evals / both.id, both)
            found.append((arrays["features"]["features"], report["fid"]["value"], report["kid"]["value"]))
            shutil.rmtree(run.evals)
            run.evals.mkdir()
    first = torch.from_numpy(found[0][0])
    from_moments = evaluated(run, metrics=("fid",), shards=8)["fid"]["value"]
    assert from_moments == pytest.approx(found[-1][1], rel=1e-9)
    theirs = statistics.read(Path(str(both.files["stats"])), features=True)
    reference = torch.from_numpy(theirs.features)
    fid = fid_statistics_to_metric(*(fid_features_to_statistics(rows.double()) for rows in (first, reference)), False)
    kid = kid_features_to_metric(first, reference, kid_subsets=5, kid_subset_size=8, verbose=False)
    for features, fid_value, kid_value in found:
        np.testing.assert_allclose(features, first, rtol=1e-5, atol=1e-5)
        assert fid_value == pytest.approx(fid["frechet_inception_distance"], rel=1e-6)
        assert kid_value == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-6)


def test_an_interrupted_shard_goes_on_at_its_next_batch(run, monkeypatch):
    name = request(run, "eval.batch_size=16").save(run)
    asked: list[tuple[int, int]] = []
    features = work.WORK["features"]

    def counted(model, what, first, last):
        asked.append((first, last))
        return features.compute(model, what, first, last)

    monkeypatch.setitem(work.WORK, "features", dataclasses.replace(features, compute=counted))
    assert not shard.compute(run, name, Ranks(), should_stop=lambda: len(asked) >= 2)
    rows = run.evals / name / "shards" / "00000-features.rows"
    # A batch that was under way when the process was killed left a part behind.
    whole = rows.read_bytes()
    rows.write_bytes(whole + b"torn")
    assert shard.compute(run, name, Ranks())
    assert asked == [(0, 16), (16, 32), (32, 40)]
    assert not rows.exists()
    undisturbed = read_json(run.evals / name / "report.json")
    (run.evals / name / "report.json").unlink()
    # Damage on the disk is found out, and computed again.
    sealed = run.evals / name / "shards" / "00000-features.npz"
    content = bytearray(sealed.read_bytes())
    content[len(content) // 2] ^= 1
    sealed.write_bytes(content)
    with pytest.raises(merge.MergeError, match=r"shard 0 is damaged.*again"):
        shard.compute(run, name, Ranks())
    assert shard.compute(run, name, Ranks())
    again = read_json(run.evals / name / "report.json")
    assert (again["fid"], again["kid"]) == (undisturbed["fid"], undisturbed["kid"])


def test_moments_of_another_evaluation_are_taken_and_a_shard_may_lack_a_kind_of_work(run, monkeypatch):
    """The likelihood of three images, cut into five shards as the samples are."""
    before = evaluated(run, metrics=("fid",), shards=5)["fid"]
    monkeypatch.setattr(Model, "draw", None)
    monkeypatch.setattr(pictures, "samples", lambda *args, **more: None)
    found = evaluated(run, "eval.points=3", metrics=("fid", "loss"), shards=5)
    assert found["fid"] == before
    assert found["loss"]["n"] == 3


def test_statistics_of_a_training_set_in_pieces(trained, tmp_path, monkeypatch):
    recipe = trained.recipe()
    data = open_images(recipe.data.path, "train", cache="disk")
    made = StatsRequest.of(recipe, tmp_path / "s.npz", features=True, shards=4).save()
    seen = []
    rows = training_set._rows
    monkeypatch.setattr(training_set, "_rows", lambda *given: seen.append(given[3:]) or rows(*given))
    assert not training_set.compute(made.folder, Ranks(), lambda: len(seen) >= 2)
    assert made.missing() == [2, 3]
    assert training_set.compute(made.folder, Ranks(0, 2))
    assert training_set.compute(made.folder, Ranks(1, 2))
    assert seen == [(0, 5), (5, 10), (10, 15), (15, 20)]
    assert made.is_done
    found = statistics.read(Path(made.output), features=True)
    features = extractors.load(made.extractor, made.files, "cpu")(data.batch(torch.arange(data.n)))["features"]
    np.testing.assert_allclose(found.features, features, rtol=1e-6)
    np.testing.assert_allclose(found.mu, features.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.sigma, np.cov(features.astype(float), rowvar=False), rtol=1e-10)
    assert (found.images, statistics.outline(Path(made.output)).about["data"]) == (20, made.fingerprint)


def test_statistics_in_both_published_layouts(run, tmp_path):
    own = evaluated(run, metrics=("fid",))
    theirs = statistics.read(Path(own["fid"]["stats"]["file"]), features=True)
    np.savez(tmp_path / "edm.npz", mu=theirs.mu, sigma=theirs.sigma)
    np.savez(tmp_path / "score_sde.npz", pool_3=theirs.features)
    names = set()
    for file, images, metrics in (("edm.npz", None, ("fid",)), ("score_sde.npz", 20, ("fid", "kid"))):
        settings = (f"eval.fid.stats={tmp_path / file}",)
        report = evaluated(run, *settings, metrics=metrics)
        assert report["fid"]["value"] == pytest.approx(own["fid"]["value"], rel=1e-9)
        assert (report["fid"]["stats"]["file"], report["fid"]["stats"]["images"]) == (str(tmp_path / file), images)
        names.add(request(run, *settings).id if len(metrics) > 1 else request(run, *settings, metrics=metrics).id)
    assert len({*names, own["id"]}) == 3
    with pytest.raises(UsageError, match=r"no features of single images, which --kid need.*--features"):
        request(run, f"eval.fid.stats={tmp_path / 'edm.npz'}")


def test_moments_merge_exactly():
    rows = np.random.default_rng(0).normal(3.0, 2.0, (500, 6))
    merged = Moments.merged(Moments.of(rows[a:b]) for a, b in ((0, 1), (1, 130), (130, 500)))
    np.testing.assert_allclose(merged.mean, rows.mean(0), rtol=1e-13)
    np.testing.assert_allclose(merged.covariance, np.cov(rows, rowvar=False), rtol=1e-12)
    shifted = statistics.Reference(merged.mean + 1.0, merged.covariance, None, 500, "")
    assert frechet(merged, shifted) == pytest.approx(6.0, rel=1e-9), "equal covariances: the squared distance of means"


def test_ids_are_made_of_what_the_numbers_depend_on(run):
    sampling, bound = "sampling.nfe=4", "eval.elbo.probes=2"
    assert request(run, metrics=("elbo",)).id == request(run, sampling, "eval.samples=30", metrics=("elbo",)).id
    assert request(run, metrics=("fid",)).id == request(run, bound, "eval.kid.subsets=6", metrics=("fid",)).id
    others = (sampling, "eval.samples=30", "eval.seed=1", "eval.fid.quantisation=floor")
    assert len({request(run, metrics=("fid",)).id, *(request(run, one, metrics=("fid",)).id for one in others)}) == 5
    assert request(run).id != request(run, "eval.kid.subsets=6").id
    assert len({request(run, one, metrics=("loss",)).id for one in (bound, "eval.loss.draws=2", "eval.points=9")}) == 3


def refused(run: RunFolder, words: str, *overrides: str, metrics=("fid",), error: type[CldError] = UsageError) -> None:
    with pytest.raises(error, match=words):
        request(run, *overrides, metrics=metrics)
    assert not list(run.evals.iterdir()), "nothing is begun"


def test_what_is_missing_or_wrong_is_said_before_anything_starts(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    inception = ("eval.fid.extractor=inception-v3-compat", "eval.fid.plugin=null")
    refused(run, r"Download https://.*6726825d\.pth and put it at .*torch/hub/checkpoints", *inception)
    refused(run, "no such file", *inception, f"eval.fid.weights={tmp_path / 'none.pth'}")
    torch.save({"a": torch.zeros(1)}, tmp_path / "wrong.pth")
    (tmp_path / "text.pth").write_text("not found")
    for name in ("wrong", "text"):
        weights = f"eval.fid.weights={tmp_path / name}.pth"
        refused(run, "these are no weights of inception-v3-compat .*https://", *inception, weights)
    refused(run, "'tinny', but torch-fidelity has clip.*inception-v3-compat.*tiny", "eval.fid.extractor=tinny")
    refused(run, "layer' is 'most', but tiny has all, some", "eval.fid.layer=most")
    refused(run, "vgg16 needs weights", "eval.fid.extractor=vgg16")
    refused(run, r"no statistics of the training images.*`cldctl data stats RECIPE.RUN`", "eval.fid.layer=some")
    np.savez(tmp_path / "small.npz", mu=np.zeros(3), sigma=np.eye(3))
    words = "statistics of 3 features, but tiny, layer all, has 12.*cldctl data stats"
    refused(run, words, f"eval.fid.stats={tmp_path / 'small.npz'}")
    np.savez(tmp_path / "odd.npz", mu=np.zeros(12))
    refused(run, r"neither mu and sigma nor pool_3, but mu \(12,\)", f"eval.fid.stats={tmp_path / 'odd.npz'}")
    np.savez(tmp_path / "nan.npz", mu=np.full(12, np.nan), sigma=np.eye(12))
    refused(run, "statistics that are not finite", f"eval.fid.stats={tmp_path / 'nan.npz'}")
    refused(run, "no .npz file of statistics", f"eval.fid.stats={tmp_path / 'text.pth'}")
    refused(run, "'sampling.solver' torchdiffeq makes", "sampling.method=ode", "sampling.solver=torchdiffeq")
    refused(run, "subset_size' is 30, too many for 20 features", "eval.kid.subset_size=30", metrics=("kid",))
    refused(run, "splits' is 50, too many for 40 samples", "eval.isc.splits=50", metrics=("isc",))
    refused(run, "'eval.points' is 41, but .* has 40 test images", "eval.points=41", metrics=("loss",))
    with pytest.raises(UsageError, match=r"--fid compares images, but data\.name=diamond are vectors"):
        EvalRequest.of(load(RECIPES / "toy_diamond.yaml"), ("fid", "elbo"), 1)


def test_weights_are_fetched_and_held_against_their_hash(tmp_path):
    (tmp_path / "there").write_bytes(b"weights")
    source, kept = (tmp_path / "there").as_uri(), tmp_path / "hub" / "kept.pth"
    with pytest.raises(UsageError, match=f"cannot be downloaded.*Put the file at {kept} by hand"):
        extractors.download(source, kept, inputs.PUBLISHED_SHA256)
    assert not kept.exists()
    extractors.download(source, kept, inputs.digest_of(tmp_path / "there")[:8])
    assert kept.read_bytes() == b"weights"


def test_no_test_set(run, tmp_path):
    data = make_images(tmp_path / "only", splits={"train": 4})
    refused(run, "no validation images.*data prepare", f"data.path={data}", metrics=("elbo",), error=DataError)


def test_what_vanishes_or_changes_in_the_middle_is_told(run, tmp_path):
    plugin = tmp_path / "own"
    plugin.mkdir()
    stats = tmp_path / "stats.npz"
    theirs = statistics.read(Path(str(request(run).files["stats"])))
    np.savez(stats, mu=theirs.mu, sigma=theirs.sigma)
    name = request(run, f"eval.fid.stats={stats}", metrics=("fid",), shards=2).save(run)
    assert shard.compute(run, name, Ranks(), only=0)
    np.savez(stats, mu=theirs.mu + 1, sigma=theirs.sigma)
    with pytest.raises(UsageError, match="other statistics than when the evaluation was asked for"):
        shard.compute(run, name, Ranks(), only=1)
    stats.unlink()
    with pytest.raises(UsageError, match="statistics are gone"):
        shard.compute(run, name, Ranks(), only=1)
    for file in run.checkpoints.iterdir():
        file.unlink()
    with pytest.raises(NotFoundError, match="no checkpoint of step 2"):
        shard.compute(run, name, Ranks(), only=1)
    assert len(list((run.evals / name / "shards").glob("*.json"))) == 1, "what was computed is kept"


def test_a_checkpoint_that_vanishes_between_two_shards_is_told(run, monkeypatch):
    name = request(run, metrics=("loss",), shards=3).save(run)
    loss = work.WORK["loss"]

    def vanishing(model, what, first, last):
        for file in run.checkpoints.iterdir():
            file.unlink()
        return loss.compute(model, what, first, last)

    monkeypatch.setitem(work.WORK, "loss", dataclasses.replace(loss, compute=vanishing))
    with pytest.raises(NotFoundError, match="no checkpoint of step 2 any more"):
        shard.compute(run, name, Ranks())
    assert len(list((run.evals / name / "shards").glob("*.json"))) == 1, "what was computed is kept"


def test_the_test_loss_is_the_training_objective_keyed_by_datum(run):
    found = evaluated(run, metrics=("loss",), shards=3)["loss"]
    assert (found["n"], found["weighting"]) == (10, "reweightedv2")
    model = Model.from_run(run.path)
    many = request(run, "eval.loss.draws=100", metrics=("loss",))
    losses = work.WORK["loss"].compute(model, many, 0, 10)["loss"]
    from cld_core import seeds
    from cld_core.loss import ScoreMatching

    objective = ScoreMatching(model.sde, run.recipe().objective)
    x = model.source.test_data(0, 0, 10).repeat(100, 1, 1, 1)
    with torch.no_grad():
        drawn = objective.draw(seeds.generator(7), len(x), model.data_shape)
        trained_on = objective.per_sample(model.score, x, drawn).double()
    stderr = float(trained_on.std()) / len(x) ** 0.5
    assert abs(losses.mean() - float(trained_on.mean())) < 4 * 2**0.5 * stderr
    part = work.WORK["loss"].compute(model, many, 3, 7)["loss"]
    np.testing.assert_allclose(part, losses[3:7], rtol=1e-5)
    assert json.loads(json.dumps(found)) == found

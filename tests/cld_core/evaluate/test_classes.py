"""FID, precision and recall of each class: those of the samples and images of that class alone."""

import numpy as np
import pytest
import torch

from cld_core import metrics as registry
from cld_core import pictures
from cld_core.data.images import to_pixels
from cld_core.errors import UsageError
from cld_core.evaluate import stats_file
from cld_core.evaluate.features import _precision_and_recall, frechet
from cld_core.evaluate.statistics import Statistics, StatsRequest
from cld_core.model import Model
from tests.support.extractor import TINY
from tests.support.images import labelled_images, run_folder
from tests.support.tools import train

from .on_images import SETTINGS, evaluated, request, stats_of

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
    from cld_core.evaluate.features import load

    asked = request(labelled, metrics=("classes",))
    features = load(asked.fid, asked.files, torch.device("cpu"))(to_pixels(model.sample(60)))["features"]
    for number, name in enumerate(reference.outline.classes):
        ours, theirs = features[label == number], reference.features[reference.labels == number]
        values = section["classes"][name]
        assert (values["samples"], values["images"]) == (len(ours), len(theirs))
        wide = theirs.astype(float)
        assert values["fid"] == pytest.approx(frechet(ours, wide.mean(0), np.cov(wide.T)), rel=1e-3)
        precision, recall, _ = _precision_and_recall(torch.from_numpy(ours), torch.from_numpy(theirs), 3)
        assert (values["precision"], values["recall"]) == (precision, recall)
    assert section["fid"] == pytest.approx(np.mean([values["fid"] for values in section["classes"].values()]))


def test_classes_with_few_samples_are_left_out_and_counted(labelled):
    stats_of(labelled)
    section = evaluated(labelled, "eval.samples=28", metrics=("classes",))["classes"]
    drawn = np.bincount(Model.from_run(labelled.path).classes.drawn(0, 28), minlength=3)
    assert (section["left_out"], len(section["classes"])) == (int((drawn < 10).sum()), int((drawn >= 10).sum()))
    assert 0 < section["left_out"] < 3
    assert registry.metric("classes").remark(section).startswith(f"{section['left_out']} of 3 classes have too few")


def test_statistics_without_labels_are_computed_again_when_there_are_some(labelled):
    file = stats_of(labelled)
    content = stats_file.read(file, features=True)
    about = stats_file.outline(file).about
    request_ = StatsRequest.of(labelled.recipe(), None, features=True, shards=1)
    asked = Statistics(request_.folder, request_)
    assert asked.is_done
    old = {name: value for name, value in about.items() if name != "classes"}
    stats_file.write(file, old, {"mu": content.mu, "sigma": content.sigma, "pool_3": content.features})
    assert not asked.is_done
    with pytest.raises(UsageError, match=r"does not know the classes of its images\. Prepare the data again"):
        request(labelled, metrics=("classes",))
    assert request(labelled, metrics=("fid", "prc"))
    assert stats_of(labelled) == file
    assert asked.is_done


def test_guidance_is_part_of_what_samples_are(labelled):
    stats_of(labelled)
    plain, guided = request(labelled), request(labelled, "sampling.guidance=2")
    assert plain.id != guided.id
    assert plain.row_settings("features") != guided.row_settings("features")
    assert evaluated(labelled, "sampling.guidance=2")["fid"]["nfe_mean"] == 6.0


def test_each_row_of_a_picture_has_one_class(labelled, tmp_path):
    model = Model.from_run(labelled.path)
    assert pictures.in_rows(model, 16).tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [0] * 4
    pictures.samples(model, tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()

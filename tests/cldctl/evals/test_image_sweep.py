"""The paper's table, sampler by NFE, of a tiny model of images: every cell is drawn as it says."""

import pytest
from PIL import Image

from cld_core.evaluate.evaluation import Evaluation
from cld_core.evaluate.statistics import Statistics, StatsRequest
from cld_core.ranks import Ranks
from cld_core.stop import StopFlag
from cld_core.train import session
from cldctl.evals import plan, table
from tests.support.extractor import TINY
from tests.support.images import make_images, run_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    settings = ("train.steps=2", "eval.samples=24", "eval.batch_size=24")
    run = run_folder(folder, make_images(folder / "set"), *settings, *TINY)
    session.run(run, Ranks(), StopFlag(), job_id="test")
    assert Statistics(StatsRequest.of(run.recipe(), None, features=False, shards=1).save()).compute(Ranks())
    return run


def test_fid_by_sampler_and_nfe(run):
    axes = plan.parse(["sampling.method=em,exponential", "sampling.nfe=2,3"])
    made = plan.make(run, ("fid",), [2], [], axes, shards=2)
    made.sweep.save(run)
    for request in made.requests:
        assert Evaluation(request.save(run)).compute(Ranks())
    table.write_finished(run)
    rows = table.rows(run, made.sweep)
    assert [row["fid_nfe"] for row in rows] == [2.0, 3.0, 2.0, 3.0], "each cell is drawn as it says"
    assert len({row["fid"] for row in rows}) == 4
    for row in rows:
        work = Evaluation(run.evals / row["evaluation"])
        assert row["fid"] == work.report["fid"]["value"]
        about = Image.open(work.folder / "samples.png").info["Description"]
        how = f"{row['sampling.method']}, {row['sampling.nfe']} NFE"
        assert about.endswith(f" samples, {how}"), "the picture is drawn in the same way"
    assert (run.evals / made.sweep.id / "table.csv").read_text() == table.to_csv(rows)

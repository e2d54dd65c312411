"""The paper's table, sampler by NFE, of a tiny model of images: every cell is drawn as it says."""

from PIL import Image

from cld_core.evaluation import training_set
from cld_core.evaluation.stats_request import StatsRequest
from cld_core.ranks import Ranks
from cld_core.run.atomic import read_json
from cld_core.stop import StopFlag
from cld_core.train import session
from cldctl.evals import plan, start, sweep
from tests.support.extractor import TINY
from tests.support.images import make_images, run_folder


def test_fid_by_sampler_and_nfe(tmp_path):
    settings = ("train.steps=2", "eval.samples=24", "eval.batch_size=24")
    run = run_folder(tmp_path, make_images(tmp_path / "set"), *settings, *TINY)
    session.run(run, Ranks(), StopFlag(), job_id="test")
    stats = StatsRequest.of(run.recipe(), None, features=False, shards=1).save()
    assert training_set.compute(stats.folder, Ranks())
    axes = sweep.parse(["sampling.method=em,exponential", "sampling.nfe=2,3"])
    made = plan.make(run, ("fid",), [2], [], axes, shards=2)
    begun = start.start(run, made, "debug", run.recipe().cluster)
    assert begun.started == made.sweep.evaluations
    table = sweep.rows(run, made.sweep)
    assert [row["fid_nfe"] for row in table] == [2.0, 3.0, 2.0, 3.0], "each cell is drawn as it says"
    assert len({row["fid"] for row in table}) == 4
    for row in table:
        folder = run.evals / row["evaluation"]
        assert row["fid"] == read_json(folder / "report.json")["fid"]["value"]
        about = Image.open(folder / "samples.png").info["Description"]
        assert about.endswith(f"{row['sampling.nfe']} NFE"), "the picture is drawn likewise"
    assert (run.evals / made.sweep.id / "table.csv").read_text() == sweep.to_csv(table)
    assert start.start(run, made, "debug", run.recipe().cluster).complete == made.sweep.evaluations

"""No run continues on other data in silence, and no plug-in that lacks the data set is
submitted."""

from cld_core.run import RunFolder
from cld_core.run.identity import are_other_data
from cldctl.runs import plan
from cldctl.runs.options import EvalOptions
from tests.support.images import make_images, run_folder
from tests.support.plugin import toy_plugin
from tests.support.tools import ONE, invoke, train

NAME = "ring_of_a_test"


def drawing(file, factor):
    """A plug-in whose points are that many times as far away."""
    return toy_plugin(
        file,
        NAME,
        first="print('hello')",
        points=f"{factor} * torch.randn(n, 2, generator=generator)",
    )


def test_a_run_goes_on_with_its_copy_and_says_that_the_file_has_changed(tmp_path):
    ring = drawing(tmp_path / "ring.py", 1)
    submit = f"submit toy --name mine --cluster debug plugins={ring} data.name={NAME}"
    refused = invoke(f"{submit}s", *ONE, code=2).stderr
    assert f"Did you mean '{NAME}'?" in refused
    assert not (tmp_path / "mine").exists(), "nothing is written"
    invoke(submit, *ONE)
    run = RunFolder.open(tmp_path / "mine")
    before = run.ledger.history().last.data
    drawing(ring, 3)
    done = invoke("resume mine train.steps=30")
    assert f"{ring} has changed since it was copied" in done.stderr
    assert "--update-code" in done.stderr
    assert run.ledger.history().last.data == before
    update = "resume mine train.steps=40 --update-code"
    refused = invoke(update, code=2)
    for word in (NAME, str(ring), "mine has trained on", "--other-data"):
        assert word in refused.stderr
    assert run.ledger.history().steps == 30, "nothing was noted"
    invoke(f"{update} --other-data")
    shown = invoke("status mine").stdout
    assert "changed other data than before, since attempt 2 (" in " ".join(shown.split())


def test_other_images_in_the_same_folder(tmp_path):
    make_images(tmp_path / "data")
    run = train(run_folder(tmp_path, tmp_path / "data"))
    assert set(run.ledger.history().last.data) == {"images"}
    (tmp_path / "data").rename(tmp_path / "aside")
    make_images(tmp_path / "data", splits={"train": 22, "validation": 40})
    said = []
    plan.evaluations(run, EvalOptions(named=("loss",)), said.append)
    assert said == [f"the examples in {tmp_path / 'data'} are not those that run has trained on"]
    refused = invoke("resume run train.steps=20", code=2)
    assert f"the examples in {tmp_path / 'data'}" in refused.stderr
    invoke("resume run train.steps=14 --other-data --cluster debug")


def test_what_counts_as_other_data():
    points = {"points": "1 2 3", "plugin": "a"}
    assert not are_other_data(points, {"points": "1 2 3.0000001", "plugin": "b"})
    assert are_other_data(points, {"points": "1 2 3.1", "plugin": "a"})
    means = {**points, "means": "0.1 0.2"}
    assert are_other_data(means, {**means, "means": "0.1 0.21"})
    assert are_other_data({"plugin": "a"}, {"plugin": "b"})
    assert not are_other_data(points, {})

"""What TensorBoard shows of evaluations."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from cld_core.config import load
from cld_core.evaluate.request import request_of
from cld_core.evaluate.rows import to_tensorboard
from tests.support.made_up import run_with
from tests.support.paths import RECIPES

ELBO = {"elbo": {"nll": 1.25, "stderr": 0.5, "n": 512, "nfe_mean": 101.6}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    # Files of one second are read in the order of a counter of the process, as texts: 10 comes before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    return run_with(tmp_path / "mine", 20, 40)


def written(run, metric, report, *overrides):
    """What there is in TensorBoard about one evaluation of two checkpoints."""
    for step in (20, 40):
        request = request_of(load(RECIPES / "toy.yaml", overrides), (metric,), step)
        to_tensorboard(run, request, report)
    (folder,) = run.tensorboard.iterdir()
    assert folder.name == f"eval-{request.settings}"
    return EventAccumulator(str(folder)).Reload()


def test_bounds_of_several_steps_are_one_curve_under_a_readable_name(run):
    events = written(run, "elbo", ELBO)
    assert set(events.Tags()["scalars"]) == {
        "evaluation/nll (n=512)",
        "evaluation/nll standard error (n=512)",
        "evaluation/nll NFE (n=512)",
    }
    assert [(point.step, point.value) for point in events.Scalars("evaluation/nll (n=512)")] == [(20, 1.25), (40, 1.25)]
    text = events.Tensors("evaluation/results/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "elbo-00000040-" in text
    assert "| 1.25 | 0.5 | 512 | 102 |" in text

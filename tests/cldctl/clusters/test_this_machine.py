"""What this machine has for a job, as far as that is known without torch."""

import pytest

from cld_core.recipe.cluster import ClusterSpec
from cldctl.clusters import find
from cldctl.clusters.this_machine import lacks_gpus


@pytest.mark.parametrize(("seen", "warns"), [("", True), ("-1", True), ("0", False), ("0,1", False)])
def test_a_job_that_asks_for_gpus_is_remarked_on_where_no_nvidia_gpu_is_seen(monkeypatch, seen, warns):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    text = lacks_gpus(ClusterSpec(gpus_per_node=1))
    assert (text is not None) == warns
    if text is not None:
        assert "no NVIDIA GPU is seen here: without one it runs on the CPU" in text, "torch may find another one"
    assert find("local").remark_on(ClusterSpec(gpus_per_node=1)) == text
    assert lacks_gpus(ClusterSpec(gpus_per_node=0)) is None
    assert find("slurm").remark_on(ClusterSpec(gpus_per_node=1)) is None, "its jobs run elsewhere"

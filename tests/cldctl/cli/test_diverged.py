"""Samples that are not finite, as people meet them: from the network's weights to tables, pages and exit codes."""

import json

from cld_core.evaluate.request import EvalRequest
from tests.support.made_up import report, run_with
from tests.support.tools import invoke

SAID = "3 of 50,000 samples are not finite"


def test_status_page_and_comparison_say_it(tmp_path):
    fid, bad = {"value": 3.0, "samples": 50_000}, {"nonfinite": 3}
    for name, more in (("good", {"nonfinite": 0}), ("bad", bad), ("old", {})):
        run = run_with(tmp_path / name, 10)
        report(run, EvalRequest.of(run.recipe(), ("elbo",), 10), elbo={"nll": 1.0}, fid=fid | more)
    for name, count in (("good", 0), ("bad", 1), ("old", 0)):
        assert invoke("status", name, runs=tmp_path).stdout.count(SAID) == count
        invoke("report", name, "-o", str(tmp_path / "page.html"), runs=tmp_path)
        assert (tmp_path / "page.html").read_text().count(SAID) == count
    compared = ("eval", "--compare", "good", "bad", "old")
    assert invoke(*compared, runs=tmp_path).stderr.splitlines().count(f"bad: {SAID}") == 1
    assert f"bad: {SAID}" in json.loads(invoke(*compared, "--json", runs=tmp_path).stdout)["warnings"]

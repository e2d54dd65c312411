"""`cldctl import`: what only the command does."""

from cld_core.run import RunFolder
from tests.cld_core.test_importing import published
from tests.support.paths import ROOT
from tests.support.tools import invoke

RECIPE = f"""
extends: {ROOT}/recipes/toy.yaml
name: own
data: {{name: imported_square, plugin: mine.py}}
network: {{width: 8, layers: 2}}
"""
PLUGIN = """
import torch
from cld_core.data.toy import toy

@toy("imported_square")
def square(n, generator):
    return 2 * torch.rand(n, 2, generator=generator) - 1
"""


def test_a_plug_in_beside_the_recipe_is_found_and_recorded(tmp_path):
    (tmp_path / "own.yaml").write_text(RECIPE)
    (tmp_path / "mine.py").write_text(PLUGIN)
    file = published(tmp_path / "checkpoint_20.pth", 20)
    invoke("import", str(file), "--recipe", str(tmp_path / "own.yaml"), "--name", "mine", runs=tmp_path / "runs")
    assert RunFolder.open(tmp_path / "runs" / "mine").recipe().data.plugin == str(tmp_path / "mine.py")
    wrong = ("--recipe", str(tmp_path / "own.yaml"), "--name", "other", "data.name=imported_squares")
    refused = invoke("import", str(file), *wrong, runs=tmp_path / "runs", code=2)
    assert "Did you mean 'imported_square'?" in refused.stderr
    assert not (tmp_path / "runs" / "other").exists()

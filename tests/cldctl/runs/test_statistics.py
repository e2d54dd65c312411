"""Starting statistics of a training set beside a folder that somebody else has made for them."""

import pytest

from cld_core.errors import CldError
from cld_core.evaluation.stats_work import StatsRequest
from cld_core.recipe.cluster import ClusterSpec
from cldctl.clusters.debug import DebugCluster
from cldctl.clusters.local import LocalCluster
from cldctl.runs import sharded
from tests.support.extractor import TINY
from tests.support.images import make_images, tiny_recipe
from tests.support.other_users import give_away, needs_root


@pytest.fixture
def request_(tmp_path):
    recipe = tiny_recipe(make_images(tmp_path / "set"), *TINY)
    return StatsRequest.of(recipe, tmp_path / "s.npz", features=False, shards=1)


@needs_root
@pytest.mark.parametrize("cluster", [DebugCluster(), LocalCluster()])
def test_a_folder_of_somebody_else_is_refused_before_anything_is_written(request_, cluster):
    request_.folder.mkdir()
    (request_.folder / "logs").mkdir()
    give_away(request_.folder / "logs")
    for theirs in (request_.folder, request_.folder / "logs"):
        give_away(theirs)
        with pytest.raises(CldError, match=r"s\.npz\.partial: .*belongs to user 65534.*Remove it, or use another"):
            sharded.start_statistics(request_, cluster, ClusterSpec())
        assert [path.name for path in request_.folder.rglob("*")] == ["logs"]
    assert not request_.is_done


@needs_root
def test_what_somebody_else_has_made_is_not_removed(request_):
    request_.save()
    give_away(request_.folder)
    sharded.clear(request_.folder)
    assert request_.folder.exists()

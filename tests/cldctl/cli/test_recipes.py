"""Finding recipes and profiles, and printing them."""

import re

import pytest

from cld_core.config import dump, load, shipped
from cld_core.errors import RecipeError
from cldctl.lookup import find_profile, find_recipe
from tests.support.paths import RECIPES, TOY
from tests.support.recipes import shipped_recipe
from tests.support.tools import ONE, invoke


def test_a_recipe_is_found_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(str(TOY)) == TOY
    assert find_recipe("toy").name == "toy.yaml"
    (tmp_path / "tiny.yaml").write_text("name: tiny\n")
    with pytest.raises(RecipeError, match=r"Did you mean '\./tiny\.yaml'\?"):
        find_recipe("tiny")
    (tmp_path / "recipes").mkdir()
    mine = tmp_path / "recipes" / "toy.yaml"
    mine.write_text("train: {steps: 3}")
    assert find_recipe("toy").absolute() == mine
    assert len(shipped.recipes()) == len(list(RECIPES.glob("*.yaml")))


def test_data_lead_to_init(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    (tmp_path / "lab.npy").write_bytes(b"\x93NUMPY" + bytes(300_000))
    for name in ("lab.npy", "'my photos'"):
        assert f"`cldctl init {name}`" in invoke(f"submit {name}", code=2).stderr


def test_a_profile_is_found_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME")
    own = tmp_path / ".config/cldctl/profiles" / "example.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("cluster: {nodes: 2}")
    assert find_profile("example") == own
    with pytest.raises(
        RecipeError, match=r"--profile exampel: there is no such profile.*Did you mean 'example'\?"
    ):
        find_profile("exampel")


@pytest.mark.parametrize("name", ["toy_demo", "cifar10"])
def test_what_differs_from_the_defaults_is_the_same_recipe(tmp_path, name):
    assert invoke(f"render {name}").stdout == dump(shipped_recipe(name))
    shown = invoke(f"render {name} --changed sampling.method=em").stdout
    (tmp_path / "shown.yaml").write_text(shown)
    assert load(tmp_path / "shown.yaml") == shipped_recipe(name, "sampling.method=em")
    assert shown.count("\n") < len(dump(shipped_recipe(name)).splitlines()) / 2


def test_every_recipe_is_listed_with_what_it_is_and_where_it_is_from(tmp_path, monkeypatch):
    """A path for a file of the user; the folder of the package is not shown."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/mine.yaml").write_text(
        "# My own rings. For fun.\nextends: toy\nname: mine\n"
    )
    rows = [
        line.split() for line in invoke("recipes", width=1000).stdout.splitlines() if line.strip()
    ]
    about = {row[0]: row[1:] for row in rows}
    assert (about["mine"][:3], about["mine"][-1]) == (["My", "own", "rings"], "recipes/mine.yaml")
    assert {about[file.stem][-1] for file in RECIPES.glob("*.yaml")} == {"cldctl"}


def test_a_key():
    lines = invoke("explain train.ema").stdout.splitlines()
    assert lines[0].startswith("train.ema: ")
    assert lines[1].split(maxsplit=1) == ["expects", "a number >= 0 and < 1"]
    assert lines[2].split() == ["default", "0.999"]
    assert any(line.split()[-1] == "cifar10_smoke" and "0.99 in" in line for line in lines)
    assert "sampling" in invoke("explain").stdout
    assert "Did you mean 'optim'?" in invoke("explain optm", code=2).stderr


def test_a_dry_run_says_first_what_differs(tmp_path):
    local = "--cluster local --dry-run --name x"
    done = invoke(f"submit toy_demo train.steps=5 --eval elbo {local}")
    assert "# evaluation elbo-00000005-" in done.stdout
    assert "# local: 1 process" in done.stdout
    lines = done.stdout.splitlines()
    assert re.match(r"# \d+ keys? differs? from .*:$", lines[0])
    assert "#   train.steps: 5 instead of 800000  (command line)" in lines
    assert "toy_demo.yaml, line 8)" in done.stdout
    assert "# same as toy\n" in invoke(f"submit toy {local}").stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_for_slurm_needs_no_slurm(tmp_path, without_slurm):
    """With --cluster, or with a key that only Slurm reads, as in a profile; a submission needs
    it."""
    profile = tmp_path / "theirs.yaml"
    profile.write_text("cluster: {partition: gpu, gpus_per_node: 4}")
    runs = tmp_path / "runs"
    submit = "submit toy --name x"
    done = invoke(f"{submit} --profile {profile} --dry-run", *ONE, runs=runs)
    assert "#SBATCH --partition=gpu\n" in done.stdout
    assert done.stderr.count("no sbatch on this machine") == 1
    assert "#SBATCH" in invoke(f"{submit} --cluster slurm --dry-run", *ONE, runs=runs).stdout
    assert "#SBATCH" not in invoke(f"{submit} --dry-run", *ONE, runs=runs).stdout
    refused = invoke(f"{submit} --cluster slurm", *ONE, runs=runs, code=2)
    assert "no sbatch on this machine. Use --cluster local." in refused.stderr
    assert not runs.exists()

"""Texts of the `cluster` section that a batch script would read as something else."""

import pytest

from cld_core.errors import RecipeError
from cld_core.recipe import load
from cld_core.recipe.cluster import ClusterSpec
from tests.support.paths import RECIPES

WORDS = ("partition", "account", "qos", "gres", "constraint", "exclude")
LISTS = ("setup", "sbatch_args", "srun_args")
# A line break of each kind, a null, an escape sequence, and texts that are shown in another order.
CONTROLS = ("\n", "\r", "\x00", "\x0b", "\x1b[2J", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\x7f")


def spec(name: str, text: str) -> ClusterSpec:
    return ClusterSpec(**{name: (text,) if name in LISTS else text})


@pytest.mark.parametrize("name", [*WORDS, *LISTS, "container"])
def test_control_characters(name):
    for control in CONTROLS:
        with pytest.raises(RecipeError, match=rf"'cluster\.{name}' cannot be .*: it has a") as refusal:
            spec(name, f"--low{control}touch x #")
        assert str(refusal.value).isprintable()
    with pytest.raises(RecipeError, match=rf"'cluster\.{name}' cannot be .*: it is not valid Unicode"):
        spec(name, "--low\udcff")


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("text", ["low --wrap=x", "low#", "low\tx", "a'b", 'a"b', "a\\", "", " ", "low\u00a0x"])
def test_what_is_not_one_word(name, text):
    with pytest.raises(RecipeError, match=rf"'cluster\.{name}' cannot be "):
        spec(name, text)


@pytest.mark.parametrize("text", ["--comment=it's", '--comment="x"', "--comment=\\", ""])
def test_options_whose_end_sbatch_would_not_find(text):
    with pytest.raises(RecipeError, match=r"'cluster\.sbatch_args' cannot be "):
        spec("sbatch_args", text)


@pytest.mark.parametrize("text", ["#SBATCH --wrap=x", "  #PBS -q x", "#BSUB -x"])
def test_setup_that_sbatch_would_read_as_options(text):
    with pytest.raises(RecipeError, match=r"would read it as an option\. Use cluster\.sbatch_args"):
        spec("setup", text)


def test_what_people_write():
    ClusterSpec(
        partition="gpu,gpu-long",
        account="a.b@c_d",
        qos="normal",
        gres="gpu:a100:8,shard:2",
        constraint="[rack1*2&rack2*4]|(intel&!old)",
        exclude="n[1-3,7],m04",
        container="apptainer exec --nv --env 'A=b c' \"$HOME/image.sif\"",
        setup=("module load cuda/12", "\texport A='x y' # why", "if true; then ulimit -n 4096; fi", "# a comment", ""),
        sbatch_args=("--mail-user=a@b.c", "--exclusive", "--comment=two words #1"),
        srun_args=("--cpu-bind=cores", "-c", "4", '--export=ALL,A="b"'),
    )


def test_the_message_names_key_and_place():
    with pytest.raises(RecipeError, match=r"^command line: 'cluster\.partition' cannot be 'low\\ntouch x #': "):
        load(RECIPES / "toy.yaml", ['cluster.partition="low\\ntouch x #"'])

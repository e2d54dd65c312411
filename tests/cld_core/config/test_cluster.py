"""Texts of the `cluster` section that a batch script would read as something else."""

import re

import pytest

from cld_core.config import load
from cld_core.config.cluster import ClusterSpec, problems
from cld_core.errors import RecipeError
from tests.support.paths import RECIPES

WORDS = ("partition", "account", "qos", "gres", "constraint", "exclude")
LISTS = ("setup", "sbatch_args", "srun_args")
# A line break of each kind, a null, an escape sequence, and texts that are shown in another order.
CONTROLS = ("\n", "\r", "\x00", "\x0b", "\x1b[2J", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\x7f")


def problem(name: str, text: str) -> str:
    """What is wrong with a text, which the command line and the batch script refuse."""
    spec = ClusterSpec(**{name: (text,) if name in LISTS else text})
    ((key, found),) = problems(spec)
    assert key == name
    return found


@pytest.mark.parametrize("name", [*WORDS, *LISTS, "container"])
def test_control_characters(name):
    for control in CONTROLS if name != "setup" else CONTROLS[1:]:
        found = problem(name, f"--low{control}touch x #")
        assert re.match(r"cannot be .*: it has a", found)
        assert found.isprintable()
    assert re.match(r"cannot be .*: it (has a|is not)", problem(name, "--low\udcff"))


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("text", ["low --wrap=x", "low#", "low\tx", "a'b", 'a"b', "a\\", "", " ", "low\u00a0x"])
def test_what_is_not_one_word(name, text):
    assert problem(name, text).startswith("cannot be ")


@pytest.mark.parametrize("text", ["--comment=it's", '--comment="x"', "--comment=\\", ""])
def test_options_whose_end_sbatch_would_not_find(text):
    assert problem("sbatch_args", text).startswith("cannot be ")


@pytest.mark.parametrize("text", ["#SBATCH --wrap=x", "  #PBS -q x", "#BSUB -x"])
def test_setup_that_sbatch_would_read_as_options(text):
    assert problem("setup", text).endswith("would read it as an option. Use cluster.sbatch_args.")


def test_what_people_write():
    spec = ClusterSpec(
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
    assert not list(problems(spec))


def test_the_message_names_key_and_place():
    with pytest.raises(RecipeError, match=r"^command line: 'cluster\.partition' cannot be 'low x #': "):
        load(RECIPES / "toy.yaml", ["cluster.partition='low x #'"])

"""Texts of the `cluster` section that a batch script would read as something else."""

import re

import pytest

from cld_core.config import load
from cld_core.config.cluster import ClusterSpec
from cld_core.errors import RecipeError
from tests.support.paths import RECIPES

WORDS = ("partition", "account", "qos", "gres", "constraint", "exclude")
LISTS = ("setup", "sbatch_args", "srun_args")
# A line break of each kind, a null, an escape sequence, and texts that are shown in another order.
CONTROLS = ("\n", "\r", "\x00", "\x0b", "\x1b[2J", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\x7f", "\udcff")
ODD = ("low --wrap=x", "low#", "low\tx", "a'b", 'a"b', "a\\", "", " ", "low\u00a0x")
ODD_OPTIONS = ("--comment=it's", '--comment="x"', "--comment=\\", "")
DIRECTIVES = ("#SBATCH --wrap=x", "  #PBS -q x", "#BSUB -x")


@pytest.mark.parametrize("name", [*WORDS, *LISTS, "container"])
def test_what_a_batch_script_would_misread(name):
    texts = [f"--low{control}touch x #" for control in (CONTROLS[1:] if name == "setup" else CONTROLS)]
    texts += ODD if name in WORDS else {"sbatch_args": ODD_OPTIONS, "setup": DIRECTIVES}.get(name, ())
    for text in texts:
        ((key, _, found),) = ClusterSpec(**{name: (text,) if name in LISTS else text}).problems()
        assert key == name
        assert re.match(r"cannot be .*: (it|sbatch) .*\.", found)
        assert found.isprintable()


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
    assert not list(spec.problems())


def test_the_message_names_key_and_place():
    with pytest.raises(RecipeError, match=r"^command line: 'cluster\.partition' cannot be 'low x #': "):
        load(RECIPES / "toy.yaml", ["cluster.partition='low x #'"])

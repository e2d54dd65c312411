"""A record of what the command line does: exit codes, JSON, options, files; by hand, before and
after a refactoring.

    python -m tests.interface RECORD.json                a few tiny runs and every command, in
    minutes python -m tests.interface --compare OLD.json NEW.json    prints what differs, exit code
    1 if anything does

Two records of the same code are equal: times, rates, paths, ids and hosts are masked, and numbers
have six digits. What is refused, damaged or disturbed is not recorded: the tests show it.
"""

import contextlib
import json
import math
import os
import re
import shlex
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch
import typer
import yaml

from cldctl.app import command_line
from tests.support import extractor, tools
from tests.support.images import SMALL_RECIPE
from tests.support.paths import FIXTURES, ROOT
from tests.support.tools import invoke

ONE, DEBUG, TINY = (" ".join(words) for words in (tools.ONE, tools.DEBUG, extractor.TINY))
LOCAL = "--cluster local"
FEW = "--method em --nfe 4 -n 6"
BENCH = "--nfe 2 --samples 20 --seeds 2 --sampler em-quadratic --sampler gddim"
PUBLISHED = FIXTURES / "parity" / "published_checkpoint_ncsnpp.pth"
PREPARE = f"data prepare folder --source {FIXTURES}/cifar --out set"
SMALL_IMAGES = f"""{SMALL_RECIPE}
train: {{steps: 4, checkpoint_every: 2, batch_size: 2, log_every: 2, precision: fp32}}
periodic: {{samples_every: null, elbo_every: null}}
eval: {{samples: 20, points: 10}}
sampling: {{method: em, nfe: 3}}
"""

# JSON fields that depend on the clock, the machine or chance.
_MASKED = re.compile(
    r"(^|_)(time|created|started|ended|updated|s|seconds|rate|per_s|since|host|hosts|user|job_id|id|digest|goodput|used"
    r"|useful|startup|lost_to_\w+|set_aside|code|gained|lost)$"
)
_TEXTS = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?"), "TIME"),
    (re.compile(r"\b(?!0{4})(?=[0-9a-f]*\d)[0-9a-f]{8,64}\b"), "HEX"),
)


def text(words, folder):
    """A text without what is of this machine and this moment."""
    for path, name in (
        (str(folder), "HERE"),
        (str(ROOT), "REPOSITORY"),
        (socket.gethostname(), "HOST"),
    ):
        words = words.replace(path, name)
    for pattern, name in _TEXTS:
        words = pattern.sub(name, words)
    return words


def plain(value, folder, key=""):
    """A JSON value to be compared: without sentences, and without what varies."""
    if isinstance(value, dict):
        return {text(name, folder): plain(inner, folder, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner, folder, key) for inner in value]
    if _MASKED.search(key) and not isinstance(value, bool):
        return "masked"
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, str):
        return "a sentence" if value.count(" ") > 2 else text(value, folder)
    return value


class Record:
    """What commands do in a folder of their own, one entry each."""

    def __init__(self, folder):
        self.folder, self.runs = folder, folder / "runs"
        self.commands = {}

    def __call__(self, line):
        """Run a command and keep its entry."""
        words, before, begun = shlex.split(line), self.files(), time.monotonic()
        done = invoke(*words, runs=self.runs, code=None)
        print(f"{time.monotonic() - begun:6.1f} s  {done.returncode}  {line}", flush=True)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)
        entry, after = self.keep(words, done.returncode, done.stdout), self.files()
        entry |= {"written": sorted(after - before), "removed": sorted(before - after)}

    def all(self, *texts):
        for line in "".join(texts).splitlines():
            if line:
                self(line)

    def keep(self, words, code, printed):
        key = text(" ".join(words), self.folder)
        assert key not in self.commands, f"recorded twice: {key}"
        entry = {"code": code}
        if "--json" in words and printed.strip():
            entry["json"] = plain(json.loads(printed), self.folder)
        elif words[:1] == ["render"] and code == 0:
            entry["yaml"] = yaml.safe_load(text(printed, self.folder))
        else:
            entry["data"] = bool(printed.strip())
            lines = [line for line in printed.splitlines() if line and " " not in line]
            entry["paths and runs"] = [
                text(line, self.folder)
                for line in lines
                if Path(line).exists() or (self.runs / line).exists()
            ]
            entry["sbatch"] = sorted(set(re.findall(r"^#SBATCH --([\w-]+)", printed, re.MULTILINE)))
        self.commands[key] = entry
        return entry

    def files(self):
        """All files but those that come and go, and one for each of many of a kind."""
        found = set()
        for file in self.folder.rglob("*"):
            name = text(str(file.relative_to(self.folder)), self.folder)
            name = re.sub(r"/(code|shards|logs|tensorboard|rows)/.*", r"/\1/...", name)
            if file.is_file() and not re.search(r"(^|/)(lease|caches)/|\.lock$|\.tmp", name):
                found.add(name)
        return found


LOOK = f"""
recipes
render toy
render cifar10 train.steps=5
render toy --comments
explain train.ema
explain sampling
--version
--show-completion
status --json
usage --json
submit toy --dry-run --name dry {DEBUG}
submit toy --dry-run --name dry {LOCAL} --eval elbo
submit toy --dry-run --name dry --cluster slurm --sweep train.seed=0,1
doctor {LOCAL} --json
"""
# From pictures to an FID, and from a published checkpoint to a file of weights.
IMAGES = f"""
submit small.yaml {DEBUG}
{PREPARE}
{PREPARE} --size 16
data verify set
data stats small.yaml {TINY} --features --shards 2 -o stats.npz {DEBUG}
submit small.yaml {TINY} eval.fid.stats=stats.npz --name images --eval fid {DEBUG}
eval images --fid --kid --loss eval.kid.subset_size=10 --shards 2 {DEBUG}
sample images -n 4 -o images.npz
status images --json
import {PUBLISHED} --recipe small.yaml --name published train.steps=2
import {PUBLISHED} --recipe small.yaml --name published
import {PUBLISHED} --recipe toy --name other
resume published {DEBUG}
export published -o published.safetensors
report images
"""
# A run from its submission to its report, a sweep, a tuning, a comparison.
TOYS = f"""
submit toy_diamond {ONE} {DEBUG} --name done --tag first --note 'a note' --eval elbo,loss
submit toy_diamond {ONE} {LOCAL} --name local --follow
submit toy_diamond {ONE} {DEBUG} --name pair --sweep train.seed=0,1 --eval elbo
submit toy {ONE} {DEBUG} --name bad optim.lr=1e30
eval done --elbo --loss {DEBUG}
eval done --w2 --density --checkpoint 10 --shards 3 {LOCAL} --follow
eval done --w2 --sweep sampling.nfe=2,4 sampling.method=em {DEBUG}
eval --compare done pair-seed1 --json
compare pair done
compare pair done --json
tune done --nfe 2 --points 8 --budget 0 {DEBUG} --json
bench samplers done {BENCH} --dry-run
bench samplers done {BENCH} {DEBUG} --json --csv b.csv --plot b.png
sample done {FEW}
sample done {FEW} -o toy.npz
sample done --method tuned --nfe 2 -n 6 -o toy.png
export done -o toy.safetensors
export done --card card
logs local
logs local --attempt 0 --rank 0 --tail 3
resume local train.steps=30 {DEBUG}
resume local --from 10 {DEBUG}
note done 'another note' --tag second --untag first
why bad --json
why done
status
status done
status --all --json
status --json --state FINISHED --tag second
status --json --group pair
usage pair local --json
usage
report done -o done.html
report --all
prune local --dry-run
prune local --yes
rm pair --yes
"""


def options():
    """The options and arguments of all commands."""

    def walk(command, name):
        for inner, below in getattr(command, "commands", {}).items():
            yield from walk(below, f"{name} {inner}".strip())
        used = sorted(
            option
            for parameter in command.params
            for option in parameter.opts
            if option.startswith("-")
        )
        arguments = [
            parameter.name
            for parameter in command.params
            if parameter.param_type_name == "argument"
        ]
        yield name, {"options": used, "arguments": arguments}

    return dict(walk(typer.main.get_command(command_line()), ""))


def make(out):
    """Write the record of the code that is imported here."""
    with tempfile.TemporaryDirectory(prefix="interface-") as name:
        here = Path(name).resolve()
        os.environ |= {"CLDCTL_CACHE": f"{here}/caches", "XDG_CONFIG_HOME": f"{here}/caches"}
        os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        torch.set_num_threads(1)
        record = Record(here)
        with contextlib.chdir(here):
            (here / "small.yaml").write_text(SMALL_IMAGES)
            record.all(LOOK, IMAGES, TOYS)
        whole = {"commands": record.commands, "options": options()}
    out.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")


def flat(value, path=""):
    """Each leaf of a record with the way to it; texts of a list have no order, so that one more is
    one difference."""
    if value and isinstance(value, list) and all(isinstance(inner, str) for inner in value):
        yield from ((f"{path} / {inner}", "listed") for inner in value)
    elif value and isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(inner, f"{path} / {name}" if path else str(name))
    else:
        yield path, value


def differences(old, new):
    """What differs between two records, beyond rounding."""
    a, b = (dict(flat(json.loads(file.read_text()))) for file in (old, new))

    def same(path):
        x, y = a.get(path, "missing"), b.get(path, "missing")
        return x == y or (
            isinstance(x, float) and isinstance(y, float) and math.isclose(x, y, rel_tol=1e-5)
        )

    return [
        f"{path}: {a.get(path, 'missing')!r} -> {b.get(path, 'missing')!r}"
        for path in sorted({*a, *b})
        if not same(path)
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compare"]:
        told = differences(Path(sys.argv[2]), Path(sys.argv[3]))
        print("\n".join(told) or "no differences")
        sys.exit(bool(told))
    make(Path(sys.argv[1]).resolve())

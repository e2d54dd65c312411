"""A run that is killed in the middle of a step ends as one that never was."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from cld_core.checkpoint.load import load
from cld_core.config import Recipe
from cld_core.run import RunFolder

from . import states
from .findings import Context, Finding, judged
from .setups import image_recipe

_STEPS, _EVERY, _KILLED_AT = 8, 3, 5
_LIMIT_S = 300.0
# Of the way that training goes after the kill. Where a kernel is not deterministic, runs differ by rounding, which Adam
# amplifies where gradients are nearly zero. Lost moments, a lost average, or other noise make 8 times this.
_TOLERANCE = 2.0**-7
_SETTINGS = (
    # Without it there is one form of upsampling. Of several, the fastest would be chosen, and not always the same.
    "network.fir=false",
    "train.channels_last=true",
    f"train.steps={_STEPS}",
    f"train.checkpoint_every={_EVERY}",
    "train.on_resume=exact",
    "train.compile=false",
    "train.milestone_every=null",
    "periodic.samples_every=null",
    "periodic.elbo_every=null",
    # A rate at which a few steps matter.
    "optim.lr=1e-3",
    "optim.warmup_steps=0",
)


def check(context: Context) -> Finding:
    """Two runs of processes of their own, one of them with SIGKILL and a second attempt."""
    # CPUs compute float16 slowly.
    shallow = ("train.precision=fp32",) if context.small else ("network.blocks=1",)
    recipe = image_recipe(context, "cifar10", *shallow, *_SETTINGS)
    with tempfile.TemporaryDirectory(dir=context.work) as name:
        whole, killed = (_folder(Path(name) / run, recipe) for run in ("whole", "killed"))
        attempts = ((whole, ()), (killed, ("--at", str(_KILLED_AT))), (killed, ()))
        for number, (folder, options) in enumerate(attempts):
            code, last_line = _run(folder, *options)
            wanted = -signal.SIGKILL if options else 0
            if code != wanted:
                text = f"attempt {number} of 3 ended with {code}, not {wanted}: {last_line}"
                return Finding("fail", text, "Run `python -m cld_core.train` with a small recipe to see why.")
        first = killed.ledger.history().attempts[-1].first_step
        found, expected = (states.parts(load(folder, _STEPS)) for folder in (killed, whole))
        start = states.parts(load(whole, _EVERY))
    text = f"killed in step {_KILLED_AT} and resumed from step {first}"
    if first != _EVERY:
        return Finding("fail", f"{text}, not from its checkpoint of step {_EVERY}", "Report it.")
    different = states.changed(found, expected)
    if not different:
        return Finding("ok", f"{text}: equal to an uninterrupted run to the last bit")
    errors = {part: states.difference(found[part], expected[part], start[part]) for part in different}
    differences = ", ".join(f"{part} by {100 * error:.2g} %" for part, error in errors.items())
    text += f": differs from an uninterrupted run in {differences} of the distance trained"
    text += f" (at most {100 * _TOLERANCE:.2g} %)"
    good = context.on_gpu and all(error <= _TOLERANCE for error in errors.values())
    return judged(good, text, "A resumed run is another run: report it with torch's version.")


def _folder(path: Path, recipe: Recipe) -> RunFolder:
    return RunFolder.create(path, recipe, {"created": 0.0})


def _run(folder: RunFolder, *options: str) -> tuple[int, str]:
    """Exit code and last line of a training process."""
    command = [sys.executable, "-P", "-m", f"{__package__}.killed", str(folder.path), *options]
    # cuBLAS is deterministic only with workspaces of fixed size.
    env = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_LIMIT_S)
    lines = (done.stderr or done.stdout).strip().splitlines()
    return done.returncode, lines[-1] if lines else "no output"

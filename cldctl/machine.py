"""Whether this machine is fit for runs: the part of `cldctl doctor` without a cluster.

Checks that need torch run in processes of their own, which a check of the GPU may end.
"""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cld_core import cpu
from cld_core.config import Recipe
from cld_core.errors import CldError

from . import config
from .clusters import local_processes
from .clusters.base import Check

TORCH_TIMEOUT_S = 120.0
# With less room than this, a few checkpoints fill the disk.
LITTLE_ROOM_BYTES = 5e9
_TORCH = """
import json, torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": names}))
"""
_IN_MEMORY = ("tmpfs", "ramfs")
# Far more seconds than the checks of a GPU should take (docs/gpu.md).
GPU_TIMEOUT_S = 600.0
# This command prints JSON objects, a line each: the card, then findings.
GPU_COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "cld_core.gpu")
_SRUN = "srun --gpus=1 --cpus-per-task=8 --mem=32G cldctl doctor --gpu --no-job"
_ELSEWHERE = f"Run it where the GPUs are; on Slurm: {_SRUN}"
_OTHERWISE = (
    "If this is where they are, install a torch that is built for CUDA and fits the driver."
)


def checks(runs: Path, recipe: Recipe | None, cluster: str) -> Iterator[Check]:
    """Checks of Python, the user's defaults, torch and the runs folder.

    With a recipe, also of its data and of the weights for its FIDs.

    Args:
        cluster: the name of the cluster that jobs go to.
    """
    yield Check("python", "ok", f"{platform.python_version()} on {platform.node()}")
    yield _defaults(cluster)
    yield _torch()
    yield _processor(recipe)
    yield _runs_folder(runs)
    if recipe is not None and (path := getattr(recipe.data, "path", None)) is not None:
        yield _data(recipe, path)
        yield _fid_weights(recipe.eval.fid.weights)


def _defaults(cluster: str) -> Check:
    """The user's own defaults, and where jobs go."""
    path = config.file()
    try:
        settings = config.read()
    except CldError as error:
        problem, _, advice = str(error).partition(". ")
        return Check("config", "fail", problem, advice)
    if path is None:
        found = "none: this user has no home folder"
    elif not path.exists():
        found = f"there is no {path}"
    else:
        values = ", ".join(f"{name}={value}" for name, value in settings.items())
        found = f"{path}: {values or 'nothing'}"
    return Check("config", "ok", f"{found}; jobs go to {cluster}")


def _torch() -> Check:
    answers, ending, is_cut = _answers((sys.executable, "-P", "-c", _TORCH), TORCH_TIMEOUT_S)
    if not answers or is_cut:
        return Check("torch", "fail", ending, "Reinstall torch.")
    answer = answers[-1]
    version = answer["version"]
    if gpus := answer["gpus"]:
        names = ", ".join(sorted(set(gpus)))
        return Check("torch", "ok", f"{version}, {len(gpus)} GPU(s): {names}")
    if shutil.which("nvidia-smi") and Path("/dev/nvidia0").exists():
        built = f"built for CUDA {answer['cuda']}" if answer["cuda"] else "built without CUDA"
        problem = f"{version} ({built}) does not see this machine's GPUs"
        advice = "Install a torch that fits the driver (nvidia-smi shows it)."
        return Check("torch", "fail", problem, advice)
    return Check("torch", "ok", f"{version}, no GPU on this machine")


def _processor(recipe: Recipe | None) -> Check:
    """The precisions that the processor computes in, and whether the recipe trains in one."""
    native = [name for name in ("bf16", "fp16") if not cpu.emulates(name)]
    found = f"computes in {', '.join(['fp32', *native])}"
    if recipe is None or recipe.cluster.uses_gpu or not cpu.emulates(recipe.train.precision):
        return Check("processor", "ok", found)
    warning = cpu.warning(recipe.train.precision, "the processor of this machine")
    problem, _, advice = warning.partition(". ")
    return Check("processor", "warn", problem, f"{advice}.")


def _runs_folder(runs: Path) -> Check:
    """Whether files can be written, linked (the lease) and locked (`resume`), and the free room."""
    kind, device = local_processes.file_system_of(runs)
    where = f"{runs.absolute()} on {kind}"
    if ":" in device:
        where += f" ({device})"
    advice = "Choose another --runs-dir, or set $CLDCTL_RUNS."
    try:
        with local_processes.scratch_folder(runs) as folder:
            problem = _missing_feature(Path(folder))
            room = shutil.disk_usage(folder).free
    except OSError as error:
        return Check("runs folder", "fail", f"{where}: {error.strerror}", advice)
    if problem:
        return Check("runs folder", "fail", f"{where}: {problem}", advice)
    text = f"{where}, {room / 1e9:.0f} GB free"
    if room < LITTLE_ROOM_BYTES:
        advice = "Make room, lower train.keep, or choose another --runs-dir."
        return Check("runs folder", "warn", text, advice)
    if kind in _IN_MEMORY:
        return Check("runs folder", "warn", f"{text}, in memory: gone after a restart", advice)
    return Check("runs folder", "ok", text)


def _missing_feature(folder: Path) -> str | None:
    try:
        (folder / "file").write_text("x")
        os.link(folder / "file", folder / "link")
    except OSError as error:
        return f"no hard links, which keep two jobs out of one run ({error.strerror})"
    try:
        with (folder / "file").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return f"no file locks, which keep two `resume` apart ({error.strerror})"
    return None


def _data(recipe: Recipe, path: object) -> Check:
    from cld_core.data import store

    try:
        store.require(recipe.data)
    except CldError as error:
        problem, _, advice = str(error).partition(". ")
        return Check(f"data {path}", "fail", problem, advice)
    return Check(f"data {path}", "ok", "prepared")


def _fid_weights(given: str | None) -> Check:
    """The weights for FIDs: the file ``given`` by the recipe, or the published one."""
    from cld_core.config.eval import PUBLISHED_SHA256, WEIGHTS_URL
    from cld_core.digests import digest_of
    from cld_core.evaluate.request import weights_path

    path = weights_path() if given is None else Path(given)
    if not path.is_file():
        fix = f"For FIDs, download {WEIGHTS_URL} to that path, or name a file in eval.fid.weights."
        return Check("FID weights", "warn", f"{path} does not exist", fix)
    if given is None and digest_of(path) != PUBLISHED_SHA256:
        fix = f"Download {WEIGHTS_URL} again."
        return Check("FID weights", "fail", f"{path} is a different file", fix)
    return Check("FID weights", "ok", str(path))


def gpu_checks(timeout_s: float = GPU_TIMEOUT_S) -> Iterator[Check]:
    """One check for the card, and one for each finding, in at most ``timeout_s`` seconds."""
    answers, ending, is_cut = _answers(GPU_COMMAND, timeout_s)
    first, *findings = answers or [{}]
    if first.get("card", "") is None:
        yield Check("gpu", "warn", "torch sees no card here", f"{_ELSEWHERE}. {_OTHERWISE}")
        return
    if first.get("checks") == len(findings) and not is_cut:
        yield Check("gpu", "ok", str(first["card"]))
    else:
        last = f" after the check '{findings[-1]['name']}'" if findings else ""
        yield Check("gpu", "fail", f"{ending}{last}", "`python -m cld_core.gpu` shows more.")
    for finding in findings:
        yield Check(
            f"gpu: {finding['name']}", finding["verdict"], finding["found"], finding["advice"]
        )


def _answers(command: Sequence[str], timeout_s: float) -> tuple[list[dict[str, Any]], str, bool]:
    """Run a command that prints JSON objects, a line each.

    Returns:
        The objects, one line about how the command ended, and whether it was cut off: killed, not
        started, or too slow.
    """
    output = ""
    is_cut = True
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **local_processes.safe_path()},
        )
        output = done.stdout
        is_cut = done.returncode < 0
        if is_cut:
            ending = f"killed by {signal.Signals(-done.returncode).name}"
        else:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            ending = f"ended with {done.returncode}: {reason}"
    except subprocess.TimeoutExpired as error:
        # Despite text=True, these are bytes.
        output = (error.stdout or b"").decode(errors="replace")
        ending = f"no answer within {timeout_s:.0f} s"
    except OSError as error:
        ending = str(error)
    answers = []
    for line in output.splitlines():
        # The last one may be cut short.
        with contextlib.suppress(ValueError):
            answers.append(json.loads(line))
    return [answer for answer in answers if isinstance(answer, dict)], ending, is_cut

"""Whether this machine is fit for runs: the part of `cldctl doctor` without a cluster. Loads no torch here."""

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cld_core.config import Recipe
from cld_core.errors import CldError

from . import config, file_system
from .clusters.records import Check
from .clusters.this_machine import safe_path

TORCH_TIMEOUT_S = 120.0
# With less room than this, a few checkpoints fill the disk.
LITTLE_ROOM_BYTES = 5e9
_TORCH = """
import json, torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": names}))
"""
_IN_MEMORY = ("tmpfs", "ramfs")


def checks(runs: Path, recipe: Recipe | None, cluster: str) -> Iterator[Check]:
    """Python, the user's defaults, torch and the runs folder; with a recipe its data and the weights for its FIDs.

    Args:
        cluster: the name of the one that is to be used.
    """
    yield Check("python", "ok", f"{platform.python_version()} on {platform.node()}")
    yield _defaults(cluster)
    yield _torch()
    yield _runs_folder(runs)
    if recipe is not None and (path := getattr(recipe.data, "path", None)) is not None:
        yield _data(recipe, path)
        yield _fid_weights(recipe.eval.fid.weights)


def _defaults(cluster: str) -> Check:
    """What the user's own defaults are, and where jobs go."""
    path = config.file()
    try:
        given = {name: value for name in config.KEYS if (value := getattr(config.read(), name)) is not None}
    except CldError as error:
        problem, _, advice = str(error).partition(". ")
        return Check("config", "fail", problem, advice)
    if path is None:
        found = "none: this user has no home folder"
    elif not path.exists():
        found = f"there is no {path}"
    else:
        found = f"{path}: {', '.join(f'{name}={value}' for name, value in given.items()) or 'nothing'}"
    return Check("config", "ok", f"{found}; jobs go to {cluster}")


def _torch() -> Check:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _TORCH],
            capture_output=True,
            text=True,
            timeout=TORCH_TIMEOUT_S,
            env={**os.environ, **safe_path()},
        )
        answer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return Check("torch", "fail", str(error), "Reinstall torch.")
    if answer is None:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return Check("torch", "fail", lines[-1], "Reinstall torch.")
    version, gpus = answer["version"], answer["gpus"]
    if gpus:
        return Check("torch", "ok", f"{version}, {len(gpus)} GPU(s): {', '.join(sorted(set(gpus)))}")
    if shutil.which("nvidia-smi") and Path("/dev/nvidia0").exists():
        built = f"built for CUDA {answer['cuda']}" if answer["cuda"] else "built without CUDA"
        advice = "Install a torch that fits the driver (nvidia-smi shows it)."
        return Check("torch", "fail", f"{version} ({built}) does not see this machine's GPUs", advice)
    return Check("torch", "ok", f"{version}, no GPU on this machine")


def _runs_folder(runs: Path) -> Check:
    """Whether files can be written, linked (the lease) and locked (`resume`) there, and how much room there is."""
    kind, device = file_system.kind_of(file_system.nearest_folder(runs))
    where = f"{runs.absolute()} on {kind}" + (f" ({device})" if ":" in device else "")
    advice = "Choose another --runs-dir, or set $CLDCTL_RUNS."
    try:
        with file_system.scratch_folder(runs) as folder:
            problem = _missing_feature(folder)
            room = shutil.disk_usage(folder).free
    except OSError as error:
        return Check("runs folder", "fail", f"{where}: {error.strerror}", advice)
    if problem:
        return Check("runs folder", "fail", f"{where}: {problem}", advice)
    text = f"{where}, {room / 1e9:.0f} GB free"
    if room < LITTLE_ROOM_BYTES:
        return Check("runs folder", "warn", text, "Make room, lower train.keep, or choose another --runs-dir.")
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
    """The weights that FIDs are computed with: those that the recipe names, or the published ones."""
    from cld_core.digests import digest_of
    from cld_core.evaluate import inception

    path = inception.weights_path() if given is None else Path(given)
    if not path.is_file():
        fix = f"For FIDs, download {inception.WEIGHTS_URL} to that path, or name a file in eval.fid.weights."
        return Check("FID weights", "warn", f"{path} does not exist", fix)
    if given is None and not inception.is_published(digest_of(path)):
        return Check("FID weights", "fail", f"{path} is a different file", f"Download {inception.WEIGHTS_URL} again.")
    return Check("FID weights", "ok", str(path))

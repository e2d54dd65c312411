"""Whether this machine and its Slurm are fit for runs: `cldctl doctor`'s checks. Loads no torch into this process."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cld_core.errors import CldError
from cld_core.recipe import Recipe
from cld_core.recipe.schema import ClusterSpec
from cld_core.run import RunFolder, find_runs

from . import launch, look, site, slurm
from .site import Judgement, Partition, Site

TORCH_TIMEOUT_S = 120.0
# Below this much room a few checkpoints fill the disk.
LITTLE_ROOM_BYTES = 5e9
# Names of so many nodes are looked up from a node.
MAX_HOSTS = 64
_TORCH = """
import json, torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": names}))
"""
_IN_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True)
class Check:
    """One line of the report: of what, ``verdict`` (ok, warn, fail), what was found, and what to do."""

    name: str
    verdict: str
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class JobOptions:
    """How to ask for the job that looks from a node; ``wait_s``: for how long to wait for it."""

    account: str | None = None
    wait_s: float = 120.0


def machine(runs: Path, recipes: Sequence[tuple[str, Recipe]]) -> Iterator[Check]:
    """This machine: Python, torch, the folder of the runs, data."""
    yield Check("python", "ok", f"{platform.python_version()} on {platform.node()}")
    yield _torch()
    yield _runs_dir(runs)
    yield from _data(recipes)
    yield _fid_weights()


def cluster(runs: Path, partition: str | None, job: JobOptions | None) -> Iterator[Check]:
    """The Slurm of this machine: all partitions or the one named; ``job``: also look from a node.

    The check "slurm" fails where there is no Slurm or it does not answer, and is the last then.
    """
    code, text = slurm.run_client(["scontrol", "show", "config"])
    if code != 0:
        said = text.strip().splitlines()[-1] if text.strip() else f"scontrol ended with {code}"
        yield Check("slurm", "fail", said, "Ask again later, or use --cluster local.")
        return
    found = site.parse_site(text)
    yield Check("slurm", "ok", f"{found.version}, cluster {found.cluster}")
    yield _check("requeue", site.requeueing(found))
    code, said = slurm.run_client(["sacct", "--allocations", "--noheader", "--starttime=now-1hours"])
    yield _check("accounting", site.accounting(found, code == 0, said.strip()))
    code, text = slurm.run_client(["scontrol", "--oneliner", "show", "partition"])
    partitions = site.parse_partitions(text) if code == 0 else []
    wanted = [entry for entry in partitions if partition in (None, entry.name)]
    if not wanted:
        there = ", ".join(entry.name for entry in partitions) or "none that you may see"
        yield Check("partitions", "fail", f"there is no partition {partition or ''}".strip(), f"There are: {there}.")
        return
    save_s, signal_s = slowest_save(runs)
    for entry in wanted:
        yield from _partition(entry, partitions, found, save_s, signal_s)
    if found.preempt_type == "qos":
        yield from _by_qos(found, save_s)
    if job is not None:
        chosen = next((entry for entry in wanted if entry.default), wanted[0])
        yield from _from_a_node(runs, chosen, job)


def slowest_save(runs: Path) -> tuple[float | None, int]:
    """Seconds of the slowest save of all runs, None before the first; and how early their jobs are told to stop."""
    every = find_runs(runs)
    saves = [launch.save_seconds(run, step) for run in every for step in run.checkpoint_steps()]
    notices = [launch.signal_seconds(run, ClusterSpec()) for run in every if run.checkpoint_steps()]
    return max(saves, default=None), max(notices, default=launch.signal_seconds(RunFolder(runs), ClusterSpec()))


def _partition(
    entry: Partition, every: Sequence[Partition], found: Site, save_s: float | None, signal_s: int
) -> Iterator[Check]:
    name = f"partition {entry.name}" + (" (default)" if entry.default else "")
    if not entry.up:
        yield Check(name, "warn", "is not up: jobs wait", "Use another partition, or ask the administrators.")
    yield _check(f"{name}: preemption", site.on_preemption(entry, every, found, save_s))
    yield _check(f"{name}: time limit", site.at_the_limit(entry, signal_s))


def _by_qos(found: Site, save_s: float | None) -> Iterator[Check]:
    columns = f"format={','.join(site.QOS_COLUMNS)}"
    code, text = slurm.run_client(["sacctmgr", "--noheader", "--parsable2", "show", "qos", columns])
    every = site.parse_qos(text) if code == 0 else []
    if not every:
        said = text.strip().splitlines()[-1] if text.strip() else "it lists none"
        advice = "Ask the administrators which QOS preempts yours, and for its GraceTime."
        yield Check("QOS: preemption", "warn", f"sacctmgr does not say which QOS there are: {said}", advice)
    for entry in every:
        yield _check(f"QOS {entry.name}: preemption", site.on_preemption_by_qos(entry, every, found, save_s))


def _from_a_node(runs: Path, chosen: Partition, job: JobOptions) -> Iterator[Check]:
    """The folder, Python and names, seen from a node by a small job."""
    options = [f"--partition={chosen.name}", *([f"--account={job.account}"] if job.account else [])]
    code, text = slurm.run_client(["scontrol", "show", "hostnames", chosen.nodes])
    hosts = text.split()[:MAX_HOSTS] if code == 0 else []
    try:
        with _folder_in(runs) as folder:
            seen = look.from_a_node(folder, hosts, options, job.wait_s)
    except OSError as error:
        yield Check("a job on a node", "fail", str(error), "Mend the folder, or choose another --runs-dir.")
        return
    name, number = "a job on a node", f"job {seen.job_id}"
    if seen.how == "answered":
        node = seen.answer["node"] or seen.answer["host"]
        yield Check(name, "ok", f"{number} ran on {node}, Python {seen.answer['python']}")
        # A node that is this machine proves nothing about the others.
        here = ", but that node is this machine" if seen.answer["host"] == platform.node() else ""
        found = f"seen and written there ({seen.answer['file_system']}){here}"
        yield Check("runs folder on a node", "ok", found)
        yield _names(seen.answer["unresolved"], len(hosts))
        yield _requeueable(seen.job)
        return
    shared = "Put the runs on a file system that all nodes have (--runs-dir, or $CLDCTL_RUNS)."
    yield {
        "refused": Check(name, "fail", f"sbatch: {seen.said}", "Name --partition or --account, or skip it: --no-job."),
        "waiting": Check(name, "warn", f"{number} did not run ({seen.said})", "Ask for longer: --wait SECONDS."),
        "not_shared": Check("runs folder on a node", "fail", f"{number} does not see {runs.absolute()}", shared),
        "unseen": Check("runs folder on a node", "fail", f"what {number} wrote is not seen here", shared),
        "no_python": Check(name, "fail", f"{number} has no {sys.executable}", "Install it where all nodes see it."),
        "no_cldctl": Check(name, "fail", f"{number} cannot load cldctl", "Install it where all nodes see it."),
    }.get(seen.how) or Check(name, "fail", f"{number}: {seen.said}", "Ask the administrators, or skip it: --no-job.")


def _names(unresolved: Sequence[str], count: int) -> Check:
    if unresolved:
        shown = ", ".join(unresolved[:5]) + (" ..." if len(unresolved) > 5 else "")
        advice = "Jobs of several nodes cannot meet there; ask the administrators, or use cluster.nodes=1."
        return Check("MASTER_ADDR", "fail", f"names that a node cannot resolve: {shown}", advice)
    return Check("MASTER_ADDR", "ok", f"the names of {count} nodes resolve there")


def _requeueable(job: dict[str, str]) -> Check:
    if job.get("Requeue", "1") == "1":
        return Check("--requeue", "ok", "accepted")
    advice = "A job that is preempted or loses a node does not come back; set cluster.successor=true."
    return Check("--requeue", "fail", "this cluster drops it", advice)


def _torch() -> Check:
    try:
        done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=TORCH_TIMEOUT_S)
        found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return Check("torch", "fail", str(error), "Install torch anew.")
    if found is None:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return Check("torch", "fail", said[-1], "Install torch anew.")
    gpus = found["gpus"]
    if gpus:
        return Check("torch", "ok", f"{found['version']}, {len(gpus)} GPU(s): {', '.join(sorted(set(gpus)))}")
    if shutil.which("nvidia-smi") and Path("/dev/nvidia0").exists():
        built = f"built for CUDA {found['cuda']}" if found["cuda"] else "built without CUDA"
        advice = "Install a torch that fits the driver (nvidia-smi shows it)."
        return Check("torch", "fail", f"{found['version']} ({built}) does not see this machine's GPUs", advice)
    return Check("torch", "ok", f"{found['version']}, no GPU on this machine")


def _runs_dir(runs: Path) -> Check:
    """Whether files can be written, linked (the lease) and locked (`resume`) where runs lie, and how much room is."""
    kind, device = look.file_system(_existing(runs))
    where = f"{runs.absolute()} on {kind}" + (f" ({device})" if ":" in device else "")
    advice = "Choose another --runs-dir, or set $CLDCTL_RUNS."
    try:
        with _folder_in(runs) as folder:
            problem = _cannot(folder)
            room = shutil.disk_usage(folder).free
    except OSError as error:
        return Check("runs folder", "fail", f"{where}: {error.strerror}", advice)
    if problem:
        return Check("runs folder", "fail", f"{where}: {problem}", advice)
    found = f"{where}, {room / 1e9:.0f} GB free"
    if room < LITTLE_ROOM_BYTES:
        return Check("runs folder", "warn", found, "Make room, lower train.keep, or choose another --runs-dir.")
    if kind in _IN_MEMORY:
        return Check("runs folder", "warn", f"{found}, in memory: gone after a restart", advice)
    return Check("runs folder", "ok", found)


def _cannot(folder: Path) -> str | None:
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


def _data(recipes: Sequence[tuple[str, Recipe]]) -> Iterator[Check]:
    """One check for each place where recipes expect data."""
    from cld_core.data import presence

    places: dict[str, tuple[Recipe, list[str]]] = {}
    for name, recipe in recipes:
        if (path := getattr(recipe.data, "path", None)) is not None:
            places.setdefault(str(path), (recipe, []))[1].append(name)
    for path, (recipe, names) in places.items():
        found = f"for {', '.join(names)}"
        try:
            presence.require(recipe.data)
        except CldError as error:
            problem, _, advice = str(error).partition(". ")
            yield Check(f"data {path}", "warn", f"{found}: {problem}", advice)
        else:
            yield Check(f"data {path}", "ok", found)


def _fid_weights() -> Check:
    """The weights that FIDs are computed with unless a recipe names others."""
    from cld_core.evaluation import inputs

    path = inputs.weights_path()
    if not path.is_file():
        fix = f"For FIDs download {inputs.WEIGHTS_URL} to there, or name a file in eval.fid.weights."
        return Check("FID weights", "warn", f"{path} is not there", fix)
    if not inputs.is_published(inputs.digest_of(path)):
        return Check("FID weights", "fail", f"{path} is another file", f"Download {inputs.WEIGHTS_URL} again.")
    return Check("FID weights", "ok", str(path))


@contextlib.contextmanager
def _folder_in(runs: Path) -> Iterator[Path]:
    """A folder for a while where runs lie, or will lie."""
    with tempfile.TemporaryDirectory(prefix=".cldctl-doctor-", dir=_existing(runs), ignore_cleanup_errors=True) as name:
        yield Path(name)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that there is."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _check(name: str, judgement: Judgement) -> Check:
    return Check(name, judgement.verdict, judgement.found, judgement.advice)

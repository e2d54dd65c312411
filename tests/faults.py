"""Seeded faults: does the suite notice when one of the promises is broken?

By hand: ``python -m tests.faults [NAME ...] [--full]``. Each fault is a patch of a line, which is found by its text in
cld_core/ and cldctl/, wherever that is. A copy of the repository is patched and the tests that are likely to notice are
run; with ``--full`` the whole suite, if those did not. A fault whose text is gone has to be rewritten for the code that
keeps the promise now. It ends with 1 if a fault is not caught that was caught once (`Fault.caught`).
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("cld_core", "cldctl")
# What the copy does without.
LEFT_OUT = (".git", ".venv", "*_cache", "__pycache__", "build", "runs", "demo-runs", "*.egg-info")
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-n", "0", "-m", "not slurm and not slow and not gpu")
# Seconds; a fault that lets a test hang is caught.
WITHIN_S, FULL_WITHIN_S = 600, 3600


@dataclass(frozen=True)
class Fault:
    """A broken promise.

    Attributes:
        old, new: the text that is replaced, which is in one file only and there once, and what by.
        tests: files and folders that are likely to catch it; what is not there is left out.
        caught: whether the suite has caught it when the fault was written.
    """

    name: str
    promise: str
    old: str
    new: str
    tests: tuple[str, ...]
    caught: bool = True


CORE, CTL = "tests/cld_core", "tests/cldctl"
FAULTS = (
    Fault(
        "kernel",
        "CLD: the covariance of the kernel",
        "noise_xy = z * b * decay2",
        "noise_xy = 0.99 * z * b * decay2",
        (f"{CORE}/sde/test_sde.py",),
    ),
    Fault(
        "target",
        "score matching: the network predicts the noise that was drawn",
        "error = predicted - self.sde.scored(draws.noise)",
        "error = predicted + self.sde.scored(draws.noise)",
        (f"{CORE}/test_score_and_loss.py",),
    ),
    Fault(
        "mixed-score",
        "mixed score: the known part has its sign",
        "else torch.sub(score, apply(precision",
        "else torch.add(score, apply(precision",
        (f"{CORE}/test_score_and_loss.py",),
    ),
    Fault(
        "importance-of-t",
        "importance sampling of t does not change the weights",
        "weighted = weighted * spread(draws.importance, weighted)",
        "weighted = weighted",
        (f"{CORE}/test_score_and_loss.py",),
    ),
    Fault(
        "euler-maruyama",
        "Euler-Maruyama: the amount of noise",
        "half.add_(e, alpha=math.sqrt(rate * dt))",
        "half.add_(e, alpha=math.sqrt(0.9 * rate * dt))",
        (f"{CORE}/sampling/test_sampling.py",),
    ),
    Fault(
        "multistep-order",
        "exponential multistep: the order of convergence",
        "weights(times[1 : order + 2])",
        "weights(times[1 : min(order, 1) + 2])",
        (f"{CORE}/sampling/test_exponential.py",),
    ),
    Fault(
        "sscs-halves",
        "SSCS of order 2: the score acts over the whole step",
        "add(scored, whole.weight, alpha)",
        "add(scored, half.weight, alpha)",
        (f"{CORE}/sampling/test_sampling.py",),
    ),
    Fault(
        "eta",
        "samplers with noise: the score is as strong as the noise needs",
        "0.5 * (1.0 + eta * eta) * rate",
        "0.5 * (1.0 + eta) * rate",
        (f"{CORE}/sampling/test_exponential.py", f"{CORE}/sampling/test_gddim.py"),
    ),
    Fault(
        "guidance",
        "classifier-free guidance: 1 is the conditional score",
        "free + self._spec.guidance * (given[rows] - free)",
        "given[rows] + self._spec.guidance * (given[rows] - free)",
        (f"{CORE}/test_guidance.py",),
    ),
    Fault(
        "hutchinson",
        "likelihood: the trace is estimated without bias",
        "total = total + (probed * probe)",
        "total = total - (probed * probe)",
        (f"{CORE}/test_likelihood.py",),
    ),
    Fault(
        "entropy",
        "likelihood: the bound has the log-density of the velocities",
        "return (self.log_joint - self.log_q).mean(1)",
        "return self.log_joint.mean(1)",
        (f"{CORE}/test_likelihood.py", f"{CORE}/test_api.py"),
    ),
    Fault(
        "importance-bound",
        "importance-weighted bound: a mean over velocities, not a sum",
        "dim=1) - math.log(self.log_joint.shape[1])",
        "dim=1)",
        (f"{CORE}/test_likelihood.py",),
    ),
    Fault(
        "fid-merge",
        "FID: shards merge exactly",
        "scatter + between.T @ between",
        "scatter",
        (f"{CORE}/evaluation/test_features.py",),
    ),
    Fault(
        "quantisation",
        "FID: samples are rounded to grey levels",
        "(levels if floor else levels + 0.5)",
        "(levels + 0.5 if floor else levels)",
        (f"{CORE}/data/test_images.py",),
    ),
    Fault(
        "keyed-samples",
        "sample i is the same in whatever batch",
        "start = first - blocks[0] * SAMPLE_BLOCK",
        "start = 0",
        (f"{CORE}/test_seeds.py", f"{CORE}/test_api.py"),
    ),
    Fault(
        "one-origin",
        "shards of different origins are not merged",
        "if origins[0].get(name) != value:",
        "if False:",
        (f"{CORE}/shards/test_shards.py",),
    ),
    Fault(
        "only-missing",
        "an evaluation that is run again computes only what is missing",
        "return [] if self.is_done else self.missing() or [0]",
        "return list(range(self.request.shards))",
        (f"{CORE}/shards", f"{CTL}/runs/test_evaluate.py", f"{CTL}/jobs/test_shards.py"),
    ),
    Fault(
        "reseed",
        "train.on_resume=reseed: fresh noise after a restart",
        'self.attempt if self.recipe.train.on_resume == "reseed" else 0',
        "0",
        (f"{CORE}/train/test_session.py",),
    ),
    Fault(
        "exact-resume",
        "train.on_resume=exact: the state is all that the next step depends on",
        "optim.load(self.optimiser, state[",
        "(self.optimiser, state[",
        (f"{CORE}/train/test_step.py",),
    ),
    Fault(
        "global-batch",
        "the result does not depend on the number of ranks",
        "(self.ranks.world_size / train.batch_size)",
        "(1 / train.batch_size)",
        (f"{CORE}/train/test_step.py", f"{CORE}/train/test_parallel.py"),
    ),
    Fault(
        "consensus",
        "all ranks stop at the same step if one is asked to",
        "op=torch.distributed.ReduceOp.MAX, group=self._ranks.control",
        "op=torch.distributed.ReduceOp.MIN, group=self._ranks.control",
        (f"{CORE}/test_ranks_as_processes.py", f"{CORE}/train/test_session.py"),
    ),
    Fault(
        "ema",
        "the average of the weights forgets the start soon",
        "decay = min(self.decay, (1 + updates) / (10 + updates))",
        "decay = self.decay",
        (f"{CORE}/test_ema.py",),
    ),
    Fault(
        "clip",
        "optim.grad_clip limits the gradient",
        "clip if clip is not None else math.inf",
        "math.inf",
        (f"{CORE}/train/test_step.py", f"{CORE}/train/test_bad_gradients.py"),
    ),
    Fault(
        "checksum",
        "a damaged checkpoint is noticed",
        "if checksum(path) != sidecar.sha256:",
        "if False:",
        (f"{CORE}/checkpoint/test_verify.py", f"{CORE}/checkpoint/test_write.py"),
    ),
    Fault(
        "checkpoint-before",
        "if the newest checkpoint is damaged, the one before is used",
        "in _verified(folder, reversed(folder.listed_steps(unfinished=True)))",
        "in _verified(folder, folder.listed_steps(unfinished=True)[-1:])",
        (f"{CORE}/checkpoint/test_verify.py", f"{CORE}/train/test_session.py"),
    ),
    Fault(
        "atomic",
        "a file that is replaced is never half there",
        "temporary.unlink(missing_ok=True)\n        raise",
        "temporary.replace(path)\n        raise",
        (f"{CORE}/run/test_atomic.py",),
    ),
    Fault(
        "fencing",
        "a process that has lost the run writes no checkpoint",
        "            check_owner()\n        sidecar",
        "            pass\n        sidecar",
        (f"{CORE}/checkpoint/test_write.py", f"{CORE}/train/test_session.py"),
    ),
    Fault(
        "one-writer",
        "one writer per run",
        "raise LeaseHeldError(held_message(folder.parent, holder))",
        "pass",
        (f"{CORE}/run/test_lease.py",),
    ),
    Fault(
        "prune",
        "milestones are kept",
        "if not milestone(step) and step not in needed:",
        "if step not in needed:",
        (f"{CORE}/checkpoint/test_prune.py", f"{CORE}/checkpoint/test_write.py"),
    ),
    Fault(
        "budget",
        "retries are counted by cause: a preemption costs none",
        'CRASHES: tuple[Cause, ...] = ("crashed",',
        'CRASHES: tuple[Cause, ...] = ("crashed", "preempted",',
        (f"{CTL}/jobs/test_aftermath.py",),
    ),
    Fault(
        "cancel-wins",
        "a job that is cancelled does not requeue itself",
        "if told_to_end() and job.is_cancelled():",
        "if False:",
        (f"{CTL}/jobs/test_train.py", f"{CTL}/jobs/test_aftermath.py"),
    ),
    Fault(
        "array-task",
        "a task of an array requeues itself, not the array",
        'return f"{array}_{task}" if array and task else',
        "return array if array and task else",
        (f"{CTL}/clusters/slurm/test_inside.py",),
    ),
    Fault(
        "setup-limit",
        "a time limit that falls into the setup lines is heard",
        '"trap cldctl_told_to_end TERM",',
        '"true",',
        (f"{CTL}/clusters/slurm/test_script.py",),
    ),
    Fault(
        "polling",
        "Slurm is asked at most every 30 s",
        "EVERY_S = 30.0",
        "EVERY_S = 0.0",
        (f"{CTL}/clusters/slurm/test_asking.py",),
    ),
    Fault(
        "bad-nodes",
        "a node on which a run crashed twice is avoided",
        "counts[node] >= FAILURES",
        "counts[node] > FAILURES",
        (f"{CTL}/jobs/test_nodes.py",),
    ),
    Fault(
        "lost",
        "a run whose job is gone without a message is LOST",
        'Row("LOST", _VANISHED, ',
        'Row("RUNNING", _VANISHED, ',
        (f"{CTL}/runs/test_state.py",),
    ),
    Fault(
        "hook-limit",
        "a hook is ended after its time limit",
        "_followed(process, began + timeout_s, timeout_s)",
        "_followed(process, began + 900, timeout_s)",
        (f"{CTL}/jobs/test_hook_call.py",),
    ),
    Fault(
        "exit-3",
        "exit code 3: no such run or checkpoint",
        "exit_code = 3",
        "exit_code = 1",
        (f"{CTL}/cli/test_refusals.py", f"{CTL}/cli/test_commands.py"),
    ),
    Fault(
        "exit-5",
        "exit code 5: the run that was followed ended cancelled",
        'return 5 if row.state == "CANCELLED" else 1',
        "return 1",
        (f"{CTL}/show/test_follow.py",),
    ),
    Fault(
        "escapes",
        "control characters of others do not reach the terminal",
        '_ESCAPES.sub("", text)',
        "text",
        (f"{CORE}/test_texts.py",),
    ),
    Fault(
        "plugins",
        "code of a folder that others can write does not run without --allow-plugin",
        "if real.exists() and (problem := shared_with(real.stat())) is not None:",
        "if False:",
        (f"{CORE}/run/test_trust.py",),
    ),
    Fault(
        "private-code",
        "folders that a job runs code from are not group-writable",
        "os.umask(before | 0o022)",
        "os.umask(before)",
        (f"{CTL}/runs/test_snapshot.py",),
    ),
    Fault(
        "damaged-run",
        "a damaged run spoils no other row",
        'problem = f"its files cannot be read: {one_line(error) or type(error).__name__}"',
        "raise",
        (f"{CTL}/runs/test_damaged_neighbours.py",),
    ),
    Fault(
        "wrong-key",
        "an override of a wrong key is refused, and the nearest one is named",
        "check_keys(layer.keys, tree, where)",
        "pass",
        (f"{CORE}/recipe/test_loading.py",),
    ),
    Fault(
        "remove-live",
        "a run that is alive is not removed",
        "if status.state not in OVER:",
        "if False:",
        (f"{CTL}/runs/test_removal.py",),
    ),
)


def find(folder: Path, text: str) -> Path | None:
    """The one file of the packages that has a text, once; None if there is none."""
    counts = {file: file.read_text().count(text) for name in PACKAGES for file in (folder / name).rglob("*.py")}
    return next((file for file in counts if counts[file]), None) if sum(counts.values()) == 1 else None


def failing(copy: Path, tests: tuple[str, ...], within_s: float) -> str | None:
    """The first test that fails in a copy; None if none does."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *PYTEST, *tests]
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=within_s)
    except subprocess.TimeoutExpired:
        return "it hangs"
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    # 5: no test was selected.
    return found[1] if found else None if done.returncode in (0, 5) else done.stdout.strip()[-200:]


def verdict(fault: Fault, copy: Path, *, full: bool) -> tuple[bool | None, str]:
    """Whether a fault is caught, and by which test; None if it cannot be told."""
    file = find(copy, fault.old)
    if file is None:
        return None, "its text is gone, or there more than once: rewrite it"
    package = file.relative_to(copy).parts[0]
    likely = tuple(path for path in fault.tests if (copy / path).exists()) or (f"tests/{package}",)
    text, before = file.read_text(), file.stat()
    try:
        file.write_text(text.replace(fault.old, fault.new))
        test = failing(copy, likely, WITHIN_S)
        if test is None and full:
            test = failing(copy, (), FULL_WITHIN_S)
    finally:
        file.write_text(text)
        # Of compiled files Python compares the times, in seconds.
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    if test is None:
        return False, f"NOT CAUGHT by {'any test' if full else ', '.join(likely)}"
    if "::" in test and failing(copy, (test,), WITHIN_S) is not None:
        return None, f"{test} fails without the fault, too"
    return True, test


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults; default: all")
    parser.add_argument("--full", action="store_true", help="run the whole suite if the likely tests catch nothing")
    given = parser.parse_args()
    if unknown := set(given.names) - {fault.name for fault in FAULTS}:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(it.name for it in FAULTS)}")
    worse = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(ROOT, Path(folder) / "copy", ignore=shutil.ignore_patterns(*LEFT_OUT)))
        for fault in FAULTS:
            if not given.names or fault.name in given.names:
                caught, why = verdict(fault, copy, full=given.full)
                worse += fault.caught and caught is not True
                print(f"{fault.name:18} {'-' if caught is None else 'yes' if caught else 'no':4} {why}", flush=True)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())

"""Seeded faults: does the suite notice when one of the promises is broken?

By hand: ``python -m tests.faults [NAME ...]``. Each fault is a patch of a line, which is found by
its text in cld_core/ and cldctl/, wherever that is. A copy of the repository is patched, and the
tests that are likely to notice are run. A fault whose text is gone has to be rewritten for the code
that keeps the promise now. The exit code is 1 if a fault is not caught.

With ``--check``, no test is run: it says within a second whether the text of each fault is still
there, exactly once. Use it after code was rewritten.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("cld_core", "cldctl")
# Entries of the repository's own folder that the copy does not need.
LEFT_OUT = (
    ".git",
    ".venv",
    ".ruff_cache",
    ".mypy_cache",
    ".pytest_cache",
    "build",
    "runs",
    "demo-runs",
)
PYTEST = (
    "-x",
    "-q",
    "-p",
    "no:cacheprovider",
    "-n",
    "0",
    "-m",
    "not slurm and not slow and not gpu and not by_hand",
)
# Seconds for the tests of a fault; if one hangs, the fault is caught.
WITHIN_S = 600
GONE = "its text is gone, or there more than once: rewrite it"


# Four lines each: name and promise, the text, what replaces it, the likely tests.
TABLE = """
kernel: CLD: the covariance of the kernel
  - noise_xv = mixing2 * b
  + noise_xv = 0.99 * mixing2 * b
  tests/cld_core/sde/test_sde.py
target: score matching: the network predicts the noise that was drawn
  - error = predicted - self.sde.scored(draws.noise)
  + error = predicted + self.sde.scored(draws.noise)
  tests/cld_core/test_score_and_loss.py
mixed-score: mixed score: the known part has its sign
  - torch.sub(score, apply(factors.precision
  + torch.add(score, apply(factors.precision
  tests/cld_core/test_score_and_loss.py
importance-of-t: importance sampling of t does not change the weights
  - weighted = weighted * spread(draws.importance, weighted)
  + weighted = weighted
  tests/cld_core/test_score_and_loss.py
euler-maruyama: Euler-Maruyama: the amount of noise
  - half.add_(e, alpha=std)
  + half.add_(e, alpha=0.95 * std)
  tests/cld_core/samplers/test_sampling.py
multistep-order: exponential multistep: the order of convergence
  - past[: order + 1])
  + past[: min(order, 1) + 1])
  tests/cld_core/samplers/test_exponential.py
sscs-halves: SSCS of order 2: the score acts over the whole step
  - scored.copy_(apply(whole, torch.cat([start, alpha]
  + scored.copy_(apply(half, torch.cat([start, alpha]
  tests/cld_core/samplers/test_sampling.py
eta: samplers with noise: the score is as strong as the noise needs
  - 0.5 * (1.0 + eta * eta) * sde.diffusion2(t)
  + 0.5 * (1.0 + eta) * sde.diffusion2(t)
  tests/cld_core/samplers/test_exponential.py tests/cld_core/samplers/test_splitting.py
guidance: classifier-free guidance: 1 is the conditional score
  - free + self._spec.guidance * (given[rows] - free)
  + given[rows] + self._spec.guidance * (given[rows] - free)
  tests/cld_core/test_guidance.py
hutchinson: likelihood: the trace is estimated without bias
  - total = total + (sde.scored(product) * direction)
  + total = total - (sde.scored(product) * direction)
  tests/cld_core/test_likelihood.py
entropy: likelihood: the bound has the log-density of the velocities
  - return (self.log_joint - self.log_q).mean(1)
  + return self.log_joint.mean(1)
  tests/cld_core/test_likelihood.py tests/cld_core/test_model.py
importance-bound: importance-weighted bound: a mean over velocities, not a sum
  - torch.logsumexp(weights, dim=1) - math.log(weights.shape[1])
  + torch.logsumexp(weights, dim=1)
  tests/cld_core/test_likelihood.py
fid-merge: FID: shards merge exactly
  - scatter += np.outer(between, between * (n * len(rows) / total))
  + scatter += 0.0
  tests/cld_core/evaluate/test_features.py
quantisation: FID: samples are rounded to grey levels
  - (levels if floor else levels + 0.5)
  + (levels + 0.5 if floor else levels)
  tests/cld_core/data/test_batches.py
keyed-samples: sample i is the same in whatever batch
  - start = first - blocks[0] * SAMPLE_BLOCK
  + start = 0
  tests/cld_core/test_seeds.py tests/cld_core/test_model.py
one-origin: rows of different checkpoints are not mixed
  - if self._places() != self._rows:
  + if False:
  tests/cld_core/test_shards.py
damaged-chunk: a chunk that is not what was written is computed again
  - if not arrays or any(values.shape[:1] != (length,) for values in arrays.values()):
  + if False:
  tests/cld_core/test_shards.py
only-missing: an evaluation that is run again computes only what is missing
  - return [] if self.is_done else self.missing() or [0]
  + return list(range(self.request.shards))
  tests/cld_core/test_shards.py tests/cldctl/runs/test_evaluate.py tests/cldctl/jobs/test_train.py
reseed: train.on_resume=reseed: fresh noise after a restart
  - self.attempt if self.recipe.train.on_resume == "reseed" else 0
  + 0
  tests/cld_core/train/test_session.py
exact-resume: train.on_resume=exact: the state is all that the next step depends on
  - optim.load(self.optimiser, state[
  + (self.optimiser, state[
  tests/cld_core/train/test_session.py
global-batch: the result does not depend on the number of ranks
  - (self.ranks.world_size / train.batch_size)
  + (1 / train.batch_size)
  tests/cld_core/train/test_images.py
consensus: all ranks stop at the same step if one is asked to
  - op=dist.ReduceOp.MAX, group=self._ranks.control
  + op=dist.ReduceOp.MIN, group=self._ranks.control
  tests/cld_core/test_ranks.py
ema: the average of the weights forgets the start soon
  - else min(decay, decays)
  + else decay
  tests/cld_core/averages/test_reconstruct.py
clip: optim.grad_clip limits the gradient
  - clip if clip is not None else math.inf
  + math.inf
  tests/cld_core/train/test_step.py
checksum: a damaged checkpoint is noticed
  - if checksum(path) != self.sha256:
  + if False:
  tests/cld_core/checkpoint/test_write.py
checkpoint-before: if the newest checkpoint is damaged, the one before is used
  - in _verified(folder, reversed(folder.listed_steps(unfinished=True)), weights_only)
  + in _verified(folder, folder.listed_steps(unfinished=True)[-1:], weights_only)
  tests/cld_core/checkpoint/test_write.py tests/cld_core/train/test_session.py
atomic: a file that is replaced is never half there
  - temporary.unlink(missing_ok=True)
  + temporary.replace(path)
  tests/cld_core/test_files.py
fencing: a process that has lost the run writes no checkpoint
  - check_owner()
  + pass
  tests/cld_core/checkpoint/test_write.py tests/cld_core/train/test_session.py
one-writer: one writer per run
  - raise LeaseHeldError(held_message(folder.parent, holder))
  + pass
  tests/cld_core/run/test_lease.py
prune: milestones are kept
  - if step not in kept and step not in needed and not milestone(step):
  + if step not in kept and step not in needed:
  tests/cld_core/checkpoint/test_write.py
budget: retries are counted by cause: a preemption costs none
  - CRASHES: tuple[Cause, ...] = ("crashed",
  + CRASHES: tuple[Cause, ...] = ("crashed", "preempted",
  tests/cldctl/jobs/test_aftermath.py
bug: training: an error of its code, which would come again, is given up at once
  - if history.bug is not None:
  + if False:
  tests/cldctl/jobs/test_aftermath.py
stopped-shards: evaluation: a task that is told to stop wishes to begin again
  - if not outcome.is_done and job.ref.restarts:
  + if False:
  tests/cldctl/jobs/test_train.py
larger-budget: tuning: a larger budget continues a fit that a smaller one has ended
  - return budget_min is not None and budget_min <= spent_min
  + return True
  tests/cld_core/tune/test_job.py
other-images: statistics: those of other images are not taken for the wanted ones
  - if content.about.get("identity") != request.fingerprint:
  + if False:
  tests/cld_core/evaluate/test_features.py
cancel-wins: a job that is cancelled does not begin again
  - if ! cldctl_limit; then
  + if false; then
  tests/cldctl/clusters/slurm/test_follow.py
array-task: a task of an array requeues itself, not the array
  - job_id = f"{array}_{task}" if array and task else
  + job_id = array if array and task else
  tests/cldctl/clusters/slurm/test_job_env.py
setup-limit: a time limit that falls into the setup lines is heard
  - trap 'cldctl_told=1; exit 143' TERM
  + true
  tests/cldctl/clusters/slurm/test_follow.py
polling: Slurm is asked at most every 30 s
  - EVERY_S = 30.0
  + EVERY_S = 0.0
  tests/cldctl/clusters/slurm/test_poll.py
bad-nodes: a node on which a run crashed twice is avoided
  - crashes >= FAILURES
  + crashes > FAILURES
  tests/cldctl/jobs/test_nodes.py
lost: a run whose job is gone without a message is LOST
  - Rule("vanished", "LOST", _VANISHED
  + Rule("vanished", "RUNNING", _VANISHED
  tests/cld_core/run/test_state.py
hook-limit: a hook is ended after its time limit
  - if time.monotonic() - began > timeout_s:
  + if time.monotonic() - began > 900:
  tests/cldctl/jobs/test_hooks.py
exit-3: exit code 3: no such run or checkpoint
  - exit_code = 3
  + exit_code = 1
  tests/cldctl/cli/test_refusals.py tests/cldctl/cli/test_commands.py
exit-5: exit code 5: the run that was followed ended cancelled
  - 5 if others == {"CANCELLED"} else 1
  + 1
  tests/cldctl/show/test_follow.py
escapes: control characters of others do not reach the terminal
  - _ESCAPES.sub("", text)
  + text
  tests/cld_core/test_sanitize.py
plugins: code of a folder that others can write does not run without --allow-plugin
  - if real.exists() and (problem := shared_with(real.stat())) is not None:
  + if False:
  tests/test_security.py
private-code: folders that a job runs code from are not group-writable
  - os.umask(umask | 0o022)
  + os.umask(umask)
  tests/test_security.py
damaged-run: a damaged run spoils no other row
  - problem = f"its files cannot be read: {one_line(message_of(error))}"
  + raise
  tests/test_security.py
wrong-key: an override of a wrong key is refused, and the nearest one is named
  - if (problem := refusal(path, value, self.known, self.specs)) is not None:
  + if False:
  tests/cld_core/config/test_loading.py
remove-live: a run that is alive is not removed
  - require_over(run, answers, otherwise)
  + pass
  tests/cldctl/cli/test_many.py
"""


def faults():
    """The faults of `TABLE` by their names: a text of the code, its substitute, and tests."""
    form = re.compile(r"^(\S+): .+\n  - (.+)\n  \+ (.+)\n  (.+)$", re.MULTILINE)
    table = {name: (old, new, tests.split()) for name, old, new, tests in form.findall(TABLE)}
    assert len(table) == len(re.findall(r"^  - ", TABLE, re.MULTILINE)), "a fault has another form"
    return table


def left_out(folder, names):
    """The names in a folder of the repository that are not copied."""
    return [
        name
        for name in names
        if name == "__pycache__" or (Path(folder) == ROOT and name in LEFT_OUT)
    ]


def find(folder, text):
    """The file of the packages that has a text; None if it is not there exactly once."""
    places = []
    for name in PACKAGES:
        for file in (folder / name).rglob("*"):
            if file.suffix in (".py", ".sh"):
                places += [file] * file.read_text().count(text)
    return places[0] if len(places) == 1 else None


def failing(copy, *tests):
    """The first test that fails in a copy; None if none does."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *PYTEST, *tests]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=WITHIN_S
        )
    except subprocess.TimeoutExpired:
        return "it hangs"
    if failure := re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE):
        return failure[1]
    # 5: no test was selected.
    return None if done.returncode in (0, 5) else done.stdout.strip()[-200:]


def verdict(copy, old, new, tests):
    """Whether a fault is caught, None if that cannot be found out; and by which test, or why not.

    Tests that do not exist are skipped; if none is left, those of the package are run.
    """
    file = find(copy, old)
    if file is None:
        return None, GONE
    package = file.relative_to(copy).parts[0]
    likely = tuple(path for path in tests if (copy / path).exists()) or (f"tests/{package}",)
    text = file.read_text()
    before = file.stat()
    try:
        file.write_text(text.replace(old, new))
        test = failing(copy, *likely)
    finally:
        file.write_text(text)
        # Python compares the times of compiled files, in seconds.
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    if test is None:
        return False, f"NOT CAUGHT by {', '.join(likely)}"
    if test.startswith("tests/") and failing(copy, test) is not None:
        return None, f"{test} fails without the fault, too"
    return True, test


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults; default: all")
    parser.add_argument(
        "--check", action="store_true", help="only say whether the text of each is there once"
    )
    options = parser.parse_args()
    table = faults()
    if unknown := set(options.names) - set(table):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(table)}")
    names = options.names or list(table)
    return check(table, names) if options.check else run(table, names)


def check(table, names):
    """Say which faults do not have their text in the code exactly once; 1 if there are any."""
    gone = [name for name in names if find(ROOT, table[name][0]) is None]
    for name in gone:
        print(f"{name:18} {GONE}")
    print(f"{len(names) - len(gone)} of {len(names)} faults have their text in the code")
    return 1 if gone else 0


def run(table, names):
    """Say of each fault whether it is caught; 1 if one is not."""
    words = {None: "-", True: "yes", False: "no"}
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(ROOT, Path(folder) / "copy", ignore=left_out))
        for name in names:
            caught, why = verdict(copy, *table[name])
            missed += caught is not True
            print(f"{name:18} {words[caught]:4} {why}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

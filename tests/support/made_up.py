"""Runs with made-up checkpoints, jobs, failures and reports, for code that only reads them."""

import time

from cld_core.config import load
from cld_core.digests import checksum
from cld_core.files import write_json
from cld_core.records import to_plain
from cld_core.run import RunFolder
from cld_core.run.checkpoints import FORMAT, Content, Sidecar, weights_digest, weights_file
from cld_core.run.events import Failed, JobRef
from cld_core.run.groups import Group
from tests.support.paths import TOY

CONTENT = b"tensors"


def run_with(path, *steps, overrides=()):
    """A run with checkpoints that verify, but hold no tensors."""
    run = RunFolder.create(path, load(TOY, overrides), {"created": 1.0})
    for step in steps:
        run.checkpoint_file(step).write_bytes(CONTENT)
        weights_file(run, step).write_bytes(CONTENT)
        vouch(run, step)
    return run


def vouch(run, step, **about):
    """Write the sidecar of files that are there, whatever they hold."""
    state, weights = (
        Content(file.stat().st_size, checksum(file))
        for file in (run.checkpoint_file(step), weights_file(run, step))
    )
    sidecar = Sidecar(format=FORMAT, step=step, state=state, weights=weights, **about)
    write_json(run.checkpoint_file(step).with_suffix(".json"), to_plain(sidecar, sparse=True))


def seeds(root, group, number, *steps, infix="-", overrides=()):
    """A group of runs that differ in `train.seed`, from 0, which ends their names; checkpoints as
    in `run_with`."""
    values = {f"{group}{infix}{seed}": {"train.seed": str(seed)} for seed in range(number)}
    runs = []
    for name, sweep in values.items():
        run = run_with(root / name, *steps, overrides=overrides)
        write_json(run.identity_file, run.identity() | {"group": group, "sweep": sweep})
        runs.append(run)
    Group(root, group).add(values)
    return runs


def damage(run, step):
    run.checkpoint_file(step).write_bytes(CONTENT.upper())


def report(run, request, **sections):
    """Make a request complete with these results."""
    request.save(run)
    step = request.checkpoint_step
    about = {"checkpoint_step": step, "checkpoint": weights_digest(run, step), "created": 1.0}
    write_json(run.evals / request.id / "report.json", {**about, **sections})


def job(job_id, cluster="scripted", logs=""):
    return JobRef(cluster=cluster, job_id=job_id, logs=logs, restarts=True)


def unfit(host="n1", restart=0, ago=0.0):
    reason = f"{host}: gpu: it is gone"
    when = time.time() - ago
    return Failed(
        "unfit",
        time=when,
        job_id="7",
        restart=restart,
        rank=0,
        host=host,
        check="gpu",
        reason=reason,
    )

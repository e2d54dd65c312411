"""Runs with made-up checkpoints, jobs, failures and reports, for code that only reads them."""

import time
from dataclasses import replace

from cld_core.digests import checksum
from cld_core.evaluate.request import request_of
from cld_core.files import write_json
from cld_core.records import to_plain
from cld_core.run import RunFolder
from cld_core.run.checkpoints import FORMAT, Content, Sidecar, weights_digest, weights_file
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import (
    Ended,
    Failed,
    GivenUp,
    JobRef,
    Requested,
    Started,
    Submitted,
    Wished,
)
from cld_core.run.groups import Group
from tests.support.recipes import toy_recipe

CONTENT = b"tensors"


def run_with(path, *steps, overrides=()):
    """A run with checkpoints that verify, but hold no tensors."""
    run = RunFolder.create(path, toy_recipe(*overrides), {"created": 1.0})
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


def ordered(run, step, metric="elbo", shards=1, **changes):
    """An evaluation that is asked for, whose request has these changes."""
    request = replace(request_of(run.recipe(), (metric,), step, shards), **changes)
    return Evaluation(request.save(run))


def bound(run, step, nll, stderr=0.1, shards=1, **more):
    """An evaluation of the likelihood bound that is complete."""
    request = request_of(run.recipe(), ("elbo",), step, shards)
    report(run, request, elbo={"nll": nll, "stderr": stderr, **more})


def job(job_id, cluster="scripted", logs="", restarts=True):
    return JobRef(cluster=cluster, job_id=job_id, logs=str(logs), restarts=restarts)


def note(work, *happened):
    """Let this have happened to a run, or to sharded work."""
    for event in happened:
        work.ledger.append(event)


def requested(steps, *overrides, **more):
    return Requested(steps=steps, overrides=overrides, **more)


def queued(job_id="7", *shards, cluster="scripted", logs="", restarts=True, **more):
    ref = job(job_id, cluster, logs, restarts)
    return Submitted(job=ref, shards=shards or None, **more)


def started(attempt=0, step=0, job_id="7", **more):
    return Started(attempt=attempt, job_id=job_id, step=step, **more)


def ended(cause="crashed", step=None, attempt=0, **more):
    return Ended(attempt=attempt, cause=cause, step=step, **more)


def wished(cause, job_id="7", **more):
    return Wished(job_id=job_id, cause=cause, **more)


def given_up(reason, job_id="7", **more):
    return GivenUp(reason=reason, job_id=job_id, **more)


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

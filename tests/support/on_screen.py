"""Made-up runs: a folder with one of every state and its Slurm, and one with a full report."""

import math
import time

import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from cld_core.evaluate.request import request_of
from cld_core.files import write_json
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import (
    Cancelled,
    Ended,
    Failed,
    GivenUp,
    JobRef,
    Labelled,
    Requested,
    Started,
    Submitted,
    Wished,
)
from cld_core.run.groups import Group
from cldctl.evals import plan
from tests.support.clock import Clock
from tests.support.made_up import job, report, run_with
from tests.support.scheduler import Scheduler

HOUR = 3600.0
STEPS = 800_000
GROUP = "celeba-lr"


class Fleet:
    """Runs under ``root`` and the jobs that Slurm knows of them, all of them looked at now."""

    def __init__(self, root):
        self.root = root
        self.now = time.time()
        self.slurm = Scheduler(Clock(self.now))

    def event(self, run, ago, kind, /, **fields):
        """An event, ``ago`` seconds before now."""
        run.ledger.append(kind(time=self.now - ago, **fields))

    def job(self, run, ago, job_id, squeue=None, **fields):
        """A job of a run or an evaluation, as squeue shows it; None if it is gone."""
        if squeue is not None:
            self.slurm.mine[job_id] = squeue
        logs = str(run.ledger.path.with_name("logs"))
        ref = JobRef(cluster="slurm", job_id=job_id, logs=logs, restarts=True)
        self.event(run, ago, Submitted, job=ref, **fields)

    def run(self, name, ago, *steps, **identity):
        """A run that was made ``ago`` seconds before now, with checkpoints of these steps."""
        run = run_with(self.root / name, *steps, overrides=(f"train.steps={STEPS}",))
        write_json(
            run.identity_file,
            {**run.identity(), "created": self.now - ago, "user": "ada", **identity},
        )
        self.event(run, ago, Requested, steps=STEPS, cluster="slurm")
        return run

    def attempt(self, run, job_id, ago, *, number=0, first=0):
        """An attempt that began ``ago`` seconds before now."""
        place = {"job_id": job_id, "restart": number, "ranks": 8, "host": "n07"}
        began = self.now - ago - 0.1 * HOUR
        self.event(run, ago, Started, attempt=number, step=first, began=began, **place)

    def reports(self, run, step, loss, rate, ago=2.0, attempt=0):
        progress = {
            "attempt": attempt,
            "step": step,
            "steps": STEPS,
            "loss": loss,
            "steps_per_s": rate,
            "time": self.now - ago,
            "every_s": 10.0,
        }
        write_json(run.progress_file, progress)


def curve(run, steps, level=0.4):
    """A loss that falls and wobbles, as training writes it."""
    with SummaryWriter(str(run.tensorboard), purge_step=1) as board:
        for step in steps:
            wobble = 0.06 * math.sin(step / 9_000.0) + 0.03 * math.cos(step / 2_100.0)
            board.add_scalar("train/loss", level + 1.6 * math.exp(-step / 90_000.0) + wobble, step)


def evaluation(run, step, shards):
    """An evaluation of a checkpoint of which nothing is computed; a shard is a chunk."""
    samples = (f"eval.samples={1024 * shards}",)
    request = plan.make(run, ("elbo",), [step], samples, shards=shards).requests[0]
    return Evaluation(request.save(run))


def begin(work, kind, numbers, length):
    """Let so many rows of chunks be there."""
    rows = work.rows(kind)
    rows.folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        rows.file(number, length).touch()


def log(run, job_id, rank, text, stream="out"):
    (run.logs / f"{job_id}_{rank}_log.{stream}").write_text(text)


def running(fleet):
    """Its third attempt trains: the first was preempted, the second crashed; an evaluation is being
    computed."""
    run = fleet.run("celebahq-cld-1125-0911-k3fa", 30 * HOUR, 380_000, 392_000)
    fleet.job(run, 30 * HOUR, "4410", "RUNNING|n07|None")
    preempted = {"cause": "preempted", "step": 150_000}
    crashed = {"cause": "crashed", "step": 221_000, "detail": "rank 2 on n11: CUDA error"}
    ends = ((28, 0, 19, preempted), (15, 150_000, 11, crashed))
    for number, (began, first, end, how) in enumerate(ends):
        fleet.attempt(run, "4410", began * HOUR, number=number, first=first)
        fleet.event(run, end * HOUR, Ended, attempt=number, **how)
        fleet.event(run, end * HOUR, Wished, job_id="4410", cause=how["cause"])
    fleet.attempt(run, "4410", 10 * HOUR, number=2, first=220_000)
    fleet.reports(run, 398_200, 0.4137, 5.21, attempt=2)
    curve(run, range(4_000, 398_000, 4_000))
    lines = (
        "step 398000/800000 loss 0.41402 steps/s 5.2\nstep 398200/800000 loss 0.4137 steps/s 5.21\n"
    )
    log(run, "4410", 0, lines)
    work = evaluation(run, 380_000, 40)
    for shard in range(17):
        for kind, numbers in work.request.chunks(shard).items():
            begin(work, kind, numbers, work.request.chunk(kind))
    fleet.job(work, 0.0, "4433_0", shards=tuple(range(17)))
    fleet.job(work, 0.0, "4433_1", "RUNNING|n02|None", shards=tuple(range(17, 22)))
    fleet.job(work, 0.0, "4433_2", shards=(22,))
    fleet.job(work, 0.0, "4433_3", "PENDING||Resources", shards=tuple(range(23, 38)))
    begin(work, "elbo", [17], 1)
    return run


def requeued(fleet):
    name = "cifar10-vpsde-1125-1730-x9e0"
    how = {"step": 120_000, "loss": 0.5312, "rate": 4.4, "over": 0.2 * HOUR}
    run = ended(fleet, name, 16 * HOUR, "timeout", "4421", "PENDING||BeginTime", **how)
    fleet.event(run, 0.2 * HOUR, Wished, job_id="4421", cause="timeout")
    curve(run, range(4_000, 120_000, 4_000), level=0.5)
    return run


def failed(fleet):
    """Rank 2 failed first; rank 0 only says that its peer is gone."""
    error = "ValueError: spiral arms must be odd"
    detail = f"rank 2 on n11: {error}"
    about = {"job_id": "4438", "restart": 0, "rank": 2, "host": "n11", "reason": error}
    ago = 1.5 * HOUR
    run = fleet.run("toy-spirals-1126-0715-p2mm", 2 * HOUR, 6_000)
    fleet.job(run, 2 * HOUR, "4438")
    fleet.event(run, ago, Failed, kind="rank", **about)
    fleet.attempt(run, "4438", 1.9 * HOUR)
    fleet.event(run, ago, Ended, attempt=0, cause="crashed", step=6_400, detail=detail, bug=True)
    fleet.event(run, ago, GivenUp, reason=detail, job_id="4438")
    fleet.reports(run, 6_400, 1.204, 31.0, ago=ago)
    for rank in range(3):
        log(run, "4438", rank, f"rank {rank} trains\n")
    log(run, "4438", 0, "RuntimeError: Connection closed by peer\n", "err")
    traceback = f'Traceback (most recent call last):\n  File "ring.py", line 9\n{error}\n'
    log(run, "4438", 2, traceback, "err")
    return run


def ended(
    fleet, name, ago, cause, job_id, squeue=None, *, step=50_000, loss=0.7, rate=5.0, over=None
):
    """A run whose only attempt ended by a cause, ``over`` seconds before now; None if its end is
    not recorded."""
    over = over or ago / 2
    run = fleet.run(name, ago, step)
    fleet.job(run, ago, job_id, squeue)
    if cause == "cancelled":
        fleet.event(run, over, Cancelled, job_id=job_id)
    fleet.attempt(run, job_id, ago - 600)
    if cause is not None:
        fleet.event(run, over, Ended, attempt=0, cause=cause, step=step)
    fleet.reports(run, step, loss, rate, ago=over)
    return run


def finished(fleet):
    how = {"step": STEPS, "loss": 0.3301, "rate": 77.0, "over": 44 * HOUR}
    run = ended(fleet, "toy-diamond-1124-1502-aa10", 47 * HOUR, "finished", "4391", **how)
    curve(run, range(8_000, STEPS, 8_000), level=0.33)
    numbers = {"nll": 2.3391, "stderr": 0.0042, "true_entropy": 2.3026, "n": 4096}
    report(run, evaluation(run, STEPS, 4).request, elbo={**numbers, "nfe_mean": 182.0})
    return run


def group(fleet):
    """Two runs of a sweep: one trains, one waits."""
    queue = {"1e-4": "RUNNING|n03|None", "3e-4": "PENDING||Priority"}
    swept = {f"{GROUP}-lr{rate}": {"optim.lr": rate} for rate in queue}
    runs = []
    for number, (name, squeue) in enumerate(zip(swept, queue.values(), strict=True)):
        run = fleet.run(name, 5 * HOUR, 20_000, group=GROUP, sweep=swept[name])
        fleet.job(run, 5 * HOUR, f"4429_{number}", squeue)
        runs.append(run)
    fleet.attempt(runs[0], "4429_0", 4.5 * HOUR)
    fleet.reports(runs[0], 91_400, 0.4622, 5.6)
    curve(runs[0], range(2_000, 91_000, 2_000), level=0.45)
    Group(fleet.root, GROUP).add(swept)
    return runs


def damaged(fleet):
    run = fleet.run("somebodys-copy", 60 * HOUR)
    write_json(run.identity_file, {"format": 99, "created": fleet.now - 60 * HOUR})
    return run


def everything(root):
    """One run of every state, a group, and a folder of another format."""
    fleet = Fleet(root)
    running(fleet)
    requeued(fleet)
    failed(fleet)
    finished(fleet)
    group(fleet)
    damaged(fleet)
    ended(fleet, "celebahq-cld-1125-0101-lost", 35 * HOUR, None, "4400")
    ended(fleet, "cifar10-cld-1124-0930-b0c1", 52 * HOUR, "preempted", "4380")
    ended(fleet, "cifar10-cld-1124-0931-b0c2", 51 * HOUR, "cancelled", "4381")
    return fleet


HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}\u202eabc"
ENTROPY = -1.4
# When its first job was submitted, seconds since 1970.
REPORTED_FROM = 1.7e9


def reported(path, *, end="finished", points=2_000):
    """Attempts that ended for several reasons, the last one by ``end``; curves, pictures,
    evaluations and a sweep.

    Args:
        points: of the curves.
    """
    run = run_with(path, 4_000, 8_000, overrides=("train.steps=8000", "optim.lr=0.002"))
    write_json(
        run.identity_file, run.identity() | {"recipe": "toy", "user": HOSTILE, "host": HOSTILE}
    )
    _attempts(run, end)
    _curves(run, points)
    # Of the newer one, TensorBoard has a picture as well, compressed in another way.
    for step in (4_000, 8_000):
        Image.fromarray(_pixels(step).numpy()).save(
            run.samples / f"step_{step:08d}.png", compress_level=0
        )
    _evaluations(run)
    return run


def _attempts(run, end):
    run.ledger.append(Submitted(job=job("7", "local", logs=str(run.logs)), time=REPORTED_FROM))
    for number, cause in enumerate(("preempted", "node_failure", "out_of_memory", end)):
        began = REPORTED_FROM + 5_000.0 * number + 900
        place = {"job_id": "7", "restart": number, "host": f"node{number}"}
        software = {"gpu": f"card {HOSTILE}", "versions": {"torch": "2.6"}}
        about = {"attempt": number, "step": 2_000 * number, "ranks": 2, "began": began}
        run.ledger.append(Started(**about, **place, **software, time=began + 60))
        if cause == "crashed":
            reason = f"OSError: {HOSTILE}"
            run.ledger.append(Failed("rank", rank=1, reason=reason, **place, time=began + 3_990))
        how = {"cause": cause, "step": 2_000 * (number + 1), "detail": HOSTILE if number else None}
        run.ledger.append(Ended(attempt=number, **how, time=began + 4_000))
        if cause != end:
            run.ledger.append(Wished(job_id="7", cause=cause, time=began + 4_001))
    run.ledger.append(Labelled(note=HOSTILE, add=("paper",)))


def _curves(run, points):
    with SummaryWriter(str(run.tensorboard)) as board:
        for place in range(points):
            step = 8_000 * (place + 1) // points
            noise = math.sin(place * 12.9898) * 0.05
            board.add_scalar("train/loss", 3 * math.exp(-step / 2_000) + 0.3 + noise, step)
            board.add_scalar("train/grad_norm", 1 + noise, step)
            board.add_scalar("train/lr", 2e-3, step)
        board.add_scalar(f"periodic/{HOSTILE}", 1.0, 4_000)
        board.add_scalar(f"periodic/{HOSTILE}", 2.0, 8_000)
        board.add_image("periodic/samples", _pixels(8_000), 8_000, dataformats="HWC")


def _pixels(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)


def _evaluations(run):
    for step, nll in ((4_000, -0.5), (8_000, -1.1)):
        _answer(run, request_of(run.recipe(), ("elbo",), step), nll)
    axes = plan.parse(["eval.elbo.velocities=1,4", "eval.elbo.probes=1,2,8"])
    made = plan.make(run, ("elbo",), [8_000], ["eval.points=500"], axes)
    made.sweep.save(run)
    for place, request in enumerate(made.requests):
        _answer(run, request, -1.2 + 0.05 * place)


def _answer(run, request, nll):
    report(
        run, request, elbo={"nll": nll, "stderr": 0.04, "nfe_mean": 312.0, "true_entropy": ENTROPY}
    )

"""Made-up runs: a folder with one of every state and its Slurm, and one with a full report."""

import math
import time

import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from cld_core.evaluate.request import request_of
from cld_core.files import write_json
from cld_core.run import events
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import Ended, Failed, JobRef, Labelled, Started, Submitted, Wished
from cld_core.run.groups import Group
from cldctl.evals import plan
from tests.support.clock import Clock
from tests.support.made_up import job, report, run_with
from tests.support.scheduler import Scheduler

HOUR = 3600.0
STEPS = 800_000
GROUP = "celeba-lr"


class Fleet:
    """Runs under ``root`` and the jobs that Slurm knows of them; ``now`` is when all of this is
    looked at."""

    def __init__(self, root, now=None):
        self.root = root
        self.now = time.time() if now is None else now
        self.slurm = Scheduler(Clock(self.now))

    def job(self, run, job_id, squeue=None):
        """A job of a run, as squeue shows it; None if it is gone."""
        if squeue is not None:
            self.slurm.mine[job_id] = squeue
        return JobRef(cluster="slurm", job_id=job_id, logs=str(run.logs), restarts=True)

    def run(self, name, ago, *steps, **identity):
        """A run that was made ``ago`` seconds before now, with checkpoints of these steps."""
        run = run_with(self.root / name, *steps, overrides=(f"train.steps={STEPS}",))
        write_json(
            run.identity_file,
            {**run.identity(), "created": self.now - ago, "user": "ada", **identity},
        )
        self.events(run, (ago, events.Requested, {"steps": STEPS, "cluster": "slurm"}))
        return run

    def events(self, run, *happened):
        """Events, each so many seconds before now."""
        for ago, kind, fields in happened:
            run.ledger.append(kind(time=self.now - ago, **fields))

    def attempt(
        self,
        run,
        job_id,
        ago,
        *,
        number=0,
        first=0,
        end=0.0,
        cause="",
        step=0,
        is_requeued=False,
        **more,
    ):
        """An attempt that began ``ago`` seconds before now; its end by ``cause``, if it had one,
        and what was asked."""
        about = {
            "attempt": number,
            "job_id": job_id,
            "step": first,
            "ranks": 8,
            "host": "n07",
            "restart": number,
        }
        self.events(run, (ago, events.Started, {**about, "began": self.now - ago - 0.1 * HOUR}))
        if cause:
            self.events(
                run, (end, events.Ended, {"attempt": number, "cause": cause, "step": step, **more})
            )
        if is_requeued:
            self.events(run, (end, events.Wished, {"job_id": job_id, "cause": cause}))

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
    request = plan.make(
        run, ("elbo",), [step], (f"eval.samples={1024 * shards}",), shards=shards
    ).requests[0]
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
    fleet.events(
        run, (30 * HOUR, events.Submitted, {"job": fleet.job(run, "4410", "RUNNING|n07|None")})
    )
    again = {"is_requeued": True}
    fleet.attempt(run, "4410", 28 * HOUR, end=19 * HOUR, cause="preempted", step=150_000, **again)
    crash = {"cause": "crashed", "step": 221_000, "detail": "rank 2 on n11: CUDA error"}
    fleet.attempt(run, "4410", 15 * HOUR, number=1, first=150_000, end=11 * HOUR, **crash, **again)
    fleet.attempt(run, "4410", 10 * HOUR, number=2, first=220_000)
    fleet.reports(run, 398_200, 0.4137, 5.21, attempt=2)
    curve(run, range(4_000, 398_000, 4_000))
    log(
        run,
        "4410",
        0,
        (
            "step 398000/800000 loss 0.41402 steps/s 5.2\nstep 398200/800000 loss 0.4137 steps/s "
            "5.21\n"
        ),
    )
    work = evaluation(run, 380_000, 40)
    for shard in range(17):
        for kind, numbers in work.request.chunks(shard).items():
            begin(work, kind, numbers, work.request.chunk(kind))
    jobs = {
        "4433_0": range(17),
        "4433_1": range(17, 22),
        "4433_2": range(22, 23),
        "4433_3": range(23, 38),
    }
    phases = {"4433_1": "RUNNING|n02|None", "4433_3": "PENDING||Resources"}
    for job_id, shards in jobs.items():
        fleet.slurm.mine.update({job_id: phases[job_id]} if job_id in phases else {})
        job = JobRef(cluster="slurm", job_id=job_id, logs=str(work.folder / "logs"))
        work.ledger.append(events.Submitted(job=job, shards=tuple(shards)))
    begin(work, "elbo", [17], 1)
    return run


def requeued(fleet):
    run = fleet.run("cifar10-vpsde-1125-1730-x9e0", 16 * HOUR, 120_000)
    fleet.events(
        run, (16 * HOUR, events.Submitted, {"job": fleet.job(run, "4421", "PENDING||BeginTime")})
    )
    fleet.attempt(
        run, "4421", 15 * HOUR, end=0.2 * HOUR, cause="timeout", step=120_000, is_requeued=True
    )
    fleet.reports(run, 120_000, 0.5312, 4.4, ago=0.2 * HOUR)
    curve(run, range(4_000, 120_000, 4_000), level=0.5)
    return run


def failed(fleet):
    """Rank 2 failed first; rank 0 only says that its peer is gone."""
    run = fleet.run("toy-spirals-1126-0715-p2mm", 2 * HOUR, 6_000)
    fleet.events(run, (2 * HOUR, events.Submitted, {"job": fleet.job(run, "4438")}))
    said = "ValueError: spiral arms must be odd"
    about = {
        "kind": "rank",
        "job_id": "4438",
        "restart": 0,
        "rank": 2,
        "host": "n11",
        "reason": said,
    }
    fleet.events(run, (1.5 * HOUR, events.Failed, about))
    end = {
        "end": 1.5 * HOUR,
        "cause": "crashed",
        "step": 6_400,
        "detail": f"rank 2 on n11: {said}",
        "bug": True,
    }
    fleet.attempt(run, "4438", 1.9 * HOUR, **end)
    fleet.events(
        run, (1.5 * HOUR, events.GivenUp, {"reason": f"rank 2 on n11: {said}", "job_id": "4438"})
    )
    fleet.reports(run, 6_400, 1.204, 31.0, ago=1.5 * HOUR)
    for rank in range(3):
        log(run, "4438", rank, f"rank {rank} trains\n")
    log(run, "4438", 0, "RuntimeError: Connection closed by peer\n", "err")
    log(
        run,
        "4438",
        2,
        f'Traceback (most recent call last):\n  File "ring.py", line 9\n{said}\n',
        "err",
    )
    return run


def ended(fleet, name, ago, cause, job_id):
    """A run whose only attempt ended by a cause; None if its end is not recorded."""
    run = fleet.run(name, ago, 50_000)
    fleet.events(run, (ago, events.Submitted, {"job": fleet.job(run, job_id)}))
    if cause == "cancelled":
        fleet.events(run, (ago / 2, events.Cancelled, {"job_id": job_id}))
    fleet.attempt(run, job_id, ago - 600, end=ago / 2, cause=cause or "", step=50_000)
    fleet.reports(run, 50_000, 0.7, 5.0, ago=ago / 2)
    return run


def finished(fleet):
    run = fleet.run("toy-diamond-1124-1502-aa10", 47 * HOUR, STEPS)
    fleet.events(run, (47 * HOUR, events.Submitted, {"job": fleet.job(run, "4391")}))
    fleet.attempt(run, "4391", 46.9 * HOUR, end=44 * HOUR, cause="finished", step=STEPS)
    fleet.reports(run, STEPS, 0.3301, 77.0, ago=44 * HOUR)
    curve(run, range(8_000, STEPS, 8_000), level=0.33)
    request = plan.make(run, ("elbo",), [STEPS], ("eval.samples=4096",), shards=4).requests[0]
    report(
        run,
        request,
        elbo={
            "nll": 2.3391,
            "stderr": 0.0042,
            "true_entropy": 2.3026,
            "n": 4096,
            "nfe_mean": 182.0,
        },
    )
    return run


def group(fleet):
    """Two runs of a sweep: one trains, one waits."""
    rates = ("1e-4", "3e-4")
    runs = []
    for number, rate in enumerate(rates):
        run = fleet.run(
            f"{GROUP}-lr{rate}", 5 * HOUR, 20_000, group=GROUP, sweep={"optim.lr": rate}
        )
        job = fleet.job(run, f"4429_{number}", ("RUNNING|n03|None", "PENDING||Priority")[number])
        fleet.events(run, (5 * HOUR, events.Submitted, {"job": job}))
        runs.append(run)
    fleet.attempt(runs[0], "4429_0", 4.5 * HOUR)
    fleet.reports(runs[0], 91_400, 0.4622, 5.6)
    curve(runs[0], range(2_000, 91_000, 2_000), level=0.45)
    Group(fleet.root, GROUP).add(
        {run.name: {"optim.lr": rate} for run, rate in zip(runs, rates, strict=True)}
    )
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
    causes = ("preempted", "node_failure", "out_of_memory", end)
    for number, cause in enumerate(causes):
        began = REPORTED_FROM + 5_000.0 * number + 900
        last = 2_000 * (number + 1)
        about = {
            "attempt": number,
            "job_id": "7",
            "restart": number,
            "host": f"node{number}",
            "ranks": 2,
        }
        how = {"gpu": f"card {HOSTILE}", "versions": {"torch": "2.6"}}
        run.ledger.append(
            Started(step=2_000 * number, began=began, time=began + 60, **about, **how)
        )
        if cause == "crashed":
            first = {
                "job_id": "7",
                "restart": number,
                "rank": 1,
                "host": "node3",
                "reason": f"OSError: {HOSTILE}",
            }
            run.ledger.append(Failed("rank", time=began + 3_990, **first))
        detail = HOSTILE if number else None
        run.ledger.append(
            Ended(attempt=number, cause=cause, step=last, detail=detail, time=began + 4_000)
        )
        if number < len(causes) - 1:
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

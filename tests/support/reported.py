"""A made-up run that has everything a report shows, and texts that would break a page which does not escape them."""

import math
from pathlib import Path

import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from cld_core.evaluate.request import request_of
from cld_core.files import write_json
from cld_core.run import RunFolder
from cld_core.run.evaluations import EvalRequest
from cld_core.run.events import Cause, Ended, Failed, Labelled, Requeued, Started, Submitted
from cldctl.evals import plan
from tests.support.ledgers import job
from tests.support.made_up import report, run_with

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}\u202eabc"
ENTROPY = -1.4
# When its first job was submitted, seconds since 1970.
BEGAN = 1.7e9


def everything(path: Path, *, end: Cause = "finished", points: int = 2_000) -> RunFolder:
    """Attempts that ended for several reasons, the last one by ``end``; curves, pictures, evaluations and a sweep.

    Args:
        points: of the curves.
    """
    run = run_with(path, 4_000, 8_000, overrides=("train.steps=8000", "optim.lr=0.002"))
    write_json(run.identity_file, run.identity() | {"recipe": "toy", "user": HOSTILE, "host": HOSTILE})
    _attempts(run, end)
    _curves(run, points)
    _pictures(run)
    _evaluations(run)
    return run


def _attempts(run: RunFolder, end: Cause) -> None:
    run.ledger.append(Submitted(job=job("7", "local", logs=str(run.logs)), time=BEGAN))
    causes: tuple[Cause, ...] = ("preempted", "node_failure", "out_of_memory", end)
    for number, cause in enumerate(causes):
        began, last = BEGAN + 5_000.0 * number + 900, 2_000 * (number + 1)
        about = {"attempt": number, "job_id": "7", "restart": number, "host": f"node{number}", "ranks": 2}
        how = {"gpu": f"card {HOSTILE}", "versions": {"torch": "2.6"}}
        run.ledger.append(Started(step=2_000 * number, began=began, time=began + 60, **about, **how))
        if cause == "crashed":
            first = {"job_id": "7", "restart": number, "rank": 1, "host": "node3", "reason": f"OSError: {HOSTILE}"}
            run.ledger.append(Failed("rank", time=began + 3_990, **first))
        detail = HOSTILE if number else None
        run.ledger.append(Ended(attempt=number, cause=cause, step=last, detail=detail, time=began + 4_000))
        if number < len(causes) - 1:
            run.ledger.append(Requeued(job_id="7", cause=cause, time=began + 4_001))
    run.ledger.append(Labelled(note=HOSTILE, add=("paper",)))


def _curves(run: RunFolder, points: int) -> None:
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


def _pictures(run: RunFolder) -> None:
    """Samples of two steps, of which TensorBoard has the newer one as well, compressed in another way."""
    for step in (4_000, 8_000):
        Image.fromarray(_pixels(step).numpy()).save(run.samples / f"step_{step:08d}.png", compress_level=0)


def _pixels(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)


def _evaluations(run: RunFolder) -> None:
    for step, nll in ((4_000, -0.5), (8_000, -1.1)):
        _answer(run, request_of(run.recipe(), ("elbo",), step), nll)
    axes = plan.parse(["eval.elbo.velocities=1,4", "eval.elbo.probes=1,2,8"])
    made = plan.make(run, ("elbo",), [8_000], ["eval.points=500"], axes)
    made.sweep.save(run)
    for place, request in enumerate(made.requests):
        _answer(run, request, -1.2 + 0.05 * place)


def _answer(run: RunFolder, request: EvalRequest, nll: float) -> None:
    report(run, request, elbo={"nll": nll, "stderr": 0.04, "nfe_mean": 312.0, "true_entropy": ENTROPY})

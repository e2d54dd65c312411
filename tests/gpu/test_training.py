"""Training on the card: steps of the recipes, nothing that waits, overflows, two ranks,
checkpoints, a killed run."""

import contextlib
import math
import os
import signal
import statistics
import subprocess
import sys
import time

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from benchmarks.gpu import halved
from cld_core.checkpoint import checkpoints
from cld_core.checkpoint import load as load_checkpoint
from cld_core.nets import execution
from cld_core.ranks import Ranks
from cld_core.run import RunFolder
from cld_core.train.step import Trainer
from tests.support import tracing
from tests.support.paths import RECIPES, ROOT
from tests.support.recipes import shipped_recipe
from tests.support.spawned import spawned
from tests.support.tools import same

from .conftest import DEVICE, ON_GPU

ON_GPUS = [
    name
    for name in sorted(file.stem for file in RECIPES.glob("*.yaml"))
    if shipped_recipe(name).cluster.uses_gpu
]
# A loss scale starts at 65,536 and is halved by each step that it lets overflow: after these it
# cannot be the reason.
MOST_STEPS = 20
PLAIN = ("train.compile=false", "train.channels_last=true")
SHALLOW = ("network.blocks=1",)
# float16 ends at 65,504.
TOO_LARGE = 1e6
# A loss scale at which no gradient overflows by itself.
SCALE = 256.0
# Gradients in float32 without TF32, in which only the order of sums differs.
RANKS_TOLERANCE = 2.0**-12
# Of the way that training goes after a kill. Where a kernel is not deterministic, runs differ by
# rounding, which Adam amplifies where gradients are nearly zero. Lost moments, a lost average, or
# other noise make 8 times this.
RESUME_TOLERANCE = 2.0**-7


@contextlib.contextmanager
def trainer_of(recipe, *, fixed_shapes=True):
    with execution.using(tf32=recipe.train.tf32, fixed_shapes=fixed_shapes):
        made = Trainer(recipe, Ranks(device=DEVICE))
        try:
            yield made
        finally:
            made.close()


def parts(state):
    """All that a step changes, except for the loss scale."""
    return {
        "weights": state["model"],
        "moments": state["optimiser"]["state"],
        "average": state["ema"],
        "statistics of gradients": state["gradients"],
    }


def changed(before, after):
    return [name for name in before if not same(on_cpu(before[name]), on_cpu(after[name]))]


def on_cpu(value):
    """A copy on the CPU, where it is no memory of a step."""
    return tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), value)


@pytest.mark.parametrize("name", ON_GPUS)
def test_steps_of_a_recipe(recipe, name):
    """On the rows that each of its GPUs gets, or on half of them, ... if they do not fit; prints
    time and memory."""
    wanted = recipe(name).train.batch_size
    fitting = halved(wanted, lambda rows: stepped(recipe(name, *PLAIN, f"train.batch_size={rows}")))
    assert fitting is not None, "not even one row fits into memory"
    rows, text = fitting
    advice = (
        f" of {wanted}, the others do not fit: set train.micro_batch={rows}"
        if rows < wanted
        else ""
    )
    print(f"{rows} rows{advice}: {text}")


def stepped(recipe):
    """Steps until one is not skipped, the first aside."""
    seconds = []
    with trainer_of(recipe) as made:
        before = on_cpu(parts(made.state_dict()))
        while len(seconds) < MOST_STEPS:
            begin = time.perf_counter()
            made.step(len(seconds))
            scalars = made.take_scalars()
            seconds.append(time.perf_counter() - begin)
            if scalars["skipped_steps"] == 0 and len(seconds) > 1:
                break
        after = on_cpu(parts(made.state_dict()))
    assert scalars["skipped_steps"] == 0, f"each of {MOST_STEPS} steps was skipped"
    assert math.isfinite(scalars["loss"])
    assert {"weights", "average"} <= set(changed(before, after))
    assert all(bool(torch.isfinite(it).all()) for it in after["weights"].values())
    first, last = seconds[0], 1e3 * seconds[-1]
    return (
        f"first step {first:.2f} s, step {len(seconds)} {last:.0f} ms, at most "
        f"{scalars['memory_gib']:.1f} GiB"
    )


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU to wait for")
@pytest.mark.parametrize(
    "keys", [("fp32", False), ("fp16", False), ("fp16", True)], ids=["fp32", "fp16", "compiled"]
)
def test_no_step_waits_for_the_gpu(recipe, keys):
    """torch raises for an operation that makes the CPU wait: it must be able to run ahead, or the
    card idles."""
    precision, compiles = keys
    forms = (
        f"train.precision={precision}",
        f"train.compile={str(compiles).lower()}",
        "train.channels_last=true",
    )
    with trainer_of(recipe("cifar10", *SHALLOW, *forms)) as made:
        # The first steps create the moments, load kernels and time them, and compile.
        for step in range(4):
            made.step(step)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in range(4, 8):
                made.step(step)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_an_overflow_in_float16_changes_nothing_but_the_loss_scale(recipe):
    keys = ("train.precision=fp16", "train.compile=false")
    with trainer_of(recipe("cifar10", *SHALLOW, *keys), fixed_shapes=False) as made:
        for step in range(3):
            made.step(step)
            made.scaler.update(SCALE)
        made.take_scalars()
        before = on_cpu(parts(made.state_dict()))
        first = next(module for module in made.net.modules() if isinstance(module, nn.Conv2d))
        with first.register_forward_hook(lambda module, arguments, output: output * TOO_LARGE):
            made.step(3)
        assert changed(before, parts(made.state_dict())) == []
        assert made.scaler.get_scale() == SCALE / 2
        made.step(4)
        scalars = made.take_scalars()
        assert scalars["skipped_steps"] == 1
        assert math.isfinite(scalars["loss"])
        assert set(changed(before, parts(made.state_dict()))) == set(before), (
            "the step after it is like any other"
        )


@pytest.mark.skipif(ON_GPU and torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("compiles", ["false", "true"], ids=["eager", "compiled"])
def test_two_ranks_compute_what_one_does(recipe, tmp_path, compiles):
    """Over NCCL. If it hangs or fails, run it with NCCL_DEBUG=INFO, and with NCCL_P2P_DISABLE=1."""
    # Masks of dropout are keyed by the rank, and the branches of a new network are nearly zero.
    keys = (
        "network.dropout=0",
        "network.init_scale=1",
        "train.precision=fp32",
        "train.tf32=false",
        *PLAIN,
        *SHALLOW,
    )
    expected = trained(recipe("cifar10", *keys), Ranks(device=DEVICE))
    two = recipe("cifar10", *keys, f"train.compile={compiles}")
    first, second = spawned(_in_step, tmp_path, 2, two, gpu=ON_GPU)
    assert same(first["weights"], second["weights"]), "the ranks drift apart"
    gradients, expected = (
        torch.cat([it.flatten() for it in found["gradients"].values()])
        for found in (first, expected)
    )
    assert float((gradients - expected).norm() / expected.norm()) <= RANKS_TOLERANCE


def _in_step(ranks, recipe):
    if not ON_GPU:
        execution.BACKEND = tracing.differentiate
    return trained(recipe, ranks)


def trained(recipe, ranks):
    """The gradients of the first step, and the weights after some, on the CPU."""
    gradients = {}
    with execution.using(tf32=False):
        made = Trainer(recipe, ranks)
        made.warm_up()

        def take(*_):
            if not gradients:
                named = made.net.named_parameters()
                gradients.update(
                    {name: on_cpu(it.grad).double() for name, it in named if it.grad is not None}
                )

        made.optimiser.register_step_pre_hook(take)
        for step in range(3):
            made.step(step)
        made.close()
    return {"gradients": gradients, "weights": on_cpu(made.net.state_dict())}


def test_a_checkpoint_is_of_one_moment_and_training_hardly_stands_still_for_it(recipe, tmp_path):
    """At most half as long as for a plain `torch.save`, where that takes long enough to tell."""
    made_of = recipe("cifar10", "train.precision=fp32", "train.compile=false")
    folder = RunFolder.create(tmp_path / "run", made_of, {"created": 0.0})
    writer, plainly, without, saving = checkpoints(folder, keep=1), [], [], []

    def timed(times, work):
        synchronise()
        begin = time.perf_counter()
        work()
        synchronise()
        times.append(time.perf_counter() - begin)

    with trainer_of(made_of, fixed_shapes=False) as made:
        done = 0

        def step():
            nonlocal done
            made.step(done)
            done += 1

        def save_and_step():
            writer.save(done, made.state_dict())
            step()

        # The first round creates moments and pinned memory.
        for _ in range(4):
            writer.wait()
            timed(plainly, lambda: torch.save(made.state_dict(), tmp_path / "plain.pt"))
            timed(without, step)
            expected = on_cpu(parts(made.state_dict()))
            timed(saving, save_and_step)
        step()
        writer.wait()
        found = parts(load_checkpoint(folder, folder.checkpoint_steps()[-1]))
        assert changed(found, expected) == [], "the checkpoint is of another moment"
        again = Trainer(made_of, Ranks(device=DEVICE))
        again.load_state_dict(load_checkpoint(folder, folder.checkpoint_steps()[-1]))
        assert changed(parts(again.state_dict()), expected) == []
        again.close()
    whole = statistics.median(plainly[1:])
    stall = max(0.0, statistics.median(saving[1:]) - statistics.median(without[1:]))
    print(
        f"training stands still for {1e3 * stall:.0f} ms, for {1e3 * whole:.0f} ms with a plain "
        f"torch.save"
    )
    assert whole < 0.2 or stall <= 0.5 * whole, "see how much memory a job may pin (ulimit -l)"


def synchronise():
    if ON_GPU:
        torch.cuda.synchronize()


def test_a_killed_run_ends_as_one_that_never_was(recipe, tmp_path):
    keys = (
        *PLAIN,
        *SHALLOW,
        "train.steps=8",
        "train.checkpoint_every=3",
        "train.milestone_every=null",
        "train.on_resume=exact",
        "periodic.samples_every=null",
        "periodic.elbo_every=null",
        # A rate at which a few steps matter.
        "optim.lr=1e-3",
        "optim.warmup_steps=0",
    )
    whole, killed = (
        RunFolder.create(tmp_path / name, recipe("cifar10", *keys), {"created": 0.0})
        for name in "ab"
    )
    assert attempt(whole) == 0
    assert attempt(killed, "5") == -signal.SIGKILL
    assert attempt(killed) == 0
    assert killed.ledger.history().attempts[-1].first_step == 3
    found, expected = (on_cpu(parts(load_checkpoint(folder, 8))) for folder in (killed, whole))
    start = on_cpu(parts(load_checkpoint(whole, 3)))
    for part in changed(found, expected):
        assert ON_GPU, f"{part}: a processor computes the same to the last bit"
        error = distance(found[part], expected[part]) / distance(expected[part], start[part])
        print(f"{part} differ by {100 * error:.2g} % of the distance trained")
        assert error <= RESUME_TOLERANCE, part


def attempt(folder, *killed_in):
    # cuBLAS is deterministic only with workspaces of fixed size.
    env = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.gpu.killed", str(folder.path), *killed_in]
    return subprocess.run(command, env=env, cwd=ROOT, timeout=600).returncode


def distance(a, b):
    """The L2 distance of two states of nested dictionaries; what is not a floating-point tensor
    does not count."""
    return math.sqrt(
        sum(float((x - y).square().sum()) for x, y in zip(tensors(a), tensors(b), strict=True))
    )


def tensors(state):
    return [
        leaf.double()
        for leaf in tree_leaves(state)
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]

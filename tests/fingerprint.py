"""The numbers that cldctl computes from fixed weights and seeds, to see what a change of the code does to them.

By hand: ``python -m tests.fingerprint OUT.json`` computes them in about a minute of one core, and
``python -m tests.fingerprint --compare OLD NEW`` prints which differ, and ends with 1 if any do. Compare files of one
machine: another processor rounds differently. ``tests/fingerprint.json`` is one, to compare later versions with.

It uses the command line, `cld_core.load`, `Model` and the diffusion, whose names are promises. Weights are those of
docs/demo.safetensors, or numbers that `fill` puts into a network. Each entry holds statistics and the first values of
an array, and how much they may differ, relative to the largest of them.
"""

import argparse
import contextlib
import json
import math
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
# The tolerances, each for what is computed in that way.
FLOAT32, FLOAT64, TRAINING = 1e-6, 1e-12, 1e-6
FIRST = 6

FIXED = {"nfe": 8}
SAMPLERS: dict[str, dict[str, Any]] = {
    "ode": {"method": "ode", "rtol": 1e-3, "atol": 1e-3},
    "em": {"method": "em", **FIXED},
    "em quadratic": {"method": "em", "grid": "quadratic", "denoise": False, **FIXED},
    "sscs 1": {"method": "sscs", **FIXED},
    "sscs 2": {"method": "sscs", "sscs_order": 2, **FIXED},
    "exponential": {"method": "exponential", **FIXED},
    "exponential 0": {"method": "exponential", "order": 0, "corrector": False, "grid": "linear", **FIXED},
    "exponential 3": {"method": "exponential", "order": 3, **FIXED},
    "exponential noise": {"method": "exponential", "order": 2, "corrector": False, "eta": 0.3, **FIXED},
    "exponential repeats": {"method": "exponential", "repeats": 2, "jump": 3, **FIXED},
    "gddim": {"method": "gddim", **FIXED},
    "gddim cholesky": {"method": "gddim", "root": "cholesky", "corrector": True, **FIXED},
    "gddim noise": {"method": "gddim", "order": 0, "eta": 0.5, **FIXED},
    "conjugate": {"method": "conjugate", "conjugate_lambda": 0.3, **FIXED},
    "conjugate ones": {"method": "conjugate", "conjugate_lambda": 0.3, "conjugate_matrix": "ones", **FIXED},
    "symplectic euler": {"method": "splitting", "scheme": "symplectic-euler", "reduced": False, **FIXED},
    "velocity verlet": {"method": "splitting", "scheme": "velocity-verlet", "conjugate": True, **FIXED},
    "oba": {"method": "splitting", "scheme": "oba", **FIXED},
    "bao": {"method": "splitting", "scheme": "bao", "noise_scale": 0.5, **FIXED},
    "obab": {"method": "splitting", "scheme": "obab", "reduced": False, **FIXED},
}
IMAGE_SAMPLERS = ("em", "sscs 2", "exponential", "gddim", "oba")

SMALL = (
    "network.width=16",
    "network.layers=3",
    "train.batch_size=32",
    "train.log_every=1",
    "train.checkpoint_every=20",
)
# The runs of toys: recipe, number of steps, overrides.
TOYS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "cld": ("toy", 200, ("train.ema_lengths=[0.05,0.1]",)),
    "dsm": ("toy_diamond", 20, ("objective.name=dsm", "objective.mixed_score=true", "objective.weighting=likelihood")),
    "importance": (
        "toy",
        20,
        (
            "objective.times=importance",
            "objective.weighting=likelihood",
            "objective.precondition=data",
            "optim.name=adamax",
        ),
    ),
    "psld": ("toy_psld", 20, ("objective.mixed_score=true", "network.time_input=fourier")),
    "hold": ("toy_hold", 20, ("objective.weighting=reweightedv1", "network.name=resnet")),
    "vpsde": ("toy_vpsde", 20, ("objective.times=log", "optim.warmup_steps=10", "optim.decay=cosine")),
    "labels": ("toy_labels", 20, ("train.micro_batch=8",)),
}
SAMPLED = ("cld", "psld", "hold", "vpsde")
IMAGES = (
    *(
        "data.size=8",
        "network.image_size=8",
        "network.channels=8",
        "network.multipliers=[1,2]",
        "network.attention=[4]",
    ),
    *("train.batch_size=4", "train.log_every=1", "train.steps=20", "periodic.samples_every=null"),
    *("cluster.tasks_per_node=1", "sampling.method=em", "sampling.nfe=4", "eval.elbo.rtol=1e-2", "eval.elbo.atol=1e-2"),
    *("eval.samples=20", "eval.points=6", "eval.batch_size=8", "eval.kid.subset_size=5", "eval.kid.subsets=4"),
    *("eval.fid.extractor=tiny", f"eval.fid.plugin={ROOT}/tests/support/tiny_extractor.py"),
)
METRICS = ("--fid", "--kid", "--isc", "--prc", "--elbo", "--loss")

Entries = dict[str, dict[str, Any]]


def command(*arguments: str) -> None:
    """Run the command line in this process; its output is shown only if it fails."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    argv, handlers = sys.argv, {number: signal.getsignal(number) for number in numbers}
    code: Any = 0
    with tempfile.TemporaryFile("w+") as shown:
        try:
            sys.argv = ["cldctl", *arguments]
            with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
                runpy.run_module("cldctl", run_name="__main__")
        except SystemExit as end:
            code = end.code
        finally:
            sys.argv = argv
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if code:
            shown.seek(0)
            raise SystemExit(f"cldctl {' '.join(arguments)} ended with {code}:\n{shown.read()}")


def entry(values: Tensor | Iterable[float], tolerance: float) -> dict[str, Any]:
    """What is kept of an array."""
    flat = torch.as_tensor(values if isinstance(values, Tensor) else list(values)).detach().double().flatten()
    statistics = [flat.mean(), flat.square().mean().sqrt(), flat.abs().max(), flat.abs().min()]
    kept = [*statistics, *flat[:FIRST], *flat[-2:]]
    return {"size": flat.numel(), "tolerance": tolerance, "values": [float(number) for number in kept]}


def fill(net: torch.nn.Module) -> None:
    """Put fixed numbers into the weights of a network, which depend on their shapes and order alone."""
    met: dict[tuple[int, ...], int] = {}
    for weight in net.parameters():
        shape = tuple(weight.shape)
        met[shape] = met.get(shape, 0) + 1
        numbers = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * met[shape] + len(shape)))
        spread = 0.5 / math.sqrt(weight[0].numel()) if weight.ndim > 1 else 0.1
        weight.data.copy_(numbers * spread)


def losses(runs: Path, name: str) -> list[float]:
    """The loss of each step of a run, from its event files of TensorBoard, those of later attempts last."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for file in sorted((runs / name / "tensorboard").rglob("*tfevents*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        if "train/loss" in events.Tags()["scalars"]:
            found += [(event.wall_time, event.value) for event in events.Scalars("train/loss")]
    return [value for _, value in sorted(found)]


def kernel(sde: Any, objectives: Iterable[str]) -> list[float]:
    """The coefficients of a diffusion at some times."""

    def numbers(rows: Any) -> list[float]:
        return [number for row in rows for number in numbers(row)] if isinstance(rows, list | tuple) else [float(rows)]

    found = [*sde.prior_std, *sde.initial_std]
    for t in (1e-5, 1e-2, 0.3, 1.0):
        found += numbers(sde.mean(t))
        for objective in objectives:
            found += numbers([sde.factor(t, objective), sde.target(t, objective), *sde.mixed(t, objective)])
    return found


def sampled(model: Any, name: str, samplers: Iterable[str], n: int) -> Entries:
    """Samples of a model by several samplers; what a sampler refuses is kept as such."""
    from cld_core.errors import CldError

    found: Entries = {}
    for sampler in samplers:
        try:
            x = model.sample(n, seed=1, first=3, batch_size=n - 1, **SAMPLERS[sampler])
            found[f"{name}: samples, {sampler}"] = entry(x, FLOAT32)
        except CldError:
            found[f"{name}: samples, {sampler}"] = {"refused": True}
    return found


def bounds(model: Any, name: str, **settings: Any) -> Entries:
    """Bounds of log p(x), by a network in float64: in float32, the solver's choice of steps amplifies rounding."""
    model.net.double()
    x = 0.5 * torch.randn(6, *model.data_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = model.likelihood(x, seed=2, rtol=1e-3, atol=1e-3, **settings)
    model.net.float()
    return {
        f"{name}: likelihood bound": entry(found.elbo, FLOAT64),
        f"{name}: importance-weighted bound": entry(found.importance_bound, FLOAT64),
        f"{name}: evaluations of the bound": entry(found.nfe_each, FLOAT64),
    }


def of_demo() -> Entries:
    import cld_core
    from cld_core.conditioning import Observation, Replacement

    model = cld_core.load(ROOT / "docs" / "demo.safetensors", device="cpu")
    found = sampled(model, "demo", SAMPLERS, 40) | bounds(model, "demo", velocities=3, probes=2)
    known = Observation.masked(torch.tensor([0.8, 0.0]), torch.tensor([True, False]))
    for how in (None, Replacement()):
        x = model.sample(12, method="exponential", nfe=8, observation=known, by=how)
        found[f"demo: inpainting, {'replacement' if how else 'gradient'}"] = entry(x, FLOAT32)
    found["demo: data"] = entry(model.source.dequantised_test_data(0, 0, 50), FLOAT32)
    return found


def of_toys(runs: Path) -> Entries:
    import cld_core

    found: Entries = {}
    for name, (recipe, steps, overrides) in TOYS.items():
        settings = (*SMALL, f"train.steps={steps}", *overrides)
        command("submit", recipe, *settings, "--name", name, "--cluster", "debug", "--live-code")
        found[f"{name}: losses"] = entry(losses(runs, name), TRAINING)
        model = cld_core.load(runs / name, device="cpu")
        found[f"{name}: averaged weights"] = entry(_weights(model), TRAINING)
        found[f"{name}: kernel"] = entry(kernel(model.sde, type(model.recipe.sde).objectives), FLOAT64)
        fill(model.net)
        if name in SAMPLED:
            found |= sampled(model, name, SAMPLERS, 16) | bounds(model, name, velocities=2)
        if name == "labels":
            guided = model.sample(12, label=2, method="exponential", nfe=6, guidance=2.0, guidance_to=0.8)
            found["labels: guided samples"] = entry(guided, FLOAT32)
            found["labels: samples"] = entry(model.sample(12, method="em", nfe=6), FLOAT32)
    model = cld_core.load(runs / "cld", device="cpu", ema_length=0.08)
    found["cld: weights of a length after training"] = entry(_weights(model), TRAINING)
    for name, how in (("importance", "exact"), ("cld", "reseed")):
        steps = TOYS[name][1] + 20
        command("resume", name, f"train.steps={steps}", f"train.on_resume={how}", "--cluster", "debug")
        found[f"{name}: losses after a resume, {how}"] = entry(losses(runs, name)[-20:], TRAINING)
    command(
        "tune", "cld", "--checkpoint", "200", "--nfe", "4", "--points", "16", "--budget", "400", "--cluster", "debug"
    )
    tuned = cld_core.load(runs / "cld", 200, device="cpu").sample(16, method="tuned", nfe=4)
    # The fit takes many steps from trained weights.
    found["cld: samples, tuned"] = entry(tuned, 100 * TRAINING)
    return found


def of_images(runs: Path) -> Entries:
    """A tiny NCSN++: its losses, samples, and evaluations of a run with fixed weights in one and in three shards."""
    import cld_core

    folder = runs.parent
    command(
        "data", "prepare", "folder", "--source", f"{ROOT}/tests/fixtures/cifar", "--size", "8", "--out", f"{folder}/set"
    )
    settings = (*IMAGES, f"data.path={folder}/set")
    command("submit", "cifar10_smoke", *settings, "--name", "images", "--cluster", "debug", "--live-code")
    found = {"images: losses": entry(losses(runs, "images"), TRAINING)}
    model = cld_core.load(runs / "images", device="cpu")
    found["images: averaged weights"] = entry(_weights(model), TRAINING)
    fill(model.net)
    found |= sampled(model, "images", IMAGE_SAMPLERS, 3) | bounds(model, "images", velocities=1)
    # The frequencies are fixed, and no average is taken of them.
    averaged = [weight.data for name, weight in model.net.named_parameters() if name != "all_modules.0.W"]
    published = {
        "model": {f"module.{name}": tensor for name, tensor in model.net.state_dict().items()},
        "ema": {"shadow_params": averaged, "num_updates": 20},
        "optimizer": {"state": {}, "param_groups": [{"params": list(range(len(averaged)))}]},
        "step": 20,
    }
    torch.save(published, folder / "published.pth")
    for shards in (1, 3):
        name = f"shards-{shards}"
        command("import", f"{folder}/published.pth", "--recipe", "cifar10_smoke", *settings, "--name", name)
        if shards == 1:
            command("data", "stats", name, "--features", "--cluster", "debug")
        command("eval", name, *METRICS, "--shards", str(shards), "--cluster", "debug")
        (report,) = (runs / name / "evals").glob("*/report.json")
        for metric, numbers in sorted(json.loads(report.read_text()).items()):
            if isinstance(numbers, dict):
                values = [numbers[key] for key in sorted(numbers) if isinstance(numbers[key], float)]
                found[f"images: {metric}, {shards} shards"] = entry(values, FLOAT32)
    return found


def _weights(model: Any) -> Tensor:
    return torch.cat([weight.flatten() for weight in model.net.parameters()])


def compute(folder: Path) -> Entries:
    torch.set_num_threads(1)
    runs = folder / "runs"
    os.environ |= {"CLDCTL_RUNS": str(runs), "CLDCTL_CACHE": f"{folder}/cache", "XDG_CONFIG_HOME": f"{folder}/config"}
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return of_demo() | of_toys(runs) | of_images(runs)


def differences(old: Entries, new: Entries) -> list[str]:
    """A line for each entry that is not what it was."""
    found = [f"{name}: gone" for name in old if name not in new] + [f"{name}: new" for name in new if name not in old]
    for name in old:
        if name in new and old[name] != new[name]:
            before, after = old[name], new[name]
            if before.get("size") != after.get("size"):
                found.append(
                    f"{name}: {before.get('size', 'refused')} numbers before, {after.get('size', 'refused')} now"
                )
                continue
            size = max(map(abs, before["values"])) or 1.0
            gap = max(abs(a - b) for a, b in zip(before["values"], after["values"], strict=True)) / size
            if not gap <= before["tolerance"]:
                found.append(f"{name}: differs by {gap:.1e} of its largest value, more than {before['tolerance']:.0e}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--compare", action="store_true", help="compare two files")
    given = parser.parse_args()
    if len(given.files) != (2 if given.compare else 1):
        parser.error("one file to write, or --compare OLD NEW")
    if not given.compare:
        with tempfile.TemporaryDirectory() as folder:
            entries = compute(Path(folder))
        lines = [f"  {json.dumps(name)}: {json.dumps(content)}" for name, content in sorted(entries.items())]
        given.files[0].write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return 0
    old, new = (json.loads(file.read_text()) for file in given.files)
    found = differences(old, new)
    print("\n".join(found) or f"all {len(old)} entries are equal, within their tolerances")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

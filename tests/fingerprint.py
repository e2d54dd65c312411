"""The numbers that cldctl computes from fixed weights and seeds, to see what a change of the code
does to them.

By hand: ``python -m tests.fingerprint OUT.json`` computes them in about a minute of one core, and
``python -m tests.fingerprint --compare OLD NEW`` prints which differ, and ends with 1 if any do.
Compare files of one machine: another processor rounds differently. ``tests/fingerprint.json`` is
one, to compare later versions with.

It uses the command line, `cld_core.load`, `Model` and the diffusion, whose names are promises, and
of the tests `paths` and `tools` in tests/support. Weights are those of docs/demo.safetensors, or
numbers that `fill` puts into a network. Each entry holds statistics and the first values of an
array, and how much they may differ, relative to the largest of them (coefficients of diffusions:
each to itself).
"""

import json
import math
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.support.paths import ROOT
from tests.support.tools import invoke

# Tolerances: somewhat more than what changes if all weights do by one unit in the last place. The
# steps of an adaptive solver jump, the demo's network is steep near the data, and a fit goes far
# from where it begins.
KERNEL, BOUND, SAMPLES, STEEP, METRIC, TRAINING, FIT = 1e-12, 1e-9, 1e-5, 1e-4, 1e-6, 1e-6, 1e-2
# Of an array, the first numbers that are kept; of a short one, all.
FIRST, SHORT = 6, 12

# Beside these settings, all but the adaptive one have a number of evaluations.
NFE = 8
SAMPLERS = {
    "ode": {"method": "ode", "rtol": 1e-3, "atol": 1e-3},
    "em": {"method": "em"},
    "em quadratic": {"method": "em", "grid": "quadratic", "denoise": False},
    "sscs 1": {"method": "sscs"},
    "sscs 2": {"method": "sscs", "sscs_order": 2},
    "exponential": {"method": "exponential"},
    "exponential 0": {
        "method": "exponential",
        "order": 0,
        "corrector": False,
        "grid": "linear",
    },
    "exponential 3": {"method": "exponential", "order": 3},
    "exponential noise": {
        "method": "exponential",
        "order": 2,
        "corrector": False,
        "eta": 0.3,
    },
    "exponential repeats": {"method": "exponential", "repeats": 2, "jump": 3},
    "gddim": {"method": "gddim"},
    "gddim cholesky": {"method": "gddim", "root": "cholesky", "corrector": True},
    "gddim noise": {"method": "gddim", "order": 0, "eta": 0.5},
    "conjugate": {"method": "conjugate", "conjugate_lambda": 0.3},
    "conjugate ones": {
        "method": "conjugate",
        "conjugate_lambda": 0.3,
        "conjugate_matrix": "ones",
    },
    "symplectic euler": {
        "method": "splitting",
        "scheme": "symplectic-euler",
        "reduced": False,
    },
    "velocity verlet": {
        "method": "splitting",
        "scheme": "velocity-verlet",
        "conjugate": True,
    },
    "oba": {"method": "splitting", "scheme": "oba"},
    "bao": {"method": "splitting", "scheme": "bao", "noise_scale": 0.5},
    "obab": {"method": "splitting", "scheme": "obab", "reduced": False},
}
# Without those that are far off with so few evaluations, and enlarge what is rounded.
DEMO_SAMPLERS = (
    "em",
    "sscs 1",
    "sscs 2",
    "exponential",
    "exponential 3",
    "gddim",
    "gddim noise",
    "velocity verlet",
)
IMAGE_SAMPLERS = ("em", "sscs 2", "exponential", "gddim", "oba")

SMALL = (
    "network.width=16 network.layers=3 train.batch_size=32 train.log_every=1 "
    "train.checkpoint_every=20"
)
# The runs of toys: recipe, number of steps, overrides.
TOYS = {
    "cld": ("toy", 200, "train.ema_lengths=[0.05,0.1]"),
    "dsm": (
        "toy_diamond",
        20,
        "objective.name=dsm objective.mixed_score=true objective.weighting=likelihood",
    ),
    "importance": (
        "toy",
        20,
        "objective.weighting=likelihood objective.times=importance optim.name=adamax",
    ),
    "preconditioned": ("toy", 20, "objective.precondition=data train.micro_batch=8"),
    "psld": ("toy_psld", 20, "objective.mixed_score=true network.time_input=fourier"),
    "hold": (
        "toy_hold",
        20,
        "objective.weighting=reweightedv1 network.name=resnet network.width=64 network.layers=20",
    ),
    "vpsde": ("toy_vpsde", 20, "objective.times=log optim.warmup_steps=10 optim.decay=cosine"),
    "labels": ("toy_labels", 20, ""),
}
SAMPLED = ("cld", "psld", "hold", "vpsde")
IMAGES = f"""
data.size=8 network.image_size=8 network.channels=8 network.multipliers=[1,2] network.attention=[4]
train.batch_size=4 train.log_every=1 train.steps=20 periodic.samples_every=null
cluster.tasks_per_node=1 sampling.method=em sampling.nfe=4 eval.elbo.rtol=1e-2 eval.elbo.atol=1e-2
eval.samples=20 eval.points=6 eval.batch_size=8 eval.kid.subset_size=5 eval.kid.subsets=4
eval.fid.extractor=tiny plugins={ROOT}/tests/support/tiny_extractor.py
"""
METRICS = "--fid --kid --isc --prc --elbo --loss"


def command(text):
    """Run a command in this process, at once if there is a scheduler in it."""
    invoke(text, runs=os.environ["CLDCTL_RUNS"])


def entry(values, tolerance):
    """What is kept of an array, and the tolerance."""
    flat = (
        torch.as_tensor(values if isinstance(values, Tensor) else list(values))
        .detach()
        .double()
        .flatten()
    )
    statistics = [flat.mean(), flat.square().mean().sqrt(), flat.abs().max(), flat.abs().min()]
    kept = [*statistics, *flat[:FIRST], *flat[-2:]] if len(flat) > SHORT else flat
    digits = 15 if tolerance <= BOUND else 9
    return {
        "size": len(flat),
        "tolerance": tolerance,
        "values": [float(f"{number:.{digits}g}") for number in kept],
    }


def fill(net):
    """Put fixed numbers into the weights of a network, which depend on their shapes and order
    alone."""
    met = {}
    for weight in net.parameters():
        shape = tuple(weight.shape)
        met[shape] = met.get(shape, 0) + 1
        numbers = torch.randn(
            shape, generator=torch.Generator().manual_seed(1000 * met[shape] + len(shape))
        )
        spread = 0.5 / math.sqrt(weight[0].numel()) if weight.ndim > 1 else 0.1
        weight.data.copy_(numbers * spread)


def losses(runs, name):
    """The loss of each step of a run, from its event files of TensorBoard, those of later attempts
    last."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for file in sorted((runs / name / "tensorboard").rglob("*tfevents*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        if "train/loss" in events.Tags()["scalars"]:
            found += [(event.wall_time, event.value) for event in events.Scalars("train/loss")]
    return [value for _, value in sorted(found)]


def kernel(sde, objectives):
    """The coefficients of a diffusion at some times, by name."""

    def numbers(found):
        if isinstance(found, tuple):
            return [number for one in found for number in numbers(one)]
        return found.flatten().tolist()

    for t in (1e-5, 1e-2, 0.3, 1.0):
        yield f"mean at {t:g}", numbers(sde.mean(t))
        for objective in objectives:
            lower = sde.factor(t, objective).numpy()[np.tril_indices(sde.n)]
            yield f"factor of {objective} at {t:g}", lower.tolist()
            for what, found in (("target", sde.target), ("mixed score", sde.mixed)):
                yield f"{what} of {objective} at {t:g}", numbers(found(t, objective))


def sampled(model, name, samplers, n, **more):
    """Samples of a model by several samplers; what a sampler refuses is kept as such."""
    from cld_core.errors import CldError

    found = {}
    for sampler in samplers:
        settings = {**SAMPLERS[sampler], **more}
        if sampler != "ode":
            settings["nfe"] = NFE
        try:
            x = model.sample(n, seed=1, first=3, batch_size=n - 1, **settings)
            steep = name == "demo" or sampler == "ode"
            found[f"{name}: samples, {sampler}"] = entry(x, STEEP if steep else SAMPLES)
        except CldError:
            found[f"{name}: samples, {sampler}"] = {"refused": True}
    return found


def bounds(model, name, **settings):
    """Bounds of log p(x), by a network in float64: in float32, the solver's choice of steps
    amplifies rounding."""
    model.net.double()
    x = 0.5 * torch.randn(
        6, *model.data_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    found = model.likelihood(x, seed=2, rtol=1e-3, atol=1e-3, **settings)
    model.net.float()
    return {
        f"{name}: likelihood bound": entry(found.elbo, BOUND),
        f"{name}: importance-weighted bound": entry(found.importance_bound, BOUND),
        f"{name}: evaluations of the bound": entry(found.nfe_each, BOUND),
    }


def inpainted(model, name):
    from cld_core.conditioning import Observation, Replacement

    known = Observation.masked(torch.tensor([0.8, 0.0]), torch.tensor([True, False]))
    ways = {"gradient": None, "replacement": Replacement()}
    settings = {"method": "exponential", "nfe": 8, "observation": known}
    found = {how: model.sample(12, by=by, **settings) for how, by in ways.items()}
    return {f"{name}: inpainted by {how}": entry(x, SAMPLES) for how, x in found.items()}


def of_toys(runs):
    import cld_core

    found = {}
    for name, (recipe, steps, overrides) in TOYS.items():
        command(
            f"submit {recipe} {SMALL} train.steps={steps} {overrides} --name {name} --cluster "
            f"debug --live-code"
        )
        found[f"{name}: losses"] = entry(losses(runs, name), TRAINING)
        model = cld_core.load(runs / name, device="cpu")
        found[f"{name}: averaged weights"] = entry(_weights(model), TRAINING)
        fill(model.net)
        if name in SAMPLED:
            coefficients = kernel(model.sde, ("dsm",) if name == "vpsde" else ("hsm", "dsm"))
            found |= {f"{name}: {what}": entry(numbers, KERNEL) for what, numbers in coefficients}
            found |= sampled(model, name, SAMPLERS, 16) | bounds(
                model, name, velocities=2, probes=2
            )
        if name == "psld":
            found |= inpainted(model, name)
        if name == "labels":
            guided = model.sample(
                12, label=2, method="exponential", nfe=6, guidance=2.0, guidance_to=0.8
            )
            found["labels: guided samples"] = entry(guided, SAMPLES)
            found["labels: samples"] = entry(model.sample(12, method="em", nfe=6), SAMPLES)
    model = cld_core.load(runs / "cld", device="cpu", ema_length=0.08)
    found["cld: weights of a length after training"] = entry(_weights(model), TRAINING)
    for name, how in (("importance", "exact"), ("cld", "reseed")):
        steps = TOYS[name][1] + 20
        command(f"resume {name} train.steps={steps} train.on_resume={how} --cluster debug")
        found[f"{name}: losses after a resume, {how}"] = entry(losses(runs, name)[-20:], TRAINING)
    command("tune cld --checkpoint 200 --nfe 4 --points 16 --budget 400 --cluster debug")
    tuned = cld_core.load(runs / "cld", 200, device="cpu").sample(16, method="tuned", nfe=4)
    found["cld: samples, tuned"] = entry(tuned, FIT)
    return found


def of_images(runs):
    """A tiny NCSN++: its losses, samples, and evaluations of a run with fixed weights in one and in
    three shards."""
    import cld_core

    folder = runs.parent
    settings = f"{IMAGES} data.path={folder}/set"
    command(f"data prepare folder --source {ROOT}/tests/fixtures/cifar --size 8 --out {folder}/set")
    command(f"submit cifar10_smoke {settings} --name images --cluster debug --live-code")
    found = {"images: losses": entry(losses(runs, "images"), TRAINING)}
    model = cld_core.load(runs / "images", device="cpu")
    found["images: averaged weights"] = entry(_weights(model), TRAINING)
    fill(model.net)
    found |= sampled(model, "images", IMAGE_SAMPLERS, 3, grid="quadratic")
    found |= bounds(model, "images", velocities=1)
    # The frequencies are fixed, and no average is taken of them.
    averaged = [
        weight.data for name, weight in model.net.named_parameters() if name != "all_modules.0.W"
    ]
    published = {
        "model": {f"module.{name}": tensor for name, tensor in model.net.state_dict().items()},
        "ema": {"shadow_params": averaged, "num_updates": 20},
        "optimizer": {"state": {}, "param_groups": [{"params": list(range(len(averaged)))}]},
        "step": 20,
    }
    torch.save(published, folder / "published.pth")
    for shards in (1, 3):
        name = f"shards-{shards}"
        command(f"import {folder}/published.pth --recipe cifar10_smoke {settings} --name {name}")
        if shards == 1:
            command(f"data stats {name} --features --cluster debug")
        command(f"eval {name} {METRICS} --shards {shards} --cluster debug")
        (report,) = (runs / name / "evals").glob("*/report.json")
        for metric, numbers in sorted(json.loads(report.read_text()).items()):
            for key, number in numbers.items() if isinstance(numbers, dict) else ():
                if isinstance(number, float):
                    found[f"images: {metric}.{key}, {shards} shards"] = entry([number], METRIC)
    return found


def _weights(model):
    return torch.cat([weight.flatten() for weight in model.net.parameters()])


def compute(folder):
    import cld_core

    torch.set_num_threads(1)
    runs = folder / "runs"
    os.environ |= {
        "CLDCTL_RUNS": str(runs),
        "CLDCTL_CACHE": f"{folder}/cache",
        "XDG_CONFIG_HOME": f"{folder}/config",
    }
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    demo = cld_core.load(ROOT / "docs" / "demo.safetensors", device="cpu")
    return sampled(demo, "demo", DEMO_SAMPLERS, 40) | of_toys(runs) | of_images(runs)


def difference(before, after):
    """How an entry differs by more than its tolerance; None if it does not."""
    if before.get("size") != after.get("size"):
        return f"{before.get('size', 'no')} numbers before, {after.get('size', 'no')} now"
    pairs = list(zip(before.get("values", ()), after.get("values", ()), strict=True))
    largest, tolerance = max((abs(a) for a, _ in pairs), default=0.0), before.get("tolerance", 0.0)
    sizes = [abs(a) if tolerance <= KERNEL else largest for a, _ in pairs]
    gap = max(
        (abs(a - b) / (size or 1.0) for (a, b), size in zip(pairs, sizes, strict=True)), default=0.0
    )
    return None if gap <= tolerance else f"differs by {gap:.1e}, more than {tolerance:.0e}"


def main(*arguments):
    if arguments[:1] != ("--compare",):
        (output,) = arguments
        with tempfile.TemporaryDirectory() as folder:
            entries = compute(Path(folder))
        lines = [
            f"  {json.dumps(name)}: {json.dumps(content)}"
            for name, content in sorted(entries.items())
        ]
        Path(output).write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return 0
    old, new = (json.loads(Path(file).read_text()) for file in arguments[1:])
    for name in new.keys() - old.keys():
        print(f"{name}: new")
    found = {name: "gone" if name not in new else difference(old[name], new[name]) for name in old}
    print("\n".join(f"{name}: {how}" for name, how in found.items() if how))
    print(f"{sum(map(bool, found.values()))} of {len(old)} entries differ")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

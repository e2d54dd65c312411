"""How GPUs would compute what is evaluated: exactly, whatever the training around it uses."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from cld_core import numerics
from cld_core.evaluate import extractors, registry
from cld_core.evaluate.features import FeatureRows
from cld_core.imports import resolve
from cld_core.model import Model

from .on_images import request

LOOSE = ("eval.elbo.rtol=0.1", "eval.elbo.atol=0.1")
EXACT, TF32 = (False, False, False), (True, True, False)


@contextmanager
def seen(net: nn.Module) -> Iterator[set[tuple[bool, bool, bool]]]:
    """TF32 of products and of convolutions and cuDNN's benchmark, during the calls of ``net``."""
    found: set[tuple[bool, bool, bool]] = set()

    def record(*_):
        backends = torch.backends
        found.add((backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark))

    hook = net.register_forward_pre_hook(record)
    try:
        with numerics.using(tf32=True, fixed_shapes=True):
            yield found
    finally:
        hook.remove()


@pytest.mark.parametrize("kind", ["elbo", "loss", "features"])
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_rows_have_their_own_precision_within_training(run, kind, precision):
    model = Model.from_run(run.path)
    asked = request(run, *LOOSE, f"sampling.precision={precision}", metrics=("fid", "elbo", "loss"))
    model.recipe = dataclasses.replace(model.recipe, sampling=asked.sampling)
    with seen(model.net) as found:
        resolve(registry.ROWS[kind].implementation)(model, asked).compute(0, 2)
    assert found == {TF32 if (kind, precision) == ("features", "tf32") else EXACT}


def test_features_are_exact(run):
    model, asked = Model.from_run(run.path), request(run, metrics=("fid",))
    with seen(extractors.load(asked.inputs, asked.files, model.device)._net) as found:
        FeatureRows(model, asked).compute(0, 2)
    assert found == {EXACT}

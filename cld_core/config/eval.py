"""The `eval` section: the settings of each metric."""

from typing import Literal

from .keys import key, section, spec_class

INCEPTION = "inception-v3-compat"
# Inception of 2015-12-05, the extractor of published FIDs, and the SHA-256 of its weights.
WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


@spec_class
class ElboSpec:
    velocities: int = key(1, "draws of the initial velocity for each example", ge=1, le=10_000)
    probes: int = key(1, "probes of the trace for each draw", ge=1, le=10_000)
    probe: Literal["rademacher", "gaussian"] = key(
        "rademacher", "distribution of the probes; gaussian: scaled to their mean length"
    )
    eps: float = key(
        1e-5, "time at which the flow starts; objective.loss_eps if that is later", gt=0, lt=1
    )
    rtol: float = key(1e-5, "relative tolerance of the adaptive solver", gt=0)
    atol: float = key(1e-5, "absolute tolerance of the adaptive solver", gt=0)
    compile: bool = key(
        False, "torch.compile the network that bounds are computed with; GPUs: with CUDA graphs"
    )


@spec_class
class LossSpec:
    draws: int = key(1, "draws of time and noise for each test point", ge=1, le=10_000)


@spec_class
class FidSpec:
    """The features of images that FID, KID, Inception Score and precision/recall share."""

    extractor: str = key(
        INCEPTION, "feature extractor, by its name in torch-fidelity or in a plug-in"
    )
    layer: str | int | None = key(None, "layer of the extractor; null: its layer for FID")
    weights: str | None = key(
        None, "file of the extractor's weights; null: where torch keeps its downloads", is_path=True
    )
    download: bool = key(False, "download missing weights of Inception")
    quantisation: Literal["round", "floor"] = key(
        "round", "how samples become grey levels; floor: as published"
    )
    stats: str | None = key(
        None, "statistics of the training set; null: those of `cldctl data stats`", is_path=True
    )


@spec_class
class KidSpec:
    subsets: int = key(100, "random subsets over which the distance is averaged", ge=1, le=100_000)
    subset_size: int = key(1000, "images in a subset", ge=2, le=100_000)


@spec_class
class IscSpec:
    splits: int = key(10, "parts of the samples over which the score is averaged", ge=1, le=1000)


@spec_class
class PrcSpec:
    neighbours: int = key(
        3,
        "nearest neighbours that set the radius of the balls of precision and recall",
        ge=1,
        le=1000,
    )


@spec_class
class W2Spec:
    directions: int = key(64, "directions that samples are projected on", ge=1, le=10_000)
    sets: int = key(4, "sets of true samples over which the distance is averaged", ge=2, le=100)


@spec_class
class FlowSpec:
    samples: int = key(
        1000, "samples that are compared, at most eval.samples", ge=2, le=100_000_000
    )
    rtol: float = key(1e-6, "relative tolerance of the solver that follows the flow", gt=0)
    atol: float = key(1e-6, "absolute tolerance of the solver that follows the flow", gt=0)


@spec_class
class EvalSpec:
    samples: int = key(2000, "samples to draw", ge=2, le=100_000_000)
    points: int | None = key(
        None, "test points of ELBO and loss; null: all, for toys eval.samples", ge=1, le=100_000_000
    )
    batch_size: int = key(2048, "samples or test points computed at once", ge=1, le=1_000_000)
    seed: int = key(0, "key of every random draw of an evaluation", ge=0)
    max_nonfinite: float = key(
        0.001, "largest fraction of samples that may be infinite or NaN", ge=0, le=1
    )
    elbo: ElboSpec = section(ElboSpec, "the likelihood bound")
    loss: LossSpec = section(LossSpec, "the loss on test points")
    fid: FidSpec = section(
        FidSpec, "the features of images that FID, KID, Inception Score and precision/recall share"
    )
    kid: KidSpec = section(KidSpec, "the kernel inception distance")
    isc: IscSpec = section(IscSpec, "the Inception Score")
    prc: PrcSpec = section(PrcSpec, "precision and recall")
    w2: W2Spec = section(W2Spec, "the sliced Wasserstein distance from true samples")
    flow: FlowSpec = section(FlowSpec, "the distance from the network's own flow")

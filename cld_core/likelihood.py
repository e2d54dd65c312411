"""Likelihood by the probability flow (docs/math.md section 8).

It is exact for a diffusion of x alone, and a lower bound for one with other halves. All values are
in nats and of the density of x itself; code that knows about pixels converts them to bits/dim.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cld_core.config.eval import ElboSpec
from cld_core.score import ScoreFunction, for_rows
from cld_core.sde import Diffusion
from cld_core.sde.base import Matrices
from cld_core.sde.matrices import combined
from cld_core.seeds import SampleNoise
from cld_core.solver import Field, solve


@dataclass(frozen=True)
class Likelihood:
    """Log-densities of B examples, each with K draws v_k of the other halves (CLD: velocities).

    float64, nats. For a diffusion of x alone, K is 1.

    Attributes:
        log_joint: (B, K), log p(x, v_k).
        log_q: (B, K), log q(v_k) of the law of the draws; 0 for x alone.
        entropy: the entropy of q; 0 for x alone.
        nfe_each: (B, K), int64, network evaluations.
    """

    log_joint: Tensor
    log_q: Tensor
    entropy: float
    nfe_each: Tensor

    def rescaled(self, log_det: float) -> "Likelihood":
        """The log-densities of x = S z + shift, if these are of z; ``log_det`` is log |S|, nats."""
        return replace(self, log_joint=self.log_joint - log_det)

    @property
    def elbo(self) -> Tensor:
        """(B,): mean over k of log p(x, v_k) - log q(v_k).

        In expectation it is a lower bound of log p(x). The paper has H(q) in place of -log q(v_k).
        The expectation is the same; this varies far less, because log p(x, v) and log q(v) rise
        and fall together.
        """
        return (self.log_joint - self.log_q).mean(1)

    @property
    def paper_elbo(self) -> Tensor:
        """(B,): mean over k of log p(x, v_k) + H(q), as in the paper."""
        return self.log_joint.mean(1) + self.entropy

    @property
    def importance_bound(self) -> Tensor:
        """(B,): log mean over k of p(x, v_k) / q(v_k); never below `elbo`.

        In expectation it is a lower bound of log p(x) if the trace is exact. The noise of probes
        is exponentiated, which raises it (docs/math.md section 8): use several probes, or the exact
        trace.
        """
        weights = self.log_joint - self.log_q
        return torch.logsumexp(weights, dim=1) - math.log(weights.shape[1])

    @property
    def elbo_error(self) -> Tensor:
        """(B,): standard error of each `elbo`, over its draws and their probes; NaN if K is 1."""
        count = self.log_joint.shape[1]
        if count == 1:
            return torch.full_like(self.log_joint[:, 0], math.nan)
        return (self.log_joint - self.log_q).std(1) / math.sqrt(count)

    @property
    def mean(self) -> float:
        """Mean of `elbo` over the data."""
        return float(self.elbo.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of `mean`, over data, draws and probes; NaN for a single example."""
        if len(self.elbo) == 1:
            return math.nan
        return float(self.elbo.std()) / math.sqrt(len(self.elbo))

    @property
    def nfe(self) -> float:
        """Mean number of network evaluations per example and draw."""
        return float(self.nfe_each.double().mean())


def _weighted(sde: Diffusion, scored: Tensor) -> Tensor:
    """The scored halves (B, mC, ...) of a probe, times the roots of their weights in the trace.

    With roots on both sides of the Jacobian, the estimate has the same mean as with the weights on
    one side, and less variance.
    """
    weights = sde.trace_weights
    if all(weight == 1.0 for weight in weights):
        return scored
    parts = zip(weights, sde.scored_halves(scored), strict=True)
    return torch.cat([math.sqrt(weight) * part for weight, part in parts], dim=1)


def _trace(
    score: ScoreFunction, sde: Diffusion, u: Tensor, t: Tensor, probes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The score at u (b, ...), and the weighted trace (b,) of its Jacobian.

    There is one backward pass for each direction: for each of the probes (b, P, ...) of the scored
    halves, which is Hutchinson's estimate, or without probes for each coordinate. Compiled networks
    may free what a backward pass reads (`Score.single_backward`), so they are evaluated each time.
    """
    once = getattr(score, "single_backward", False)
    total = torch.zeros(len(u), dtype=torch.float64, device=u.device)
    with torch.enable_grad():
        leaf = u.detach().requires_grad_()
        s = score(leaf, t)
        if probes is None:
            units = torch.eye(s[0].numel(), dtype=s.dtype, device=s.device)
            directions = units.view(-1, 1, *s.shape[1:]).unbind(0)
        else:
            directions = probes.unbind(1)
        for p, direction in enumerate(directions):
            if p and once:
                s = score(leaf, t)
            direction = _weighted(sde, direction).expand_as(s)
            again = not once and p + 1 < len(directions)
            (product,) = torch.autograd.grad(s, leaf, direction, retain_graph=again)
            total = total + (sde.scored(product) * direction).flatten(1).sum(1)
    return s.detach(), total if probes is None else total / len(directions)


def density_field(
    score: ScoreFunction,
    sde: Diffusion,
    shape: torch.Size,
    dtype: torch.dtype,
    probes: Tensor | None,
) -> Field:
    """The field of u and the accumulated divergence, flattened to (R, N + 1), float64.

    Args:
        shape: the shape of one u of N numbers, as the score gets it.
        dtype: the type of u, as the score gets it.
        probes: the probes of the trace, see `log_density`.
    """
    size = shape.numel()

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        u = y[:, :size].to(dtype).view(-1, *shape)
        of_rows = None if probes is None else probes[rows]
        s, trace = _trace(for_rows(score, rows), sde, u, t, of_rows)
        out = torch.empty_like(y)
        out[:, :size] = sde.flow(u, s, t).flatten(1)
        out[:, size] = sde.flow_divergence(trace, t, size // sde.n)
        return out

    return field


@torch.no_grad()
def log_density(
    score: ScoreFunction,
    sde: Diffusion,
    u: Tensor,
    probes: Tensor | None,
    *,
    eps: float = 1e-5,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """log p_eps(u) along the probability flow from eps to 1.

    Every row has its own step size, so its result does not depend on the others. The accumulated
    divergence is one more component of the state and of the error norm.

    Args:
        u: (R, nC, ...); (x, v) for CLD.
        probes: (R, P, mC, ...) of the scored halves, whose estimates are averaged in every
            evaluation. None: the exact trace, which takes one backward pass per coordinate.

    Returns:
        The log-density (R,), float64, in nats; u at time 1, float64; and the evaluations (R,),
        int64.

    Raises:
        SolverError: the tolerance is out of reach.
    """
    field = density_field(score, sde, u.shape[1:], u.dtype, probes)
    flat = u.flatten(1).double()
    solution = solve(field, torch.nn.functional.pad(flat, (0, 1)), eps, 1.0, rtol=rtol, atol=atol)
    u_end = solution.y[:, :-1].view_as(u)
    return sde.prior_logp(u_end) + solution.y[:, -1], u_end, solution.nfe


def likelihood(
    score: ScoreFunction,
    sde: Diffusion,
    spec: ElboSpec,
    noise: SampleNoise,
    x: Tensor,
    *,
    exact_trace: bool = False,
) -> Likelihood:
    """A bound of log p(x) for data x (B, C, ...), or its value for a diffusion of x alone.

    The other halves are drawn from q(v | x), their law at ``spec.eps`` given x at 0; the flow
    starts at ``spec.eps``. For CLD, the law is within one percent of N(0, gamma M) and makes the
    bound tight (docs/math.md section 8).

    Args:
        noise: the noise of the B examples. The result for an example depends on its own noise only.
        exact_trace: use no probes; for low dimensions and exact scores.

    Raises:
        SolverError: the tolerance is out of reach.
    """
    batch, channels, *rest = x.shape
    shape = (channels * sde.m, *rest)
    count = spec.velocities if sde.n > 1 else 1
    law = sde.auxiliary(spec.eps)

    log_q = torch.zeros(batch, count, dtype=torch.float64, device=x.device)
    starts = []
    probes = []
    for k in range(count):
        start = x
        if sde.n > 1:
            e = noise.normal((channels * (sde.n - 1), *rest)).to(x)
            start, log_q[:, k] = _with_others(law, x, e)
        starts.append(start)
        if not exact_trace:
            probes.append(_probes(noise, sde, spec, shape).to(x))
    rows = torch.arange(batch, device=x.device).repeat(count)
    of_rows = for_rows(score, rows)
    u = torch.cat(starts)
    directions = None if exact_trace else torch.cat(probes)
    settings = {"eps": spec.eps, "rtol": spec.rtol, "atol": spec.atol}
    log_joint, _, nfe = log_density(of_rows, sde, u, directions, **settings)
    per_number = (sde.n - 1) * math.log(2.0 * math.pi * math.e) + _log_det(law)
    entropy = 0.5 * x[0].numel() * per_number
    return Likelihood(log_joint.view(count, batch).T, log_q, entropy, nfe.view(count, batch).T)


def _probes(noise: SampleNoise, sde: Diffusion, spec: ElboSpec, shape: tuple[int, ...]) -> Tensor:
    """Probes (B, P, mC, ...), P of each example.

    The squared length of each scored half is the number of its entries: that of signs is, and
    normal numbers are scaled to it (docs/math.md section 8).
    """
    if spec.probe == "rademacher":
        return noise.rademacher((spec.probes, *shape))
    normal = noise.normal((spec.probes, *shape))
    halves = normal.reshape(*normal.shape[:2], sde.m, -1).double()
    lengths = torch.linalg.vector_norm(halves, dim=3, keepdim=True)
    return (halves * (math.sqrt(halves.shape[3]) / lengths)).view_as(normal)


def _with_others(law: Matrices, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """u (B, nC, ...), whose halves other than x are drawn from ``law`` with the noise e, and their
    log-density (B,).

    The law is that of `Diffusion.auxiliary`.
    """
    others = len(law[0])
    auxiliary = combined(torch.cat(law, dim=1), (x, *e.chunk(others, dim=1)))
    square = e.double().square().flatten(1).sum(1)
    log_volume = x[0].numel() * (others * math.log(2.0 * math.pi) + _log_det(law))
    return torch.cat([x, auxiliary], dim=1), -0.5 * (square + log_volume)


def _log_det(law: Matrices) -> float:
    """The logarithm of the determinant of the covariance of `Diffusion.auxiliary`."""
    return 2.0 * float(law[1].diag().log().sum())

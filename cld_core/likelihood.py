"""Likelihood by the probability flow (docs/math.md section 8): exact for VPSDE, a lower bound for CLD.

All values are in nats and of the density of x itself; bits/dim is the business of who knows the pixels.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cld_core.recipe.eval import ElboSpec
from cld_core.score import ScoreFunction
from cld_core.sde import CLD, SDE
from cld_core.solver import Field, solve


class ProbeNoise(Protocol):
    """What `cld_core.seeds.SampleNoise` offers: each returns (B, *shape)."""

    def normal(self, shape: tuple[int, ...]) -> Tensor: ...

    def rademacher(self, shape: tuple[int, ...]) -> Tensor: ...


@dataclass(frozen=True)
class Likelihood:
    """Results of B data, K velocities each (K = 1 without phase space). float64, nats."""

    log_joint: Tensor  # (B, K): log p(x, v_k); log p(x) without phase space
    log_q: Tensor  # (B, K): log q(v_k) of the law that v_k was drawn from; 0 without phase space
    entropy: float  # of q; 0 without phase space
    nfe_each: Tensor  # (B, K), int64

    @property
    def elbo(self) -> Tensor:
        """(B,): mean over k of log p(x, v_k) - log q(v_k), a lower bound of log p(x) in expectation.

        The paper has H(q) in the place of -log q(v_k). The expectation is the same; this varies far less,
        for log p(x, v) and log q(v) rise and fall together.
        """
        return (self.log_joint - self.log_q).mean(1)

    @property
    def paper_elbo(self) -> Tensor:
        """(B,): mean over k of log p(x, v_k) + H(q), as in the paper."""
        return self.log_joint.mean(1) + self.entropy

    @property
    def importance_bound(self) -> Tensor:
        """(B,): log mean over k of p(x, v_k) / q(v_k); never below `elbo`.

        A lower bound of log p(x) in expectation where the trace is exact. The noise of probes enters
        exponentiated and lifts it (docs/math.md section 8): take several probes, or the exact trace.
        """
        return torch.logsumexp(self.log_joint - self.log_q, dim=1) - math.log(self.log_joint.shape[1])

    @property
    def mean(self) -> float:
        """Mean of `elbo` over the data."""
        return float(self.elbo.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of `mean`, over data, velocities and probes together; NaN for a single datum."""
        return float(self.elbo.std()) / math.sqrt(len(self.elbo)) if len(self.elbo) > 1 else math.nan

    @property
    def nfe(self) -> float:
        """Network evaluations of one datum and velocity, on average."""
        return float(self.nfe_each.double().mean())


def _trace_by_probes(score: ScoreFunction, sde: SDE, u: Tensor, t: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """The score at u (b, ...) and Hutchinson's estimate (b,), with probes (b, P, ...) of u or of its scored half."""
    with torch.enable_grad():
        leaf = u.detach().requires_grad_()
        s = score(leaf, t)
        total = torch.zeros(len(u), dtype=torch.float64, device=u.device)
        for p in range(probes.shape[1]):
            probe = probes[:, p]
            whole = probe.shape == u.shape
            direction = sde.scored(probe) if whole else probe
            (product,) = torch.autograd.grad(s, leaf, direction, retain_graph=p + 1 < probes.shape[1])
            seen = product if whole else sde.scored(product)
            total = total + (seen * probe).flatten(1).sum(1)
    return s.detach(), total / probes.shape[1]


def _trace_exact(score: ScoreFunction, sde: SDE, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The score and the trace (b,) of its Jacobian: the closed form of ``score``, else coordinate by coordinate."""
    closed_form = getattr(score, "divergence", None)
    if closed_form is not None:
        return score(u, t), closed_form(u, t)
    with torch.enable_grad():
        leaf = u.detach().requires_grad_()
        s = score(leaf, t)
        flat = s.flatten(1)
        trace = torch.zeros(len(u), dtype=torch.float64, device=u.device)
        for i in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, i].sum(), leaf, retain_graph=i + 1 < flat.shape[1])
            trace = trace + sde.scored(row).flatten(1)[:, i]
    return s.detach(), trace


def density_field(
    score: ScoreFunction, sde: SDE, shape: torch.Size, dtype: torch.dtype, probes: Tensor | None
) -> Field:
    """Field of the state (u, accumulated divergence), flattened to (R, n + 1) float64, for `solver.solve`.

    ``shape`` and ``dtype`` are those in which the score sees one u; ``probes`` as in `log_density`.
    """
    n = shape.numel()
    dimensions = n // 2 if sde.phase_space else n
    sees_x = probes is not None and isinstance(sde, CLD) and probes.shape[2:] == shape

    def field(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        now = y[:, :n].to(dtype).view(-1, *shape)
        if probes is None:
            s, trace = _trace_exact(score, sde, now, t)
        else:
            s, trace = _trace_by_probes(score, sde, now, t, probes[rows])
        divergence = sde.flow_divergence(trace, t, dimensions)
        if sees_x:
            assert probes is not None, "a probe's x half needs probes"
            assert isinstance(sde, CLD), "only CLD has two halves"
            cross = [sde.probe_cross_term(e, t) for e in probes[rows].unbind(1)]
            divergence = divergence + torch.stack(cross).mean(0)
        out = torch.empty_like(y)
        out[:, :n] = sde.flow(now, s, t).flatten(1)
        out[:, n] = divergence
        return out

    return field


@torch.no_grad()
def log_density(
    score: ScoreFunction,
    sde: SDE,
    u: Tensor,
    probes: Tensor | None,
    *,
    eps: float = 1e-5,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """log p_eps(u) along the probability flow from eps to 1.

    Every row has its own step size, so its result does not depend on the others. The accumulated divergence is
    one more component of the state and of the error norm.

    Args:
        u: (R, 2C or C, ...): (x, v) for CLD.
        probes: (R, P, ...) with trailing shape that of u or of its scored half; their estimates are averaged
            within every evaluation. None: the exact trace, ``score.divergence`` where there is one, otherwise
            one backward pass a coordinate.

    Returns:
        log-density (R,) in nats, u at time 1 shaped as u, and evaluations (R,); float64, float64, int64.

    Raises:
        SolverError: the tolerance is out of reach.
    """
    field = density_field(score, sde, u.shape[1:], u.dtype, probes)
    flat = u.flatten(1).to(torch.float64)
    solution = solve(field, torch.nn.functional.pad(flat, (0, 1)), eps, 1.0, rtol=rtol, atol=atol)
    u_end = solution.y[:, :-1].view_as(u)
    return sde.prior_logp(u_end) + solution.y[:, -1], u_end, solution.nfe


def likelihood(
    score: ScoreFunction,
    sde: SDE,
    spec: ElboSpec,
    noise: ProbeNoise,
    x: Tensor,
    *,
    exact_trace: bool = False,
) -> Likelihood:
    """Bound (CLD) or value (VPSDE) of log p(x) for data x (B, C, ...).

    Velocities are drawn from q(v | x), the law of v at ``spec.eps``, where the flow starts, given x at 0. It is
    N(0, gamma M) but for a part in a hundred, and leaves the bound tight (docs/math.md section 8).

    Args:
        noise: `cld_core.seeds.SampleNoise` of the B data; a datum's result is a function of its own noise.
        exact_trace: no probes; for low dimensions and exact scores.

    Raises:
        SolverError: the tolerance is out of reach.
    """
    batch, *rest = x.shape
    shape = tuple(rest)
    d = math.prod(shape)
    velocities = spec.velocities if isinstance(sde, CLD) else 1
    draw_probe = noise.rademacher if spec.probe == "rademacher" else noise.normal
    mean_factor, variance = sde.velocity_law(spec.eps) if isinstance(sde, CLD) else (0.0, 0.0)

    log_q = torch.zeros(batch, velocities, dtype=torch.float64, device=x.device)
    starts, probes = [], []
    for k in range(velocities):
        start = x
        if isinstance(sde, CLD):
            e = noise.normal(shape).to(x)
            start = torch.cat([x, mean_factor * x + math.sqrt(variance) * e], dim=1)
            square = e.double().square().flatten(1).sum(1)
            log_q[:, k] = -0.5 * (square + d * math.log(2.0 * math.pi * variance))
        starts.append(start)
        if not exact_trace:
            probes.append(draw_probe((spec.probes, *shape)).to(x))
    log_joint, _, nfe = log_density(
        score,
        sde,
        torch.cat(starts),
        None if exact_trace else torch.cat(probes),
        eps=spec.eps,
        rtol=spec.rtol,
        atol=spec.atol,
    )
    entropy = 0.5 * d * math.log(2.0 * math.pi * math.e * variance) if isinstance(sde, CLD) else 0.0
    return Likelihood(log_joint.view(velocities, batch).T, log_q, entropy, nfe.view(velocities, batch).T)

"""The method written directly from the paper: the baseline of the benchmarks, used nowhere else.

Nothing is made slow on purpose and nothing is tuned:

- perturbation in float64 tensors of the shape of the data;
- one adaptive step size for the whole batch (scipy's RK45 on the host);
- coefficients computed at every step;
- weights averaged one parameter at a time;
- one velocity and one probe.

tests/benchmarks shows that its losses and laws equal those of `cld_core`.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

Net = Callable[[Tensor, Tensor], Tensor]


def swiss_rolls(n: int, rng: np.random.Generator) -> Tensor:
    """(n, 2): five rolls, each with probability 0.2."""
    centres = np.array([(0.0, 0.0), (0.8, 0.8), (0.8, -0.8), (-0.8, -0.8), (-0.8, 0.8)])
    parts = []
    for centre, count in zip(centres, rng.multinomial(n, [0.2] * 5), strict=True):
        angle = 1.5 * np.pi * (1 + 2 * rng.random(count))
        roll = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1)
        parts.append(0.01 * (roll + 0.2 * rng.standard_normal((count, 2))) + centre)
    points = np.concatenate(parts)
    rng.shuffle(points)
    return torch.from_numpy(points).float()


class PlainMLP(nn.Module):
    """The toy network. Parameters have the same names as in `cld_core.nets.MLP`."""

    def __init__(self, width: int = 128, layers: int = 5) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Linear(5, width), nn.SiLU()]
        for _ in range(layers - 2):
            parts += [nn.Linear(width, width), nn.SiLU()]
        self.main = nn.Sequential(*parts, nn.Linear(width, 2))

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        return self.main(torch.cat([u, t[:, None]], dim=1))


def _as_images(t: Tensor, like: Tensor) -> Tensor:
    return t.view(-1, *[1] * (like.ndim - 1))


class PlainCLD:
    """Hybrid score matching with constant beta and the weighting reweightedv2."""

    def __init__(self, net: Net, *, mixed_score: bool = False, numerical_eps: float = 1e-6) -> None:
        self.net, self.mixed_score, self.numerical_eps = net, mixed_score, numerical_eps
        self.beta, self.m_inv, self.gamma = 4.0, 4.0, 0.04
        self.mass = 1.0 / self.m_inv
        self.friction = 2.0 * math.sqrt(self.mass)

    def psi(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        b, g = self.beta * t, self.friction
        decay = torch.exp(-2 * b / g)
        return decay * (1 + 2 * b / g), decay * 4 * b / g**2, -decay * b, decay * (1 - 2 * b / g)

    def covariance(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sigma_inf + Psi (Sigma_0 - Sigma_inf) Psi^T, entry by entry, with Sigma_0 = diag(0, gamma
        M)."""
        xx, xv, vx, vv = self.psi(t)
        a, c = -1.0, self.gamma * self.mass - self.mass
        s_xx = 1.0 + a * xx**2 + c * xv**2 + self.numerical_eps
        s_xv = a * xx * vx + c * xv * vv
        s_vv = self.mass + a * vx**2 + c * vv**2 + self.numerical_eps
        return s_xx, s_xv, s_vv

    def perturb(self, x0: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """u_t (B, 2C, ...) and the noise of v, both in float64."""
        x0, noise, t = x0.double(), noise.double(), _as_images(t, x0)
        e_x, e_v = noise.chunk(2, dim=1)
        xx, _, vx, _ = self.psi(t)
        s_xx, s_xv, s_vv = self.covariance(t)
        l_xx = torch.sqrt(s_xx)
        l_vx = s_xv / l_xx
        l_vv = torch.sqrt(s_vv - l_vx**2)
        return torch.cat([xx * x0 + l_xx * e_x, vx * x0 + l_vx * e_x + l_vv * e_v], dim=1), e_v

    def score(self, u: Tensor, t: Tensor) -> Tensor:
        """(B, C, ...) with the dtype of u; t: (B,), float64."""
        when = _as_images(t, u)
        s_xx, s_xv, s_vv = self.covariance(when)
        ell = torch.sqrt(s_xx / (s_xx * s_vv - s_xv**2))
        score = -ell * self.net(u.float(), t.float())
        if self.mixed_score:
            score = score - u.chunk(2, dim=1)[1] / s_vv
        return score.to(u.dtype)

    def loss(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Losses, (B,)."""
        u, e_v = self.perturb(x0, t, noise)
        predicted = self.net(u.float(), t.float())
        if self.mixed_score:
            when = _as_images(t, u)
            s_xx, s_xv, s_vv = self.covariance(when)
            ell = torch.sqrt(s_xx / (s_xx * s_vv - s_xv**2))
            predicted = predicted + u.chunk(2, dim=1)[1] / (ell * s_vv)
        return ((predicted - e_v) ** 2).flatten(1).sum(1)

    def flow(self, u: Tensor, t: Tensor) -> Tensor:
        x, v = u.chunk(2, dim=1)
        score = self.score(u, t)
        dx = self.beta * self.m_inv * v
        dv = -self.beta * x - self.friction * self.beta * (self.m_inv * v + score)
        return torch.cat([dx, dv], dim=1)

    def reverse_mean(self, u: Tensor, t: Tensor, dt: float) -> Tensor:
        """Mean of an Euler-Maruyama step of the reverse process."""
        x, v = u.chunk(2, dim=1)
        score = self.score(u, t)
        new_x = x - self.beta * self.m_inv * v * dt
        new_v = (
            v
            + self.beta * (x + self.friction * self.m_inv * v) * dt
            + 2 * self.friction * self.beta * score * dt
        )
        return torch.cat([new_x, new_v], dim=1)

    def prior(self, noise: Tensor) -> Tensor:
        x, v = noise.chunk(2, dim=1)
        return torch.cat([x, math.sqrt(self.mass) * v], dim=1)


class PlainTraining:
    """A network, Adam and averaged weights."""

    def __init__(
        self, sde: PlainCLD, net: nn.Module, *, lr: float = 1e-3, decay: float = 0.999
    ) -> None:
        self.sde, self.net, self.decay, self.steps = sde, net, decay, 0
        self.optimiser = torch.optim.Adam(net.parameters(), lr=lr)
        self.average = [p.detach().clone() for p in net.parameters()]

    def step(self, x0: Tensor) -> Tensor:
        t = torch.rand(len(x0), dtype=torch.float64) * (1 - 1e-5) + 1e-5
        noise = torch.randn(len(x0), 2 * x0.shape[1], *x0.shape[2:], dtype=torch.float64)
        loss = self.sde.loss(x0, t, noise).mean()
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.steps += 1
        update_average(
            self.average, self.net, min(self.decay, (1 + self.steps) / (10 + self.steps))
        )
        return loss.detach()


def update_average(average: list[Tensor], net: nn.Module, decay: float) -> None:
    """s <- s - (1 - decay) (s - p), one parameter at a time."""
    with torch.no_grad():
        for s, p in zip(average, net.parameters(), strict=True):
            s.sub_((1 - decay) * (s - p))


def _times(t: float, n: int) -> Tensor:
    return torch.full((n,), t, dtype=torch.float64)


@torch.no_grad()
def sample_ode(
    sde: PlainCLD, noise: Tensor, *, eps: float = 1e-3, tolerance: float = 1e-5
) -> tuple[Tensor, int]:
    """x (B, C, ...) and the number of evaluations, from prior noise (B, 2C, ...).

    scipy's RK45 with one step size for the whole batch.
    """
    u = sde.prior(noise)

    def field(t: float, y: np.ndarray) -> np.ndarray:
        now = torch.from_numpy(y).float().view(u.shape)
        return sde.flow(now, _times(t, len(u))).double().numpy().reshape(-1)

    solution = solve_ivp(
        field,
        (1.0, eps),
        u.double().numpy().reshape(-1),
        method="RK45",
        rtol=tolerance,
        atol=tolerance,
    )
    u = torch.from_numpy(solution.y[:, -1]).float().view(u.shape)
    return sde.reverse_mean(u, _times(eps, len(u)), eps).chunk(2, dim=1)[0], solution.nfev + 1


@torch.no_grad()
def sample_em(sde: PlainCLD, noise: Tensor, times: list[float]) -> Tensor:
    """x (B, C, ...) by Euler-Maruyama over ``times``, followed by a denoising step of size
    times[-1]."""
    u = sde.prior(noise)
    for t, t_next in pairwise(times):
        dt = t - t_next
        u = sde.reverse_mean(u, _times(t, len(u)), dt)
        x, v = u.chunk(2, dim=1)
        v = v + math.sqrt(2 * sde.friction * sde.beta * dt) * torch.randn_like(v)
        u = torch.cat([x, v], dim=1)
    return sde.reverse_mean(u, _times(times[-1], len(u)), times[-1]).chunk(2, dim=1)[0]


def _half_step(sde: PlainCLD, u: Tensor, d: float) -> Tensor:
    """Exact Ornstein-Uhlenbeck step over D = ``d``."""
    x, v = u.chunk(2, dim=1)
    g, decay = sde.friction, math.exp(-2 * d / sde.friction)
    a, b, c, e = (decay * k for k in (1 + 2 * d / g, -4 * d / g**2, d, 1 - 2 * d / g))
    s_xx = 1 - a * a - sde.mass * b * b
    s_xv = -a * c - sde.mass * b * e
    s_vv = sde.mass - c * c - sde.mass * e * e
    l_xx = math.sqrt(s_xx)
    l_vx = s_xv / l_xx
    l_vv = math.sqrt(s_vv - l_vx**2)
    e_x, e_v = torch.randn_like(x), torch.randn_like(v)
    return torch.cat([a * x + b * v + l_xx * e_x, c * x + e * v + l_vx * e_x + l_vv * e_v], dim=1)


@torch.no_grad()
def sample_sscs(sde: PlainCLD, noise: Tensor, times: list[float]) -> Tensor:
    """x (B, C, ...) by SSCS over ``times``, followed by a denoising step."""
    u = sde.prior(noise)
    for t, t_next in pairwise(times):
        dt = t - t_next
        u = _half_step(sde, u, sde.beta * dt / 2)
        x, v = u.chunk(2, dim=1)
        score = sde.score(u, _times(t, len(u)))
        u = torch.cat([x, v + 2 * sde.friction * sde.beta * dt * (score + sde.m_inv * v)], dim=1)
        u = _half_step(sde, u, sde.beta * dt / 2)
    return sde.reverse_mean(u, _times(times[-1], len(u)), times[-1]).chunk(2, dim=1)[0]


def log_density(
    sde: PlainCLD,
    x0: Tensor,
    v0: Tensor,
    probe: Tensor,
    *,
    eps: float = 1e-5,
    tolerance: float = 1e-5,
) -> tuple[Tensor, int]:
    """log p(x0, v0) (B,) in nats and the number of evaluations; ``probe`` has the shape of u, (B,
    2C, ...)."""
    u0 = torch.cat([x0, v0], dim=1)
    n = u0.numel()

    def field(t: float, y: np.ndarray) -> np.ndarray:
        with torch.enable_grad():
            now = torch.from_numpy(y[:n]).float().view(u0.shape).requires_grad_(True)
            flow = sde.flow(now, _times(t, len(u0)))
            (gradient,) = torch.autograd.grad((flow * probe).sum(), now)
        divergence = (gradient * probe).flatten(1).sum(1)
        return np.concatenate(
            [flow.detach().double().numpy().reshape(-1), divergence.double().numpy()]
        )

    start = np.concatenate([u0.double().numpy().reshape(-1), np.zeros(len(u0))])
    solution = solve_ivp(field, (eps, 1.0), start, method="RK45", rtol=tolerance, atol=tolerance)
    end = torch.from_numpy(solution.y[:, -1])
    x, v = end[:n].view(u0.shape).flatten(1).chunk(2, dim=1)
    d = x.shape[1]
    constant = d * math.log(2 * math.pi) + 0.5 * d * math.log(sde.mass)
    prior = -0.5 * (x**2).sum(1) - 0.5 * sde.m_inv * (v**2).sum(1) - constant
    return prior + end[n:], solution.nfev


def elbo(sde: PlainCLD, x0: Tensor) -> tuple[Tensor, int]:
    """Bounds (B,) on log p(x0) in nats and the number of evaluations.

    Uses one velocity and one Rademacher probe per example.
    """
    v0 = math.sqrt(sde.gamma * sde.mass) * torch.randn_like(x0)
    probe = torch.randint(0, 2, (len(x0), 2 * x0.shape[1], *x0.shape[2:])).float() * 2 - 1
    d = x0[0].numel()
    entropy = 0.5 * d * (1 + math.log(2 * math.pi) + math.log(sde.gamma * sde.mass))
    logp, evaluations = log_density(sde, x0, v0, probe)
    return logp + entropy, evaluations

"""Denoisers for the samplers' tests: a small network, and the exact one of Gaussian data."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from t2v_core.diffusion import Denoiser, NoiseSchedule, sigmas_for

SCHEDULE = NoiseSchedule.scaled_linear()
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TRAILING = {**BETAS, "timestep_spacing": "trailing"}
STEPS = 25
SIGMAS = sigmas_for("simple", SCHEDULE, STEPS)  # the same grid as diffusers' trailing spacing
NOISE = torch.randn(1, 4, 3, 5, 6, generator=torch.Generator().manual_seed(11))
CONTEXT = torch.full((1, 2, 3), 0.3)


class SmallNetwork(torch.nn.Module):
    """A fixed non-linear eps model of x, the timestep and the context."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.conv = torch.nn.Conv3d(4, 4, 3, padding=1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        t = timesteps.reshape(-1, 1, 1, 1, 1) / 1000
        return 0.7 * x + torch.tanh(self.conv(x) + context.mean() + torch.sin(3 * t))


NETWORK = SmallNetwork().eval().requires_grad_(False)


def on_network(x: Tensor, sigma: Tensor) -> Tensor:
    return Denoiser(NETWORK, SCHEDULE, "eps")(x, sigma, CONTEXT)


def diffusers_loop(scheduler, x: Tensor, **step_arguments) -> Tensor:
    """Sample the network with diffusers, its timesteps already set; x in the scheduler's own scale."""
    for t in scheduler.timesteps:
        eps = NETWORK(scheduler.scale_model_input(x, t), t.reshape(1), CONTEXT)
        x = scheduler.step(eps, t, x, **step_arguments).prev_sample
    return x


def injected(x: Tensor, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Noise of x's shape that a diffusers scheduler draws from a generator with the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda sigma, sigma_next: torch.randn(x.shape, generator=generator)


# Data distributed as N(MEAN, SPREAD^2): the denoiser is known exactly, and so are the solutions of the ODE and the SDE.
MEAN, SPREAD = 0.8, 0.5


def on_gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    return (SPREAD**2 * x + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)


def exact(x: Tensor, sigma: float, sigma_end: float, eta: float = 0.0) -> Tensor:
    """The mean of x at sigma_end from x at sigma: from dx / dsigma = (1 + eta) (x - D) / sigma, which at eta 0 is the
    probability-flow ODE itself (Karras et al., arXiv 2206.00364, eq. 1 and 3) and at 1 the drift of the reverse SDE."""
    return MEAN + (x - MEAN) * ((SPREAD**2 + sigma_end**2) / (SPREAD**2 + sigma**2)) ** ((1 + eta) / 2)


def karras_grid(n: int, first: float, last: float) -> Tensor:
    """n steps between fixed ends, fp64: Karras et al., eq. 5."""
    ramp = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    return (first ** (1 / 7) + ramp * (last ** (1 / 7) - first ** (1 / 7))) ** 7


def normal_draws(count: int, sigma: Tensor) -> Tensor:
    """Where sampling starts on data that hold nothing: `count` fp64 samples of sigma's noise."""
    return torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * sigma


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def slope(counts: list[int], errors: list[float]) -> float:
    """The order of convergence: minus the slope of log error over log count, by least squares."""
    xs, ys = [math.log(n) for n in counts], [math.log(e) for e in errors]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    return -sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum((x - x_mean) ** 2 for x in xs)

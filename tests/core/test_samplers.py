"""Samplers against diffusers' on a small network, against the exact solution on a Gaussian, and by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from torch import Tensor

from t2v_core.diffusion import SAMPLERS, BoundSampler, Denoiser, NoiseSchedule, noise_source, sigmas_for
from t2v_core.errors import T2VError

SCHEDULE = NoiseSchedule.scaled_linear()
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": "trailing"}
STEPS = 25


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
CONTEXT = torch.full((1, 2, 3), 0.3)
NOISE = torch.randn(1, 4, 3, 5, 6, generator=torch.Generator().manual_seed(11))
SIGMAS = sigmas_for("simple", SCHEDULE, STEPS)  # the same grid as diffusers' trailing spacing


def on_network(x: Tensor, sigma: Tensor) -> Tensor:
    return Denoiser(NETWORK, SCHEDULE, "eps")(x, sigma, CONTEXT)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def diffusers_loop(scheduler, x: Tensor, **step_arguments) -> Tensor:
    """Sample with diffusers; x in the scheduler's own scale."""
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        eps = NETWORK(scheduler.scale_model_input(x, t), t.reshape(1), CONTEXT)
        x = scheduler.step(eps, t, x, **step_arguments).prev_sample
    return x


@pytest.mark.parametrize(
    ("name", "scheduler", "variance_preserving"),
    [
        ("euler", EulerDiscreteScheduler(**BETAS), False),
        ("heun", HeunDiscreteScheduler(**BETAS), False),
        (
            "dpmpp_2m",
            DPMSolverMultistepScheduler(
                **BETAS,
                algorithm_type="dpmsolver++",
                solver_order=2,
                solver_type="midpoint",
                final_sigmas_type="zero",
            ),
            True,
        ),
        ("ddim", DDIMScheduler(**BETAS, set_alpha_to_one=True, clip_sample=False), True),
    ],
)
def test_deterministic_samplers_equal_diffusers(name, scheduler, variance_preserving):
    x = NOISE * SIGMAS[0]
    alpha = 1 / (1 + SIGMAS[0] ** 2).sqrt()
    expected = diffusers_loop(scheduler, x * alpha if variance_preserving else x)
    assert relative(SAMPLERS[name](on_network, x, SIGMAS), expected) <= 1e-5


def test_ancestral_equals_diffusers_with_the_same_noise():
    x = NOISE * SIGMAS[0]
    expected = diffusers_loop(EulerAncestralDiscreteScheduler(**BETAS), x, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)

    def injected(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator)

    assert relative(SAMPLERS["euler_ancestral"](on_network, x, SIGMAS, noise=injected), expected) <= 1e-5


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_eta_equals_diffusers_with_the_same_noise(eta):
    scheduler = DDIMScheduler(**BETAS, set_alpha_to_one=True, clip_sample=False)
    x = NOISE * SIGMAS[0]
    expected = diffusers_loop(
        scheduler, x / (1 + SIGMAS[0] ** 2).sqrt(), eta=eta, generator=torch.Generator().manual_seed(5)
    )
    generator = torch.Generator().manual_seed(5)

    def injected(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator)

    assert relative(SAMPLERS["ddim"](on_network, x, SIGMAS, noise=injected, eta=eta), expected) <= 1e-5


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_equals_euler_ancestral(eta):
    x = (NOISE * SIGMAS[0]).double()
    runs = [
        SAMPLERS[name](on_gaussian, x, SIGMAS.double(), noise=noise_source(x, 1), eta=eta)
        for name in ("ddim", "euler_ancestral")
    ]
    assert relative(*runs) <= 1e-13
    if eta == 0:
        assert relative(runs[0], SAMPLERS["euler"](on_gaussian, x, SIGMAS.double())) <= 1e-13


# Data distributed as N(MEAN, SPREAD^2): the denoiser and the probability-flow ODE's solution are known exactly.
MEAN, SPREAD = 0.8, 0.5


def on_gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    return (SPREAD**2 * x + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)


def exact(x: Tensor, sigma: float, sigma_end: float) -> Tensor:
    return MEAN + (x - MEAN) * math.sqrt((SPREAD**2 + sigma_end**2) / (SPREAD**2 + sigma**2))


@pytest.mark.parametrize(("name", "order"), [("euler", 0.9), ("ddim", 0.9), ("heun", 1.8), ("dpmpp_2m", 1.8)])
def test_order_of_convergence(name, order):
    """The slope of the error in the number of steps, on Karras et al.'s grid between fixed ends."""
    counts = np.array([20, 40, 80, 160, 320])
    first, last = 14.0, 0.03
    x = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64) * first
    errors = []
    for n in counts:
        ramp = torch.linspace(0, 1, int(n) + 1, dtype=torch.float64)
        sigmas = (first ** (1 / 7) + ramp * (last ** (1 / 7) - first ** (1 / 7))) ** 7
        errors.append(float((SAMPLERS[name](on_gaussian, x, sigmas) - exact(x, first, last)).norm()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope >= order, f"{name}: slope {slope:.2f}, errors {errors}"


def ddpm_moments(sigmas: Tensor) -> tuple[float, float]:
    """Mean and variance of DDPM's ancestral sampling on the Gaussian, from its posterior alone.

    Ho et al., eq. 6 and 7 divided by sqrt(alpha_bar): x' ~ N(D + (b/a)^2 (x - D), b^2 (a^2 - b^2) / a^2), from a to b.
    """
    mean, variance = 0.0, float(sigmas[0]) ** 2
    for a, b in pairwise(sigmas.tolist()):
        slope = SPREAD**2 / (SPREAD**2 + a**2)  # of D in x
        kept = slope + (b / a) ** 2 * (1 - slope)
        mean = MEAN + kept * (mean - MEAN)
        variance = kept**2 * variance + b**2 * (a**2 - b**2) / a**2
    return mean, variance


@pytest.mark.parametrize("name", ["euler_ancestral", "ddim"])
def test_moments_of_ancestral_sampling(name):
    """20,000 samples: the mean's standard error is 0.003, the variance's 1%."""
    sigmas = sigmas_for("karras", SCHEDULE, 50).double()
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * sigmas[0]
    x = SAMPLERS[name](on_gaussian, x, sigmas, noise=noise_source(x, 0), eta=1.0)
    mean, variance = ddpm_moments(sigmas)
    assert float(x.mean()) == pytest.approx(mean, abs=0.01)
    assert float(x.var()) == pytest.approx(variance, rel=0.03)


def test_those_moments_tend_to_the_data_s():
    mean, variance = ddpm_moments(sigmas_for("karras", SCHEDULE, 4000).double())
    assert mean == pytest.approx(MEAN, abs=0.002)
    assert variance == pytest.approx(SPREAD**2, rel=0.01)


def test_an_ancestral_step_by_hand():
    """From sigma 2 to 1 with x = 3, D = 1: d = 1, up^2 = 1 * (4 - 1) / 4, down^2 = 1 - 3/4, x' = 1 + 1/2 + up z."""
    x, z = torch.tensor([3.0]), torch.tensor([0.2])
    seen = []

    def noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        seen.append((float(sigma), float(sigma_next)))
        return z

    sigmas = torch.tensor([2.0, 1.0])
    result = SAMPLERS["euler_ancestral"](lambda x, sigma: torch.ones(1), x, sigmas, noise=noise)
    assert float(result) == pytest.approx(1.5 + math.sqrt(0.75) * 0.2, rel=1e-6)
    assert seen == [(2.0, 1.0)]
    half = SAMPLERS["euler_ancestral"](lambda x, sigma: torch.ones(1), x, sigmas, noise=noise, eta=0.5)
    assert float(half) == pytest.approx(1 + math.sqrt(1 - 0.75 / 4) + math.sqrt(0.75) / 2 * 0.2, rel=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_returns_the_estimate(name):
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)) * 14
    result = SAMPLERS[name](lambda x, sigma: torch.full_like(x, 0.25), x, torch.tensor([14.6, 3.0, 0.0]), noise=normal)
    torch.testing.assert_close(result, torch.full_like(x, 0.25), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_repeated_sigmas_stay_finite(name):
    """`simple` with more steps than trained sigmas visits some of them twice."""
    x = torch.ones(2) * 14
    assert torch.isfinite(SAMPLERS[name](on_gaussian, x, torch.tensor([14.0, 5.0, 5.0, 1.0, 0.0]), noise=normal)).all()


def normal(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    return torch.zeros(())


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_callback_sees_each_step_and_can_cancel(name):
    x = NOISE * SIGMAS[0]
    seen = []

    def callback(step: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
        seen.append((step, float(sigma)))
        assert x.shape == denoised.shape == NOISE.shape
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SAMPLERS[name](on_network, x, SIGMAS, noise=noise_source(x, 0), callback=callback)
    assert seen == [(i, float(SIGMAS[i])) for i in range(3)]


def test_etas():
    assert {name: row.eta for name, row in SAMPLERS.items()} == {
        "euler": None,
        "euler_ancestral": 1.0,
        "heun": None,
        "dpmpp_2m": None,
        "ddim": 0.0,
    }
    x = NOISE * SIGMAS[0]

    def run(name: str, eta: float) -> Tensor:
        return BoundSampler(name, eta)(on_network, x, SIGMAS, noise=noise_source(x, 9))

    assert torch.equal(run("ddim", -1), run("euler", -1))
    assert torch.equal(run("euler", 0.7), run("euler", -1))  # documented: ignored
    assert torch.equal(run("euler_ancestral", -1), run("euler_ancestral", 1.0))
    assert not torch.equal(run("euler_ancestral", 0.5), run("euler_ancestral", 1.0))
    assert torch.isfinite(run("euler_ancestral", 3.0)).all()  # no more noise than the next sigma holds


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: BoundSampler("plms"), "'plms'.*euler, euler_ancestral, heun, dpmpp_2m, ddim"),
        (lambda: BoundSampler("ddim", float("nan")), "eta is nan"),
        (lambda: BoundSampler("ddim", -0.5), "eta is -0.5.*-1 for the sampler's own"),
        (lambda: SAMPLERS["euler_ancestral"](on_network, NOISE, SIGMAS), "euler_ancestral.*no noise source"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(T2VError, match=says):
        call()

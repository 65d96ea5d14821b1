"""Samplers that add noise: against diffusers with the same noise, against the moments of Gaussian data, and by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    LCMScheduler,
)
from scipy.integrate import solve_ivp
from torch import Tensor
from toy_models import (
    BETAS,
    MEAN,
    NOISE,
    SCHEDULE,
    SIGMAS,
    SPREAD,
    STEPS,
    TRAILING,
    diffusers_loop,
    exact,
    injected,
    karras_grid,
    normal_draws,
    on_gaussian,
    on_network,
    relative,
    slope,
)

from t2v_core.diffusion import SAMPLERS, Denoiser, NativeSize, VideoModel, noise_source, sample, sigmas_for
from t2v_core.diffusion.noise import BrownianNoise, step_noise

SDE = ("dpmpp_2m_sde", "dpmpp_sde")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def variance_preserving(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma**2).sqrt()


def test_ancestral_equals_diffusers_with_the_same_noise():
    x = NOISE * SIGMAS[0]
    scheduler = EulerAncestralDiscreteScheduler(**TRAILING)
    scheduler.set_timesteps(STEPS)
    expected = diffusers_loop(scheduler, x, generator=generator())
    assert relative(SAMPLERS["euler_ancestral"](on_network, x, SIGMAS, noise=injected(x, 5)), expected) <= 1e-5


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_eta_equals_diffusers_with_the_same_noise(eta):
    x = NOISE * SIGMAS[0]
    scheduler = DDIMScheduler(**TRAILING, set_alpha_to_one=True, clip_sample=False)
    scheduler.set_timesteps(STEPS)
    expected = diffusers_loop(scheduler, variance_preserving(x, SIGMAS[0]), eta=eta, generator=generator())
    assert relative(SAMPLERS["ddim"](on_network, x, SIGMAS, noise=injected(x, 5), eta=eta), expected) <= 1e-5


def test_dpmpp_2m_sde_equals_diffusers_with_the_same_noise():
    x = NOISE * SIGMAS[0]
    scheduler = DPMSolverMultistepScheduler(
        **TRAILING, algorithm_type="sde-dpmsolver++", solver_type="midpoint", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(STEPS)
    expected = diffusers_loop(scheduler, variance_preserving(x, SIGMAS[0]), generator=generator())
    assert relative(SAMPLERS["dpmpp_2m_sde"](on_network, x, SIGMAS, noise=injected(x, 5)), expected) <= 1e-5


@pytest.mark.parametrize(("algorithm", "eta"), [("sde-dpmsolver++", 1.0), ("dpmsolver++", 0.0)])
def test_dpmpp_sde_equals_diffusers_with_the_same_noise(algorithm, eta):
    """diffusers' 2nd-order single steps are ours where every second sigma is the geometric mean of its neighbours."""
    levels = SIGMAS[:-1]
    middles = (-(-levels.log()[:-1] - levels.log()[1:]) / 2).exp()
    sigmas = torch.stack([levels[:-1], middles], 1).flatten()
    scheduler = DPMSolverSinglestepScheduler(
        **BETAS, algorithm_type=algorithm, solver_type="midpoint", final_sigmas_type="zero", lower_order_final=True
    )
    scheduler.set_timesteps(2 * len(levels) - 1)
    scheduler.sigmas = torch.cat([sigmas, SIGMAS[-2:]])
    scheduler.timesteps = SCHEDULE.timestep(scheduler.sigmas[:-1])
    x = NOISE * SIGMAS[0]
    expected = diffusers_loop(scheduler, variance_preserving(x, SIGMAS[0]), generator=generator())
    result = SAMPLERS["dpmpp_sde"](on_network, x, SIGMAS, noise=injected(x, 5), eta=eta)
    assert relative(result, expected) <= 1e-5


@pytest.mark.parametrize("steps", [1, 4])
def test_lcm_equals_diffusers_with_the_same_noise(steps):
    """timestep_scaling this large takes away the skip connection that diffusers adds to the estimate."""
    scheduler = LCMScheduler(**BETAS, clip_sample=False, timestep_scaling=1e9)
    scheduler.set_timesteps(steps, original_inference_steps=50)
    sigmas = torch.cat([SCHEDULE.sigmas[scheduler.timesteps], torch.zeros(1)])
    x = NOISE * sigmas[0]
    expected = diffusers_loop(scheduler, variance_preserving(x, sigmas[0]), generator=generator())
    assert relative(SAMPLERS["lcm"](on_network, x, sigmas, noise=injected(x, 5)), expected) <= 1e-5


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


def test_dpmpp_2m_sde_without_noise_is_dpmpp_2m():
    x, sigmas = NOISE.double() * 14, SIGMAS.double()
    ode = SAMPLERS["dpmpp_2m"](on_gaussian, x, sigmas)
    assert relative(SAMPLERS["dpmpp_2m_sde"](on_gaussian, x, sigmas, eta=0.0), ode) <= 1e-13


DRIFTS = [("dpmpp_2m_sde", 0.0), ("dpmpp_2m_sde", 0.5), ("dpmpp_2m_sde", 1.0), ("dpmpp_sde", 0.0), ("dpmpp_sde", 1.0)]


def without_noise(name: str, denoise, x: Tensor, sigmas: Tensor, eta: float) -> Tensor:
    return SAMPLERS[name](denoise, x, sigmas, noise=lambda sigma, sigma_next: torch.zeros(()), eta=eta)


@pytest.mark.parametrize(("name", "eta"), DRIFTS)
def test_order_of_the_drift(name, eta):
    """Data that are +1 or -1: the step's ODE without its noise, against scipy's integration of it."""

    def on_two_points(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.tanh(x / sigma**2)

    def slope_of(sigma: float, x: np.ndarray) -> np.ndarray:
        return (1 + eta) * (x - np.tanh(x / sigma**2)) / sigma

    first, last = 14.0, 0.4
    x = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64) * first
    solved = solve_ivp(slope_of, (first, last), x.numpy(), method="DOP853", rtol=1e-12, atol=1e-12)
    expected, counts = torch.from_numpy(solved.y[:, -1]), [40, 80, 160, 320]
    errors = [
        float((without_noise(name, on_two_points, x, karras_grid(n, first, last), eta) - expected).norm())
        for n in counts
    ]
    assert slope(counts, errors) >= 1.8, errors


@pytest.mark.parametrize("name", SDE)
def test_the_drift_of_gaussian_data_is_exact(name):
    """At eta 1 and without the noise, the estimate is the same at each step."""
    x = torch.linspace(-20.0, 20.0, 9, dtype=torch.float64)
    result = without_noise(name, on_gaussian, x, torch.tensor([14.0, 3.0, 0.5], dtype=torch.float64), 1.0)
    assert relative(result, exact(x, 14.0, 0.5, eta=1.0)) <= 1e-14


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
    x = normal_draws(20_000, sigmas[0])
    x = SAMPLERS[name](on_gaussian, x, sigmas, noise=noise_source(x, 0), eta=1.0)
    mean, variance = ddpm_moments(sigmas)
    assert float(x.mean()) == pytest.approx(mean, abs=0.01)
    assert float(x.var()) == pytest.approx(variance, rel=0.03)


def test_those_moments_tend_to_the_data_s():
    mean, variance = ddpm_moments(sigmas_for("karras", SCHEDULE, 4000).double())
    assert mean == pytest.approx(MEAN, abs=0.002)
    assert variance == pytest.approx(SPREAD**2, rel=0.01)


@pytest.mark.parametrize(("name", "eta"), [("dpmpp_2m_sde", 0.5), ("dpmpp_2m_sde", 1.0), ("dpmpp_sde", 1.0)])
def test_moments_of_the_sde_samplers_are_the_data_s(name, eta):
    """Of order 2, so 100 steps are enough to see the data's own moments in 20,000 samples."""
    sigmas = sigmas_for("karras", SCHEDULE, 100).double()
    x = normal_draws(20_000, sigmas[0])
    x = SAMPLERS[name](on_gaussian, x, sigmas, noise=BrownianNoise(x, 0), eta=eta)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.012)
    assert float(x.var()) == pytest.approx(SPREAD**2, rel=0.03)


@pytest.mark.parametrize("eta", [0.4, 1.0])
@pytest.mark.parametrize("name", [name for name, row in SAMPLERS.items() if row.noise != "none"])
def test_noise_taken_away_and_noise_added_balance(name, eta):
    """Data that are one point: at every sigma x is that point and sigma's noise, however few the steps."""
    sigmas = torch.tensor([14.0, 6.0, 1.5, 0.5], dtype=torch.float64)
    x = 0.25 + normal_draws(20_000, sigmas[0])
    noise = step_noise(SAMPLERS[name].noise, x, 3)
    x = SAMPLERS[name](lambda x, sigma: torch.full_like(x, 0.25), x, sigmas, noise=noise, eta=eta)
    assert float(x.mean()) == pytest.approx(0.25, abs=0.015)
    assert float(x.std()) == pytest.approx(0.5, rel=0.02)


def test_the_two_noises_of_dpmpp_sde_are_of_one_path():
    """One step from 8 to 2, so s = 4, on Gaussian data: the variance has the path's correlation in it.

    With D(x; sigma) = g x + ...: u = k_1 x + up_1 z_1 and x' = down/8 x + (1 - down/8) g_4 u + up z, where the
    correlation of z_1 and z is that of W(4) - W(8) and W(2) - W(8): sqrt(4 / 6).
    """

    def g(sigma: float) -> float:
        return SPREAD**2 / (SPREAD**2 + sigma**2)

    up_1, kept_1 = 4 * math.sqrt(1 - 1 / 4), 1 / 4  # eta 1: up^2 = b^2 (1 - b^2 / a^2), down / a = b^2 / a^2
    up, kept = 2 * math.sqrt(1 - 1 / 16), 1 / 16
    k_1 = kept_1 + (1 - kept_1) * g(8)
    late = (1 - kept) * g(4)
    from_x = (kept + late * k_1) ** 2 * 64
    variance = from_x + (late * up_1) ** 2 + up**2 + 2 * late * up_1 * up * math.sqrt(4 / 6)
    sigmas = torch.tensor([8.0, 2.0], dtype=torch.float64)
    x = normal_draws(400_000, sigmas[0])  # the variance's standard error is 0.2%; the correlation makes 6% of it

    def run(noise) -> float:
        return float(SAMPLERS["dpmpp_sde"](on_gaussian, x, sigmas, noise=noise).var())

    assert run(BrownianNoise(x, 0)) == pytest.approx(variance, rel=0.01)
    assert run(noise_source(x, 0)) < 0.97 * variance  # what independent draws would do


@pytest.mark.parametrize("name", ["lcm", *SDE])
def test_sample_gives_a_sampler_its_kind_of_noise(name):
    model = VideoModel(Denoiser(lambda x, t, context: x / 2, SCHEDULE, "eps"), 1.0, NativeSize(64, 64, 16, 8.0))
    clip, cond, start = torch.zeros(3, 4, 5, 6), torch.zeros(1, 2, 3), NOISE[0].movedim(0, 1)
    result = sample(model, clip, cond, None, noise=start, sampler=name, sigmas=SIGMAS[3:], cfg=1.0, seed=6)
    noise = step_noise(SAMPLERS[name].noise, clip, 6)
    expected = SAMPLERS[name](
        lambda x, sigma: x - sigma * x / (sigma**2 + 1) ** 0.5 / 2, start * SIGMAS[3], SIGMAS[3:], noise=noise
    )
    assert relative(result, expected) <= 1e-6


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


def test_an_sde_step_by_hand():
    """From sigma 2 to 1 with x = 3, D = 1, h = log 2: x' = 1 + 2^-(1 + eta) 2 + sqrt(1 - 4^-eta) z."""
    x, z = torch.tensor([3.0]), torch.tensor([0.2])
    for eta, expected in [(1.0, 1.5 + math.sqrt(0.75) * 0.2), (0.5, 1 + 2**-0.5 + math.sqrt(0.5) * 0.2)]:
        result = SAMPLERS["dpmpp_2m_sde"](
            lambda x, sigma: torch.ones(1), x, torch.tensor([2.0, 1.0]), noise=lambda a, b: z, eta=eta
        )
        assert float(result) == pytest.approx(expected, rel=1e-6)

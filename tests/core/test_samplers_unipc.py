"""UniPC against diffusers', its orders of convergence, and its last steps by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor
from toy_models import (
    CONTEXT,
    NETWORK,
    NOISE,
    SCHEDULE,
    SIGMAS,
    TRAILING,
    exact,
    on_gaussian,
    relative,
    slope,
)

from t2v_core.diffusion import SAMPLERS, Denoiser, sigmas_for
from t2v_core.diffusion.samplers.unipc import LAST_SIGMA

DOUBLE = copy.deepcopy(NETWORK).double()
VARIANTS = {"uni_pc": "bh1", "uni_pc_bh2": "bh2"}


def on_double(x: Tensor, sigma: Tensor) -> Tensor:
    return Denoiser(DOUBLE, SCHEDULE, "eps")(x, sigma, CONTEXT.double())


def diffusers_unipc(variant: str, x: Tensor, sigmas: Tensor) -> Tensor:
    """diffusers in double precision on these sigmas; x and the result in the variance-exploding scale."""
    scheduler = UniPCMultistepScheduler(**TRAILING, solver_order=3, solver_type=variant, lower_order_final=True)
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = sigmas
    scheduler.timesteps = SCHEDULE.timestep(sigmas[:-1])
    x = x / (1 + sigmas[0] ** 2).sqrt()
    for t in scheduler.timesteps:
        x = scheduler.step(DOUBLE(x, t.reshape(1), CONTEXT.double()), t, x).prev_sample
    return x * (1 + sigmas[-1] ** 2).sqrt()


@pytest.mark.parametrize("scheduler", ["simple", "karras"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 25])
@pytest.mark.parametrize("name", VARIANTS)
def test_unipc_equals_diffusers(name, steps, scheduler):
    """With the last sigma cut off, and with 0 in its place, which UniPC takes for 0.001."""
    sigmas = sigmas_for(scheduler, SCHEDULE, steps + 1).double()[:-1]
    x = NOISE.double() * sigmas[0]
    assert relative(SAMPLERS[name](on_double, x, sigmas), diffusers_unipc(VARIANTS[name], x, sigmas)) <= 1e-10
    to_zero, to_last = (torch.cat([sigmas[:-1], sigmas.new_tensor([end])]) for end in (0.0, LAST_SIGMA))
    expected = diffusers_unipc(VARIANTS[name], x, to_last)
    assert relative(SAMPLERS[name](on_double, x, to_zero), expected) <= 1e-10


def test_the_variants_differ():
    runs = [SAMPLERS[name](on_double, NOISE.double() * 14, SIGMAS.double()) for name in VARIANTS]
    assert 1e-6 < relative(*runs) < 1e-2


@pytest.mark.parametrize("name", VARIANTS)
def test_the_inner_steps_are_of_order_3(name):
    """The prediction in front of the last two steps, which are of lower order: the error falls with n^-3 there."""
    counts = [20, 40, 80, 160]
    first, last = 14.0, 0.5
    x = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64) * first
    errors = []
    for n in counts:
        sigmas = first * (last / first) ** (torch.arange(n + 3, dtype=torch.float64) / n)
        predicted = []
        SAMPLERS[name](on_gaussian, x, sigmas, callback=lambda step, x, *_, seen=predicted: seen.append(x))
        errors.append(float((predicted[n] - exact(x, first, last)).norm()))
    assert slope(counts, errors) >= 2.8, errors


def test_one_estimate_a_step():
    calls = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma))
        return on_gaussian(x, sigma)

    SAMPLERS["uni_pc"](denoise, torch.ones(3), SIGMAS)
    assert calls == SIGMAS[:-1].tolist()


def test_a_last_sigma_below_the_replacement_of_0():
    """Where the sigma before 0 is already below 0.001, the last step does not go up again."""
    x = torch.tensor([5.0], dtype=torch.float64)
    sigmas = torch.tensor([2.0, 0.5, 0.0004, 0.0], dtype=torch.float64)
    for name in VARIANTS:
        result = SAMPLERS[name](lambda x, sigma: torch.full_like(x, 0.25), x, sigmas)
        assert float(result) == pytest.approx(0.25 + 0.0004 / 2 * 4.75, rel=1e-12)


def test_close_sigmas_keep_their_precision():
    """1,000 steps: h is 0.006, where single precision would lose the coefficients of order 3 to cancellation."""
    sigmas = 14.0 * (0.03 / 14.0) ** (torch.arange(1001) / 1000)
    x = torch.linspace(-2.0, 2.0, 9) * 14.0
    for name in VARIANTS:
        result = SAMPLERS[name](on_gaussian, x, sigmas)
        assert relative(result.double(), exact(x.double(), 14.0, 0.03)) <= 1e-5


@pytest.mark.parametrize("h", [1e-3, 1e-5, 1e-7])
def test_steps_that_hardly_move(h):
    """The functions phi_k of so small a step are differences of nearly equal numbers, unless summed as series."""
    sigmas = torch.exp(-h * torch.arange(9, dtype=torch.float64))
    x = torch.linspace(-20.0, 20.0, 9, dtype=torch.float64)
    for name in VARIANTS:
        result = SAMPLERS[name](on_gaussian, x, sigmas)
        assert relative(result, exact(x, float(sigmas[0]), float(sigmas[-1]))) <= h**2 + 1e-14

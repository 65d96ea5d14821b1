"""What holds for every sampler, and the solvers of the ODE against diffusers' and against the exact solution."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler
from torch import Tensor
from toy_models import (
    NOISE,
    SIGMAS,
    STEPS,
    TRAILING,
    diffusers_loop,
    exact,
    karras_grid,
    on_gaussian,
    on_network,
    relative,
    slope,
)

from t2v_core.diffusion import SAMPLERS, BoundSampler, noise_source
from t2v_core.diffusion.noise import step_noise
from t2v_core.errors import T2VError

UNIPC = ("uni_pc", "uni_pc_bh2")
MULTISTEP = (*UNIPC, "dpmpp_2m", "dpmpp_2m_sde")
WITHOUT_NOISE = [name for name, row in SAMPLERS.items() if row.noise == "none"]


def no_noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    return torch.zeros(())


@pytest.mark.parametrize(
    ("name", "scheduler", "variance_preserving"),
    [
        ("euler", EulerDiscreteScheduler(**TRAILING), False),
        ("heun", HeunDiscreteScheduler(**TRAILING), False),
        (
            "dpmpp_2m",
            DPMSolverMultistepScheduler(
                **TRAILING,
                algorithm_type="dpmsolver++",
                solver_order=2,
                solver_type="midpoint",
                final_sigmas_type="zero",
            ),
            True,
        ),
        ("ddim", DDIMScheduler(**TRAILING, set_alpha_to_one=True, clip_sample=False), True),
    ],
)
def test_deterministic_samplers_equal_diffusers(name, scheduler, variance_preserving):
    x = NOISE * SIGMAS[0]
    alpha = 1 / (1 + SIGMAS[0] ** 2).sqrt()
    scheduler.set_timesteps(STEPS)
    expected = diffusers_loop(scheduler, x * alpha if variance_preserving else x)
    assert relative(SAMPLERS[name](on_network, x, SIGMAS), expected) <= 1e-5


@pytest.mark.parametrize(
    ("name", "order"),
    [("euler", 0.9), ("ddim", 0.9), ("heun", 1.8), ("dpmpp_2m", 1.8), ("uni_pc", 1.8), ("uni_pc_bh2", 1.8)],
)
def test_order_of_convergence(name, order):
    """In the number of steps, on Karras et al.'s grid between fixed ends."""
    counts = [20, 40, 80, 160, 320]
    first, last = 14.0, 0.03
    x = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64) * first
    errors = [
        float((SAMPLERS[name](on_gaussian, x, karras_grid(n, first, last)) - exact(x, first, last)).norm())
        for n in counts
    ]
    assert slope(counts, errors) >= order, errors


def test_the_rows():
    assert {name: (row.noise, row.eta, row.discards_penultimate) for name, row in SAMPLERS.items()} == {
        "euler": ("none", None, False),
        "euler_ancestral": ("independent", 1.0, False),
        "heun": ("none", None, False),
        "dpmpp_2m": ("none", None, False),
        "ddim": ("independent", 0.0, False),
        "dpmpp_2m_sde": ("brownian", 1.0, False),
        "dpmpp_sde": ("brownian", 1.0, False),
        "uni_pc": ("none", None, True),
        "uni_pc_bh2": ("none", None, True),
        "lcm": ("independent", None, False),
    }
    assert {name: BoundSampler(name).noise for name in SAMPLERS} == {name: row.noise for name, row in SAMPLERS.items()}


def test_etas():
    x = NOISE * SIGMAS[0]

    def run(name: str, eta: float) -> Tensor:
        return BoundSampler(name, eta)(on_network, x, SIGMAS, noise=noise_source(x, 9))

    assert torch.equal(run("ddim", -1), run("euler", -1))
    assert torch.equal(run("euler", 0.7), run("euler", -1))  # documented: ignored
    assert torch.equal(run("lcm", 0.7), run("lcm", -1))
    for name in ("euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde"):
        assert torch.equal(run(name, -1), run(name, 1.0))
        assert not torch.equal(run(name, 0.5), run(name, 1.0))
        assert torch.isfinite(run(name, 3.0)).all()  # no more noise than the next sigma holds


@pytest.mark.parametrize("name", SAMPLERS)
def test_which_noise_is_asked_for(name):
    """Only a sampler of the Brownian kind may ask for steps that overlap, and "none" for none at all."""
    asked = []

    def noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        asked.append((float(sigma), float(sigma_next)))
        return torch.zeros(())

    kind, eta = SAMPLERS[name].noise, 1.0 if name == "ddim" else -1
    BoundSampler(name, eta)(on_network, NOISE * SIGMAS[0], SIGMAS, noise=noise)
    steps = [(float(a), float(b)) for a, b in pairwise(SIGMAS) if b > 0]
    assert all(b < a for a, b in asked)
    if kind == "none":
        assert not asked
    elif kind == "independent":
        assert asked == steps
    else:
        assert sorted(set(asked) & set(steps)) == sorted(steps)
        assert all(any(a == sigma and b >= sigma_next for sigma, sigma_next in steps) for a, b in asked)


@pytest.mark.parametrize("end", [0.0, 0.4])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 25])
@pytest.mark.parametrize("name", WITHOUT_NOISE)
def test_any_number_of_steps(name, steps, end):
    """Where the estimate is always the same, every solver of the ODE is exact: x goes straight to it."""
    x = torch.tensor([9.0, -4.0], dtype=torch.float64)
    sigmas = torch.cat([karras_grid(steps - 1, 14.0, 1.0) if steps > 1 else torch.tensor([14.0]), torch.tensor([end])])
    result = SAMPLERS[name](lambda x, sigma: torch.full_like(x, 0.25), x, sigmas.double())
    left = max(end, 0.001) if name in UNIPC else end
    torch.testing.assert_close(result, 0.25 + left / 14 * (x - 0.25), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_step_changes_nothing(name):
    x = torch.ones(2)
    assert torch.equal(SAMPLERS[name](on_gaussian, x, torch.tensor([3.0]), noise=no_noise), x)
    assert torch.equal(SAMPLERS[name](on_gaussian, x, torch.tensor([]), noise=no_noise), x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_two_stages(name):
    """Stopped at a sigma and taken up again: the same where a step knows nothing of those before, else close."""
    x = torch.linspace(-20.0, 20.0, 7, dtype=torch.float64)
    sigmas = karras_grid(40, 14.0, 0.03)
    whole = SAMPLERS[name](on_gaussian, x, sigmas, noise=no_noise)
    half = SAMPLERS[name](on_gaussian, x, sigmas[:21], noise=no_noise)
    staged = SAMPLERS[name](on_gaussian, half, sigmas[20:], noise=no_noise)
    assert relative(staged, whole) <= (2e-2 if name in MULTISTEP else 1e-15)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_returns_the_estimate(name):
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)) * 14
    sigmas = torch.tensor([14.6, 3.0, 0.0])
    result = SAMPLERS[name](lambda x, sigma: torch.full_like(x, 0.25), x, sigmas, noise=no_noise)
    left = 0.001 / 14.6 * (x - 0.25) if name in UNIPC else 0.0
    torch.testing.assert_close(result - left, torch.full_like(x, 0.25), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_repeated_sigmas_stay_finite(name):
    """`simple` with more steps than trained sigmas visits some of them twice."""
    x = torch.ones(2) * 14
    sigmas = torch.tensor([14.0, 14.0, 5.0, 5.0, 5.0, 1.0, 0.0])
    noise = step_noise(SAMPLERS[name].noise, x, 0)
    assert torch.isfinite(SAMPLERS[name](on_gaussian, x, sigmas, noise=noise)).all()


@pytest.mark.parametrize("name", [name for name in WITHOUT_NOISE if name not in MULTISTEP] + list(UNIPC))
def test_repeated_sigmas_cost_nothing_but_time(name):
    """UniPC estimates at the corrected x where it is at the same sigma again, which is a little better still."""
    x = torch.tensor([14.0, -9.0], dtype=torch.float64)
    once = SAMPLERS[name](on_gaussian, x, torch.tensor([14.0, 5, 2, 1, 0.5, 0]))
    again = SAMPLERS[name](on_gaussian, x, torch.tensor([14.0, 5, 5, 5, 2, 1, 0.5, 0]))
    assert relative(again, once) <= (1e-6 if name in UNIPC else 1e-15)


@pytest.mark.parametrize("name", SAMPLERS)
def test_single_precision_suffices_at_the_largest_sigmas(name):
    """From the sigma of zero terminal SNR, 4518.8, fp32 against fp64. Heun's slopes there are small differences of
    large numbers."""
    sigmas = torch.tensor([4518.8, 60.0, 12.0, 4.0, 1.5, 0.4, 0.03, 0.0])
    x = torch.linspace(-2.0, 2.0, 9) * sigmas[0]

    def run(dtype: torch.dtype) -> Tensor:
        return SAMPLERS[name](on_gaussian, x.to(dtype), sigmas.to(dtype), noise=no_noise).double()

    assert relative(run(torch.float32), run(torch.float64)) <= (2e-4 if name == "heun" else 1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_callback_sees_each_step_and_can_cancel(name):
    x = NOISE * SIGMAS[0]
    seen = []

    def callback(step: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
        seen.append((step, float(sigma)))
        torch.testing.assert_close(denoised, on_network(x, sigma), rtol=0, atol=0)
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SAMPLERS[name](on_network, x, SIGMAS, noise=step_noise(SAMPLERS[name].noise, x, 0), callback=callback)
    assert seen == [(i, float(SIGMAS[i])) for i in range(3)]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: BoundSampler("plms"), "'plms'.*euler, euler_ancestral, heun, dpmpp_2m, ddim.*uni_pc, uni_pc_bh2, lcm"),
        (lambda: BoundSampler("ddim", float("nan")), "eta is nan"),
        (lambda: BoundSampler("ddim", -0.5), "eta is -0.5.*-1 for the sampler's own"),
        (
            lambda: SAMPLERS["euler_ancestral"](on_network, NOISE, SIGMAS),
            "euler_ancestral with eta 1.0.*no noise source",
        ),
        (lambda: BoundSampler("dpmpp_sde", 0.5)(on_network, NOISE, SIGMAS), "dpmpp_sde with eta 0.5.*no noise source"),
        (
            lambda: SAMPLERS["lcm"](on_network, NOISE, SIGMAS),
            "lcm adds noise at each step and was given no noise source",
        ),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(T2VError, match=says):
        call()

"""Sigmas and timesteps against ComfyUI's figures, closed forms written here in fp64, and diffusers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from t2v_core.diffusion import SCHEDULERS, Denoiser, NoiseSchedule, sigmas_for
from t2v_core.errors import T2VError

GOLDEN = json.loads((Path(__file__).parent / "data" / "golden_sigmas.json").read_text())
STEPS = (1, 20, 25, 50)
IN_COMFYUI = ("normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform")
SCHEDULE = NoiseSchedule.scaled_linear()


def trained_sigmas() -> np.ndarray:
    """The thousand sigmas of Stable Diffusion in fp64."""
    betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2
    alpha_bar = np.cumprod(1.0 - betas)
    return np.sqrt((1.0 - alpha_bar) / alpha_bar)


def at(timesteps: np.ndarray) -> np.ndarray:
    return np.exp(np.interp(timesteps, np.arange(1000), np.log(trained_sigmas())))


def closed_form(scheduler: str, n: int) -> np.ndarray:
    """What each scheduler means, without the final 0."""
    trained = trained_sigmas()
    least, most = trained[0], trained[-1]
    ramp = np.linspace(0.0, 1.0, n) if n > 1 else np.zeros(1)
    return {
        "normal": lambda: at(999 * (1 - ramp)),
        "sgm_uniform": lambda: at(999 * (1 - np.arange(n) / n)),
        "simple": lambda: trained[[999 - int(i * 1000 / n) for i in range(n)]],
        "ddim_uniform": lambda: trained[np.arange(1, 1000, 1000 // n)][::-1],
        "karras": lambda: (most ** (1 / 7) + ramp * (least ** (1 / 7) - most ** (1 / 7))) ** 7,
        "exponential": lambda: most * (least / most) ** ramp,
    }[scheduler]()


def test_every_scheduler_is_covered():
    assert tuple(SCHEDULERS) == (*IN_COMFYUI, "ddim_original")  # that one in test_original_samplers.py


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("scheduler", IN_COMFYUI)
def test_sigmas_equal_comfyui(scheduler, steps):
    sigmas = sigmas_for(scheduler, SCHEDULE, steps)
    golden = np.array(GOLDEN[f"{scheduler}/{steps}"])
    assert sigmas.dtype == torch.float32
    # The file keeps 6 decimals, so half of the last one is rounding.
    np.testing.assert_allclose(sigmas.double().numpy(), golden, rtol=1e-5, atol=5.01e-7)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("scheduler", IN_COMFYUI)
def test_sigmas_equal_the_closed_form(scheduler, steps):
    sigmas = sigmas_for(scheduler, SCHEDULE, steps).double().numpy()
    assert sigmas[-1] == 0.0
    np.testing.assert_allclose(sigmas[:-1], closed_form(scheduler, steps), rtol=1e-5)


def test_trained_sigmas_equal_comfyui_and_diffusers():
    assert SCHEDULE.sigma_min == pytest.approx(GOLDEN["sigma_min"], rel=1e-7)
    assert SCHEDULE.sigma_max == pytest.approx(GOLDEN["sigma_max"], rel=1e-7)
    np.testing.assert_allclose(SCHEDULE.sigmas.double().numpy(), trained_sigmas(), rtol=1e-6)
    alpha_bar = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod.double()
    # diffusers multiplies its betas up in fp32, which costs it a digit where 1 - alpha_bar is small.
    np.testing.assert_allclose(SCHEDULE.sigmas.double(), ((1 - alpha_bar) / alpha_bar).sqrt(), rtol=5e-5)


def test_zero_terminal_snr():
    schedule = NoiseSchedule.scaled_linear(zero_terminal_snr=True)
    assert schedule.sigma_max == pytest.approx(math.sqrt(1 / 4.8973451890853435e-08 - 1), rel=1e-6)
    assert schedule.sigma_min == pytest.approx(SCHEDULE.sigma_min, rel=1e-6)
    reference = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=True
    )
    alpha_bar = reference.alphas_cumprod.double()[:-1]  # diffusers keeps the last at 0, a sigma without end
    # Its fp32 cumprod of betas loses digits where alpha_bar is nearly 0.
    np.testing.assert_allclose(schedule.sigmas[:-1].double(), ((1 - alpha_bar) / alpha_bar).sqrt(), rtol=2e-4)
    assert sigmas_for("normal", schedule, 25)[0] == schedule.sigmas[-1]


def test_timestep_is_the_nearest_in_log_sigma():
    trained = np.log(trained_sigmas())
    for sigma in (0.001, 0.03, 0.7, 3.3, 14.0, 14.7, 5000.0):
        nearest = int(np.abs(trained - math.log(sigma)).argmin())
        assert SCHEDULE.timestep(torch.tensor(sigma)) == nearest
    on_grid = SCHEDULE.timestep(SCHEDULE.sigmas)
    assert torch.equal(on_grid, torch.arange(1000))
    assert SCHEDULE.timestep(torch.full((2, 3), 14.7)).tolist() == [[999] * 3] * 2


# What ComfyUI 0.3.64's timestep() gives for its own sigmas on one machine. `normal` lands half-way between two
# timesteps where 999 / (steps - 1) ends in .5, so that rounding decides: of 55 steps 4 fall the other way with the
# distance in fp64, 3 with the logarithm taken of the rounded sigmas. Another processor may decide one otherwise.
# fmt: off
TIMESTEPS = {
    25: [999, 957, 916, 874, 833, 791, 749, 708, 666, 624, 583, 541, 500, 458, 416, 375, 333, 291, 250, 208, 166, 125,
         83, 42, 0],
    55: [999, 981, 962, 943, 925, 906, 888, 870, 851, 833, 814, 795, 777, 758, 740, 721, 703, 684, 666, 647, 629, 610,
         592, 573, 555, 536, 518, 500, 481, 462, 444, 425, 407, 389, 370, 351, 333, 314, 296, 278, 259, 241, 222, 204,
         185, 166, 148, 129, 111, 92, 74, 55, 37, 18, 0],
}
# fmt: on


@pytest.mark.parametrize("steps", TIMESTEPS)
def test_ties_between_timesteps_fall_as_in_comfyui(steps):
    found = SCHEDULE.timestep(sigmas_for("normal", SCHEDULE, steps)[:-1]).tolist()
    pairs = zip(found, TIMESTEPS[steps], strict=True)
    other = [(step, *pair) for step, pair in enumerate(pairs) if pair[0] != pair[1]]
    assert len(other) <= 1
    for step, mine, its in other:
        assert abs(mine - its) == 1 and 999 * (1 - step / (steps - 1)) == pytest.approx((mine + its) / 2)


def test_sigma_of_a_timestep_is_log_linear_and_clamped():
    half = SCHEDULE.sigma(torch.tensor(500.5))
    assert float(half) == pytest.approx(math.sqrt(trained_sigmas()[500] * trained_sigmas()[501]), rel=1e-6)
    ends = SCHEDULE.sigma(torch.tensor([-3.0, 1e6]))
    assert ends.tolist() == pytest.approx([SCHEDULE.sigma_min, SCHEDULE.sigma_max], rel=1e-6)
    assert SCHEDULE.percent_to_sigma(0.0) > 1e8 and SCHEDULE.percent_to_sigma(1.0) == 0.0
    assert SCHEDULE.percent_to_sigma(0.25) == pytest.approx(at(np.array(999 * 0.75)), rel=1e-5)


@pytest.mark.parametrize(("spacing", "scheduler"), [("linspace", "normal"), ("trailing", "simple")])
def test_schedulers_equal_diffusers(spacing, scheduler):
    reference = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing=spacing
    )
    reference.set_timesteps(25)
    np.testing.assert_allclose(sigmas_for(scheduler, SCHEDULE, 25), reference.sigmas, rtol=5e-5)


def test_denoise_keeps_the_end_of_a_finer_schedule():
    full = sigmas_for("karras", SCHEDULE, 50)
    assert torch.equal(sigmas_for("karras", SCHEDULE, 25, denoise=0.5), full[-26:])
    assert torch.equal(sigmas_for("karras", SCHEDULE, 10, denoise=0.33), sigmas_for("karras", SCHEDULE, 30)[-11:])
    assert sigmas_for("karras", SCHEDULE, 25, denoise=0.0).shape == (0,)


def test_ddim_uniform_may_return_more_than_asked():
    assert len(sigmas_for("ddim_uniform", SCHEDULE, 30)) == 32  # a stride of 33 fits 31 times
    assert len(sigmas_for("ddim_uniform", SCHEDULE, 6, denoise=0.9)) == 7  # int(6 / 0.9) is 6, and still cut


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sigmas_for("cosine", SCHEDULE, 20), "'cosine'.*normal, karras.*ddim_uniform"),
        (lambda: sigmas_for("normal", SCHEDULE, 0), "steps is 0.*at least 1"),
        (lambda: sigmas_for("normal", SCHEDULE, -3), "steps is -3"),
        (lambda: sigmas_for("normal", SCHEDULE, 20, denoise=float("nan")), "denoise is nan.*from 0"),
        (lambda: sigmas_for("normal", SCHEDULE, 20, denoise=1.5), "denoise is 1.5"),
        (lambda: sigmas_for("normal", SCHEDULE, 20, denoise=1e-9), "20 steps at denoise 1e-09.*above 1000000"),
        (lambda: NoiseSchedule.from_betas(torch.tensor([0.1, float("nan")])), "betas.*above 0 and below 1"),
        (lambda: NoiseSchedule.from_betas(torch.tensor([0.1, 1.0])), "betas.*above 0 and below 1"),
        (lambda: Denoiser(torch.nn.Identity(), SCHEDULE, "x0"), "'x0'.*eps, v"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(T2VError, match=says):
        call()


def test_discarding_the_penultimate_sigma_keeps_the_number_of_steps():
    schedule = NoiseSchedule.scaled_linear()
    for denoise in (1.0, 0.5):
        sigmas = sigmas_for("normal", schedule, 10, denoise, discard_penultimate=True)
        longer = sigmas_for("normal", schedule, int(10 / denoise) + 1)
        assert len(sigmas) == 11
        assert torch.equal(sigmas, torch.cat([longer[:-2], longer[-1:]])[-11:])
    assert sigmas_for("normal", schedule, 1, discard_penultimate=True).tolist()[1:] == [0.0]

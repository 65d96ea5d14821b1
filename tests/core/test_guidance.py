"""Denoisers against diffusers' predictions, guidance and rescaling against their papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from t2v_core.diffusion import Denoiser, NoiseSchedule, guide, sigmas_for
from t2v_core.errors import T2VError

SCHEDULE = NoiseSchedule.scaled_linear()
X = torch.randn(1, 4, 3, 5, 7, generator=torch.Generator().manual_seed(1)) * 4
SIGMA = torch.tensor(4.0)


def text(rows: int, tokens: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(rows, tokens, 6, generator=torch.Generator().manual_seed(seed))


class Recorder:
    """A network that sees each frame's own text, and remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        self.calls.append((x, timesteps, context))
        b, _, f = x.shape[:3]
        per_frame = context.mean(dim=(1, 2)).reshape(b, -1).expand(b, f) if len(context) == b else context.mean((1, 2))
        return torch.sin(x) * (1 + per_frame.reshape(b, 1, f, 1, 1)) + timesteps.reshape(-1, 1, 1, 1, 1) / 1000


def denoiser(prediction: str = "eps") -> tuple[Denoiser, Recorder]:
    network = Recorder()
    return Denoiser(network, SCHEDULE, prediction), network


@pytest.mark.parametrize(("prediction", "theirs"), [("eps", "epsilon"), ("v", "v_prediction")])
def test_denoiser_equals_diffusers(prediction, theirs):
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing="trailing",
        prediction_type=theirs,
    )
    scheduler.set_timesteps(10)
    denoise, network = denoiser(prediction)
    for t, sigma in zip(scheduler.timesteps, sigmas_for("simple", SCHEDULE, 10), strict=False):
        scaled = scheduler.scale_model_input(X, t)
        expected = scheduler.step(network(scaled, t.reshape(1), text(1)), t, X).pred_original_sample
        torch.testing.assert_close(denoise(X, sigma, text(1)), expected, rtol=1e-5, atol=1e-5)
        assert network.calls[-1][1].tolist() == [float(t)]


def test_denoiser_takes_a_sigma_per_item():
    denoise, network = denoiser("v")
    x, sigmas = torch.cat([X, X * 2]), torch.tensor([4.0, 0.3])
    both = denoise(x, sigmas, torch.cat([text(1), text(1, seed=2)]))
    torch.testing.assert_close(both[:1], denoise(X, sigmas[0], text(1)))
    torch.testing.assert_close(both[1:], denoise(X * 2, sigmas[1], text(1, seed=2)))
    assert network.calls[0][1].dtype == torch.float32


def test_denoiser_runs_the_network_in_its_own_dtype():
    class Half(torch.nn.Linear):
        def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
            assert x.dtype == context.dtype == torch.bfloat16 and timesteps.dtype == torch.float32
            return x

    assert Denoiser(Half(1, 1, dtype=torch.bfloat16), SCHEDULE, "eps")(X, SIGMA, text(1)).dtype == torch.float32


def test_guidance_formula_one_batch_uncond_first():
    denoise, network = denoiser()
    cond, uncond = text(1), text(1, seed=2)
    d_cond, d_uncond = denoise(X, SIGMA, cond), denoise(X, SIGMA, uncond)
    network.calls.clear()
    guided = guide(denoise, cond, uncond, 7.5)(X, SIGMA)
    torch.testing.assert_close(guided, d_uncond + 7.5 * (d_cond - d_uncond), rtol=1e-5, atol=1e-5)
    assert len(network.calls) == 1
    assert torch.equal(network.calls[0][2], torch.cat([uncond, cond]))
    assert len(network.calls[0][0]) == len(network.calls[0][1]) == 2


def test_cfg_1_runs_cond_alone():
    denoise, network = denoiser()
    alone = denoise(X, SIGMA, text(1))
    network.calls.clear()
    assert torch.equal(guide(denoise, text(1), None, 1.0, rescale=0.7)(X, SIGMA), alone)
    assert len(network.calls) == 1 and len(network.calls[0][0]) == 1


def test_different_token_counts_run_apart():
    denoise, network = denoiser()
    cond, uncond = text(1, tokens=15), text(1, tokens=5, seed=2)
    guided = guide(denoise, cond, uncond, 3.0)(X, SIGMA)
    assert [tuple(call[2].shape) for call in network.calls] == [(1, 5, 6), (1, 15, 6)]
    expected = denoise(X, SIGMA, uncond) * -2 + denoise(X, SIGMA, cond) * 3
    torch.testing.assert_close(guided, expected, rtol=1e-5, atol=1e-4)


def test_apart_is_two_calls_with_the_same_result():
    denoise, network = denoiser()
    cond, uncond = text(1), text(1, seed=2)
    together = guide(denoise, cond, uncond, 7.5, 0.5)(X, SIGMA)
    network.calls.clear()
    torch.testing.assert_close(guide(denoise, cond, uncond, 7.5, 0.5, apart=True)(X, SIGMA), together)
    assert [len(call[0]) for call in network.calls] == [1, 1]


@pytest.mark.parametrize(("cond_rows", "uncond_rows"), [(3, 1), (1, 3), (3, 3)])
def test_a_text_per_frame_meets_one_for_the_clip(cond_rows, uncond_rows):
    denoise, network = denoiser()
    cond, uncond = text(cond_rows), text(uncond_rows, seed=2)
    guided = guide(denoise, cond, uncond, 3.0)(X, SIGMA)
    assert network.calls[0][2].shape == (6, 5, 6)
    expected = denoise(X, SIGMA, uncond) * -2 + denoise(X, SIGMA, cond) * 3
    torch.testing.assert_close(guided, expected, rtol=1e-5, atol=1e-4)


def test_two_clips_with_a_text_per_frame_and_one_for_each():
    """Clip by clip as in one batch: no text lands in another clip's frames."""
    denoise, _ = denoiser()
    x = torch.cat([X, X * 2])
    cond, uncond = text(2 * 3), text(2, seed=2)
    guided = guide(denoise, cond, uncond, 3.0)(x, SIGMA)
    first = guide(denoise, cond[:3], uncond[:1], 3.0)(X, SIGMA)
    second = guide(denoise, cond[3:], uncond[1:], 3.0)(X * 2, SIGMA)
    torch.testing.assert_close(guided, torch.cat([first, second]))


def velocity(denoised: Tensor) -> Tensor:
    """v = alpha * eps - sigma_vp * x0 with alpha = 1 / sqrt(1 + s^2), sigma_vp = s * alpha (Salimans and Ho)."""
    alpha = 1 / (1 + SIGMA**2).sqrt()
    return alpha * (X - denoised) / SIGMA - SIGMA * alpha * denoised


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescale_is_lin_et_al_s_on_the_velocity(rescale):
    """Section 3.4, eq. 15 and 16, in numpy's fp64."""
    denoise, _ = denoiser()
    cond, uncond = text(1), text(1, seed=2)
    plain = guide(denoise, cond, uncond, 8.0)(X, SIGMA)
    rescaled = guide(denoise, cond, uncond, 8.0, rescale)(X, SIGMA)
    v_cfg = velocity(plain).double().numpy()
    v_pos = velocity(denoise(X, SIGMA, cond)).double().numpy()
    expected = rescale * v_cfg * (np.std(v_pos) / np.std(v_cfg)) + (1 - rescale) * v_cfg
    np.testing.assert_allclose(velocity(rescaled), expected, rtol=1e-4, atol=1e-4)


def test_full_rescale_gives_the_conditional_spread_over_the_clip():
    denoise, _ = denoiser()
    cond, uncond = text(1), text(1, seed=2)
    rescaled = velocity(guide(denoise, cond, uncond, 8.0, 1.0)(X, SIGMA))
    conditional = velocity(denoise(X, SIGMA, cond))
    assert float(rescaled.std()) == pytest.approx(float(conditional.std()), rel=1e-5)
    per_frame = rescaled.std(dim=(1, 3, 4)) / conditional.std(dim=(1, 3, 4))
    assert float(per_frame.max() - per_frame.min()) > 1e-3  # each frame keeps its own share


def test_rescale_of_a_network_that_returns_nothing_stays_finite():
    denoise = Denoiser(lambda x, timesteps, context: torch.zeros_like(x), SCHEDULE, "v")
    assert torch.isfinite(guide(denoise, text(1), text(1), 8.0, 1.0)(X, SIGMA)).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"scale": float("nan")}, "cfg is nan.*finite"),
        ({"scale": float("inf")}, "cfg is inf"),
        ({"scale": 3.0, "uncond": None}, "cfg 3.0 needs a negative conditioning"),
        ({"scale": 3.0, "rescale": float("nan")}, "rescale is nan"),
        ({"scale": 3.0, "rescale": 1.5}, "rescale is 1.5.*from 0"),
    ],
)
def test_bad_input(arguments, says):
    with pytest.raises(T2VError, match=says):
        guide(denoiser()[0], **{"cond": text(1), "uncond": text(1), **arguments})

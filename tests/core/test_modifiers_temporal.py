"""`TemporalStrength`: how much of what the temporal parts of UNet3D change reaches each frame."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from t2v_core.diffusion import (
    Denoiser,
    NativeSize,
    NoiseSchedule,
    TemporalStrength,
    VideoModel,
    prepare_noise,
    sample,
    sigmas_for,
)
from t2v_core.errors import T2VError
from t2v_core.models.blocks import TemporalConv
from t2v_core.models.hooks import NO_HOOKS, TemporalScale
from t2v_core.models.transformers import TemporalTransformer, scaled_dot_product_attention
from t2v_core.models.unet3d import UNet3D, UNet3DConfig

FRAMES = 4
SHAPE = (FRAMES, 4, 4, 4)
STRENGTHS = [0.0, 1.0, 0.25, 2.0]
BOTH = {"attention": None, "convolution": None}
FACTORY = {"operations": torch.nn, "dtype": None, "device": None}


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network.eval().requires_grad_(False)


@cache
def unet() -> UNet3D:
    sizes = {"blocks_per_level": 1, "context_dim": 6, "head_dim": 8, "input_heads": 1, "norm_groups": 4}
    return randomised(UNet3D(UNet3DConfig(widths=(8, 16), attention=(True, False), **sizes)))


def clip(seed: int = 1) -> Tensor:
    return torch.randn(2, 4, FRAMES, 4, 4, generator=torch.Generator().manual_seed(seed))


def predict(x: Tensor, attention=None, convolution=None) -> Tensor:
    context = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(2))
    return unet()(x, torch.tensor([500.0, 20.0]), context, hooks=TemporalScale(attention, convolution))


def part(kind: str) -> torch.nn.Module:
    if kind == "convolution":
        return randomised(TemporalConv(8, 4, FACTORY))
    return randomised(TemporalTransformer(8, 1, 8, 4, 2, scaled_dot_product_attention, FACTORY))


@pytest.mark.parametrize("kind", ["attention", "convolution"])
def test_a_part_applies_its_share_to_each_frame_of_each_clip(kind):
    network, x = part(kind), clip().repeat(1, 2, 1, 1, 1).transpose(1, 2).flatten(0, 1)  # (2 clips * frames) 8 4 4

    def through(hooks) -> Tensor:
        return network(x, FRAMES, hooks) if kind == "convolution" else network(x, FRAMES, hooks, ("middle", 0))

    whole = through(NO_HOOKS)
    share = torch.tensor(STRENGTHS * 2)[:, None, None, None]
    scaled = through(TemporalScale(**{**BOTH, kind: STRENGTHS}))
    torch.testing.assert_close(scaled, x + share * (whole - x), rtol=1e-5, atol=1e-5)
    assert (whole - x).abs().max() > 0.1
    (other,) = BOTH.keys() - {kind}
    assert torch.equal(through(TemporalScale(**{kind: None, other: STRENGTHS})), whole)


def test_1_is_as_trained():
    x = clip()
    assert torch.equal(predict(x, [1.0] * FRAMES, [1.0] * FRAMES), predict(x))


@pytest.mark.parametrize("which", ["both", "attention", "convolution"])
def test_at_0_each_frame_is_by_itself(which):
    zeros = [0.0] * FRAMES
    given = (zeros, zeros) if which == "both" else (zeros, None) if which == "attention" else (None, zeros)
    x, other = clip(), clip()
    other[:, :, 2] += 1
    reached = (predict(x, *given) - predict(other, *given)).abs().amax(dim=(0, 1, 3, 4)) > 1e-6
    assert reached.tolist() == ([False, False, True, False] if which == "both" else [True] * FRAMES)


def test_sampling_with_it_is_sampling_with_the_hooks():
    schedule = NoiseSchedule.scaled_linear()
    strength = TemporalStrength(attention=STRENGTHS, convolution=STRENGTHS[::-1])
    texts = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(2))

    def run(network, *modifiers: object) -> Tensor:
        video_model = VideoModel(Denoiser(network, schedule, "eps"), 1.0, NativeSize(32, 32, 4, 8.0), modifiers)
        given = {"latents": torch.zeros(SHAPE), "noise": prepare_noise(SHAPE, 1), "cond": texts[:1]}
        given |= {"uncond": texts[1:], "sigmas": sigmas_for("karras", schedule, 3)}
        return sample(video_model, **given, sampler="euler", cfg=2.0, seed=0)

    def hooked(x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        return unet()(x, timesteps, context, hooks=TemporalScale(STRENGTHS, STRENGTHS[::-1]))

    assert torch.equal(run(unet(), strength), run(hooked))
    assert torch.equal(run(unet(), TemporalStrength([1.0] * FRAMES)), run(unet()))
    assert not torch.allclose(run(hooked), run(unet()), rtol=1e-2)


def test_a_clip_of_another_length_is_refused():
    with pytest.raises(T2VError, match="temporal convolution strengths are for 3 frames and the clip has 4"):
        predict(clip(), None, [1.0] * 3)

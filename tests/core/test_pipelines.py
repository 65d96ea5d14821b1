"""From noise to latents as diffusers' text-to-video and video-to-video pipelines go, which are run here. diffusers has
them only where transformers is installed."""

from __future__ import annotations

import pytest
import torch
from core.references import diffusers_unet, relative_error
from diffusers import DDIMScheduler
from torch import Tensor

from t2v_core.checkpoints import read_model
from t2v_core.diffusion import NetworkScale, VideoModel, sample, sigmas_for

FRAMES, HEIGHT, WIDTH, CFG, SCALE = 4, 6, 4, 9.0, 0.18215
# scheduler/scheduler_config.json of damo-vilab/text-to-video-ms-1.7b.
SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@pytest.fixture(scope="module")
def unet():
    return diffusers_unet()


@pytest.fixture(scope="module")
def ours(unet, tmp_path_factory) -> VideoModel:
    folder = tmp_path_factory.mktemp("diffusers")
    unet.save_pretrained(folder / "unet")
    return read_model(folder).video_model(torch.float32).patched(NetworkScale())


@pytest.fixture
def pipeline(unet):
    """pipeline(class name) is that pipeline of diffusers, without text encoder and autoencoder."""

    def build(name: str):
        from diffusers.pipelines.deprecated import text_to_video_synthesis

        kind = getattr(text_to_video_synthesis, name)
        built = kind(vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=DDIMScheduler(**SCHEDULER))
        built.set_progress_bar_config(disable=True)
        return built

    return build


def texts(unet) -> dict[str, Tensor]:
    cond, uncond = torch.randn(2, 1, 7, unet.config.cross_attention_dim, generator=generator(1))
    return {"prompt_embeds": cond, "negative_prompt_embeds": uncond}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clip_of(model: VideoModel, unet, latents: Tensor, noise: Tensor, steps: int, denoise: float) -> Tensor:
    """Ours, in the scale of the network; latents and noise `[f, 4, h, w]`."""
    given = texts(unet)
    return SCALE * sample(
        model,
        latents / SCALE,
        given["prompt_embeds"],
        given["negative_prompt_embeds"],
        noise=noise,
        sampler="ddim",
        sigmas=sigmas_for("ddim_original", model.denoiser.noise_schedule, steps, denoise),
        cfg=CFG,
        seed=0,
    )


def in_frames(clip: Tensor) -> Tensor:
    """`[1, c, f, h, w]` -> `[f, c, h, w]`."""
    return clip[0].movedim(1, 0).contiguous()


def test_text_to_video(unet, ours, pipeline):
    noise = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=generator(2))
    expected = pipeline("TextToVideoSDPipeline")(
        num_inference_steps=25,
        guidance_scale=CFG,
        latents=noise,
        height=HEIGHT * 8,
        width=WIDTH * 8,
        num_frames=FRAMES,
        output_type="latent",
        **texts(unet),
    ).frames
    noise = in_frames(noise)
    result = clip_of(ours, unet, torch.zeros_like(noise), noise, 25, 1.0)
    assert relative_error(result, in_frames(expected)) <= 1e-4
    assert relative_error(result, noise) > 0.1


@pytest.mark.parametrize(("strength", "steps"), [(0.6, 15), (0.8, 20), (1.0, 25)])
def test_video_to_video(unet, ours, pipeline, strength, steps):
    """25 steps, of which KSampler's denoise, and ours, counts those that are done."""
    latents = torch.randn(FRAMES, 4, HEIGHT, WIDTH, generator=generator(3))
    expected = pipeline("VideoToVideoSDPipeline")(
        video=latents[None],  # four channels are taken for latents and not encoded
        strength=strength,
        num_inference_steps=25,
        guidance_scale=CFG,
        generator=generator(4),
        output_type="latent",
        **texts(unet),
    ).frames
    noise = torch.randn(FRAMES, 4, HEIGHT, WIDTH, generator=generator(4))
    result = clip_of(ours, unet, latents, noise, steps, strength)
    assert relative_error(result, in_frames(expected)) <= 1e-4
    other = clip_of(ours, unet, latents, noise, steps - 5, strength - 0.2)
    assert relative_error(other, in_frames(expected)) > 1e-3

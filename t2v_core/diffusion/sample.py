"""From noise to a clip's latents: what a host does around a sampler."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor

from ..errors import T2VError
from .guidance import guide
from .model import GuidanceRescale, VideoModel
from .noise import step_noise
from .noise_schedule import NoiseSchedule
from .samplers import BoundSampler, Callback, Denoise

LATENT_CHANNELS = 4


@torch.no_grad()
def sample(
    model: VideoModel,
    latents: Tensor,
    cond: Tensor,
    uncond: Tensor | None,
    *,
    noise: Tensor,
    sampler: str | BoundSampler,
    sigmas: Tensor,
    cfg: float,
    seed: int,
    callback: Callback | None = None,
) -> Tensor:
    """Denoise one clip, doing what ComfyUI does around a sampler.

    latents: what to start from, `[f, 4, h, w]`, unscaled as a LATENT wire carries them; zeros for text-to-video.
    cond, uncond: the texts, `[1 or f, tokens, dim]`; uncond may be None at cfg 1.
    noise: `[f, 4, h, w]`, unit variance (`prepare_noise`).
    sigmas: see `sigmas_for`; empty returns the latents unchanged.
    seed: of the fresh noise that the sampler adds, if it does.
    callback: `(step, x, sigma, denoised)` once a step, x and denoised `[f, 4, h, w]` in the model's scale (latents
        times `model.latent_scale`); raising from it cancels.

    Returns latents `[f, 4, h, w]`, fp32, unscaled, on `latents`' device; the work is done on the network's.
    Raises T2VError, before any work, for shapes that do not fit, numbers that are not finite, unknown names.
    """
    bound = BoundSampler(sampler) if isinstance(sampler, str) else sampler
    _check(latents, noise, cond, uncond, sigmas)
    device = model.denoiser.device
    denoise = _clip_denoiser(model, cond.to(device), None if uncond is None else uncond.to(device), cfg)
    if len(sigmas) == 0:
        return latents
    sigmas = sigmas.cpu()  # as scalars on the CPU they multiply any device's tensors and never make it wait
    start = latents.to(device, torch.float32) * model.latent_scale
    x = noisy(start, noise.to(start), sigmas[0], model.denoiser.noise_schedule)
    x = bound(denoise, x, sigmas, noise=step_noise(bound.noise, x, seed), callback=callback)
    return (x.float() / model.latent_scale).to(latents.device)


def noisy(latents: Tensor, noise: Tensor, sigma: Tensor, noise_schedule: NoiseSchedule) -> Tensor:
    """Latents with sigma's noise. At the largest sigma and above, the latents are thought to be empty and the noise
    is a little stronger: variance 1 + sigma^2, as x had in training. ComfyUI does so too."""
    largest = noise_schedule.sigma_max
    if float(sigma) > largest or math.isclose(float(sigma), largest, rel_tol=1e-5):
        return noise * (1.0 + sigma**2).sqrt() + latents
    return noise * sigma + latents


def _clip_denoiser(model: VideoModel, cond: Tensor, uncond: Tensor | None, cfg: float) -> Denoise:
    """The model under guidance, on a frame batch `[f, c, h, w]`: the layout in which samplers draw their noise."""
    rescale = model.modifier(GuidanceRescale)
    denoise = guide(model.denoiser, cond, uncond, cfg, rescale.multiplier if rescale else 0.0)

    def on_frames(x: Tensor, sigma: Tensor) -> Tensor:
        return rearrange(denoise(rearrange(x, "f c h w -> 1 c f h w"), sigma), "1 c f h w -> f c h w")

    return on_frames


def _check(latents: Tensor, noise: Tensor, cond: Tensor, uncond: Tensor | None, sigmas: Tensor) -> None:
    if latents.ndim != 4:
        raise T2VError(
            f"LATENT has {latents.ndim} dimensions {list(latents.shape)}; here it is [frames, 4, h, w], one clip "
            "a latent"
        )
    frames, channels = latents.shape[:2]
    if channels != LATENT_CHANNELS:
        raise T2VError(f"LATENT has {channels} channels; the model takes {LATENT_CHANNELS}")
    if frames < 1:
        raise T2VError("LATENT holds 0 frames; a clip has at least 1")
    if noise.shape != latents.shape:
        raise T2VError(f"noise has shape {list(noise.shape)} and LATENT {list(latents.shape)}; they must agree")
    _check_finite("LATENT", latents)
    _check_finite("noise", noise)
    _check_cond("positive", cond, frames)
    if uncond is not None:
        _check_cond("negative", uncond, frames)
        if uncond.shape[2] != cond.shape[2]:
            raise T2VError(
                f"positive conditioning is {cond.shape[2]} wide and negative {uncond.shape[2]}; encode both with the "
                "same CLIP"
            )
    _check_sigmas(sigmas)


def _check_cond(name: str, cond: Tensor, frames: int) -> None:
    if cond.ndim != 3:
        raise T2VError(f"{name} conditioning has shape {list(cond.shape)}; it is [1 or frames, tokens, dim]")
    if cond.shape[0] not in (1, frames):
        raise T2VError(
            f"{name} conditioning has {cond.shape[0]} rows and LATENT {frames} frames; it needs 1 row for the whole "
            "clip or one for each frame"
        )
    _check_finite(f"{name} conditioning", cond)


def _check_sigmas(sigmas: Tensor) -> None:
    _check_finite("SIGMAS", sigmas)
    if sigmas.ndim != 1:
        raise T2VError(f"SIGMAS has shape {list(sigmas.shape)}; it is one row of noise levels")
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        if not 0.0 <= sigma_next <= sigma or sigma == 0.0:
            raise T2VError(
                f"SIGMAS goes from {sigma:g} to {sigma_next:g} at step {step}; it must fall, and only its last may be 0"
            )


def _check_finite(name: str, tensor: Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise T2VError(f"{name} holds {bad} of {tensor.numel()} values that are NaN or infinite")

"""From noise to a clip's latents: what a host does around a sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import T2VError
from ..models.hooks import TemporalScale
from ..models.memory import clips_at_once, fits
from ..models.unet3d import UNet3D
from ..windows import MOST_AT_ONCE, ContextWindows
from .attention_windows import AttentionWindowed, check_attention
from .denoiser import Denoiser
from .guidance import CondDenoise, by_frame, guide
from .model import Compiled, GuidanceRescale, NetworkScale, VideoModel
from .modifiers import GuidanceSchedule, NoiseSeeds, PerFrame, StrengthSchedule, TemporalStrength, noise_left
from .noise import prepare_noise, step_noise
from .noise_schedule import NoiseSchedule
from .samplers import BoundSampler, Callback, Denoise, Keeper
from .windowed import Between, Windowed

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
    batch_index: Sequence[int] | None = None,
    callback: Callback | None = None,
    between: Between | None = None,
    keeper: Keeper | None = None,
) -> Tensor:
    """Denoise one clip, doing what ComfyUI does around a sampler.

    latents: what to start from, `[f, 4, h, w]`, unscaled as a LATENT wire carries them; zeros for text-to-video.
    cond, uncond: the texts, `[1 or f, tokens, dim]`; uncond may be None at cfg 1.
    noise: `[f, 4, h, w]`, unit variance (`prepare_noise`). Unless it is all 0, a model with `NoiseSeeds` uses theirs.
    sigmas: see `sigmas_for`; empty returns the latents unchanged.
    seed: of the fresh noise that the sampler adds, if it does.
    batch_index: the frame numbers for the noise of `NoiseSeeds`; see `prepare_noise`.
    callback: `(step, x, sigma, denoised)` once a step, x and denoised `[f, 4, h, w]` in the model's scale (latents
        times `model.latent_scale`); raising from it cancels.
    between: `(done, total)` after each batch of windows, for a model with `ContextWindows` whose windows the clip is
        longer than: how many of the clip's windows have run under one text; raising from it cancels.
    keeper: keeps the run's state and has the one to go on from; it must be that of a run with the same arguments.

    Returns latents `[f, 4, h, w]`, fp32, unscaled, on `latents`' device; the work is done on the network's.
    Raises T2VError, before any work, for shapes that do not fit, numbers that are not finite, unknown names.
    """
    bound = BoundSampler(sampler) if isinstance(sampler, str) else sampler
    _check(latents, noise, cond, uncond, sigmas)
    for modifier in model.modifiers:
        if isinstance(modifier, PerFrame):
            modifier.check(len(latents))
    device = model.denoiser.device
    settled = _as_it_is if keeper is None else keeper.settled
    denoise = _clip_denoiser(model, latents.shape, cond, uncond, cfg, between, settled)
    if len(sigmas) == 0:
        return latents
    sigmas = sigmas.cpu()  # as scalars on the CPU they multiply any device's tensors and never make it wait
    noise_schedule, network_scale = model.denoiser.noise_schedule, model.modifier(NetworkScale) is not None
    start = latents.to(device, torch.float32) * model.latent_scale
    noise = _noise(model, noise, batch_index).to(start)
    if network_scale and not bool(start.any()):
        noise = _for_unit_variance(noise, sigmas[0], noise_schedule)
    strength = model.modifier(StrengthSchedule)
    if strength is not None:
        denoise = _keeping(denoise, strength, noise_schedule, start, noise, sigmas[0])
    x = noisy(start, noise, sigmas[0], noise_schedule)
    fresh = {"noise": step_noise(bound.noise, x, seed), "unscaled": noise_schedule.unscaled}
    x = bound(denoise, x, sigmas, **fresh, callback=callback, keeper=keeper)
    if network_scale:
        x = x / noise_schedule.x_scale(sigmas[-1])
    result = (x.float() / model.latent_scale).to(latents.device)
    unfinished = sigmas[-1] > 0 and not network_scale
    return result if strength is None or unfinished else strength.restore(result, latents)


def _noise(model: VideoModel, noise: Tensor, batch_index: Sequence[int] | None) -> Tensor:
    """The noise to start from: `NoiseSeeds`' in place of the given, unless a run without noise is asked for."""
    seeds = model.modifier(NoiseSeeds)
    if seeds is None or not bool(noise.any()):
        return noise
    return seeds.noise(lambda seed: prepare_noise(noise.shape, seed, batch_index), len(noise))


def _keeping(
    denoise: Denoise,
    strength: StrengthSchedule,
    noise_schedule: NoiseSchedule,
    start: Tensor,
    noise: Tensor,
    first_sigma: Tensor,
) -> Denoise:
    """`denoise` for the frames that are free at a sigma; the others are shown to it as they were, with sigma's noise,
    and come back as they were, which makes any sampler walk them along their own noise."""
    strength.check_start(noise_left(noise_schedule, first_sigma), noise)

    def on_frames(x: Tensor, sigma: Tensor) -> Tensor:
        free = strength.free(noise_left(noise_schedule, sigma))
        if all(free):
            return denoise(x, sigma)
        mask = by_frame(free, "f 1 1 1", x).bool()
        return torch.where(mask, denoise(torch.where(mask, x, start + noise * sigma), sigma), start)

    return on_frames


def noisy(latents: Tensor, noise: Tensor, sigma: Tensor, noise_schedule: NoiseSchedule) -> Tensor:
    """Latents with sigma's noise. At the largest sigma and above, the latents are thought to be empty and the noise
    is a little stronger: variance 1 + sigma^2, as x had in training. ComfyUI does so too."""
    if _at_largest(sigma, noise_schedule):
        return noise * noise_schedule.x_scale(sigma) + latents
    return noise * sigma + latents


def _for_unit_variance(noise: Tensor, sigma: Tensor, noise_schedule: NoiseSchedule) -> Tensor:
    """Noise as strong as makes `noisy` of nothing have variance 1 where the network sees it."""
    if float(sigma) == 0.0 or _at_largest(sigma, noise_schedule):
        return noise
    return noise * (noise_schedule.x_scale(sigma) / sigma)


def _at_largest(sigma: Tensor, noise_schedule: NoiseSchedule) -> bool:
    largest = noise_schedule.sigma_max
    return float(sigma) > largest or math.isclose(float(sigma), largest, rel_tol=1e-5)


class _Told(nn.Module):
    """A UNet3D that is always called with the same frame rate, hooks and compiled parts, each unless it is None."""

    def __init__(self, network: nn.Module, fps: float | None, **told: Any):
        super().__init__()
        self.network, self.fps = network, fps
        self.told = {name: value for name, value in told.items() if value is not None}

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **more: Any) -> Tensor:
        fps = {} if self.fps is None else {"fps": torch.full_like(timesteps, self.fps)}
        return self.network(x, timesteps, context, **fps, **self.told, **more)


def _told(model: VideoModel, frames: Sequence[int] | None = None) -> Denoiser:
    """The model's denoiser, its network told what modifiers say: of the whole clip, or of these of its frames."""
    denoiser, temporal, compiled = model.denoiser, model.modifier(TemporalStrength), model.modifier(Compiled)
    if temporal is None and compiled is None and model.fps is None:
        return denoiser
    if temporal is not None and frames is not None:
        temporal = temporal.of(frames)
    hooks = None if temporal is None else TemporalScale(temporal.attention, temporal.convolution)
    network = _Told(denoiser.network, model.fps, hooks=hooks, compiled=compiled and compiled.parts)
    return Denoiser(network, denoiser.noise_schedule, denoiser.prediction)


def _as_it_is(name: str, value: Any) -> Any:
    """`Keeper.settled` of a run that is not kept."""
    return value


def _under_one_text(
    model: VideoModel, shape: Sequence[int], between: Between | None, settled: Callable[[str, Any], Any]
) -> tuple[CondDenoise, bool]:
    """The model as guidance calls it for a clip `[f, c, h, w]`, and whether it must do so for each text apart.

    settled: what is decided by the memory that is free and rounds otherwise stays so when a run goes on.
    """
    windows, network = model.modifier(ContextWindows), model.denoiser.network
    measured, (frames, _, h, w) = isinstance(network, UNet3D), shape
    if windows is None or not windows.applies(frames):
        one_text = _told(model)
    elif windows.where == "attention":
        check_attention(network, frames, h, w)
        one_text = AttentionWindowed(windows, _told(model))
    else:
        at_once = clips_at_once(network, windows.length, h, w, MOST_AT_ONCE) if measured else MOST_AT_ONCE
        at_once = settled("at_once", at_once)
        return Windowed(windows, partial(_told, model), model.denoiser.noise_schedule, at_once, between), True
    return one_text, settled("apart", measured and not fits(network, 2 * frames, h, w))


def _clip_denoiser(
    model: VideoModel,
    shape: Sequence[int],
    cond: Tensor,
    uncond: Tensor | None,
    cfg: float,
    between: Between | None,
    settled: Callable[[str, Any], Any],
) -> Denoise:
    """The model under guidance, on a frame batch `[f, c, h, w]`: the layout in which samplers draw their noise."""
    rescale, guidance = model.modifier(GuidanceRescale), model.modifier(GuidanceSchedule)
    if guidance is None:
        scale = cfg
    elif not math.isfinite(cfg):
        raise T2VError(f"cfg is {cfg}; it must be a finite number")
    elif guidance.always_one(cfg):
        scale = 1.0
    else:

        def scale(sigma: Tensor) -> float | tuple[float, ...]:
            return guidance.scales(cfg, noise_left(model.denoiser.noise_schedule, sigma))

    one_text, apart = _under_one_text(model, shape, between, settled)
    if not isinstance(one_text, Windowed):  # which takes to the device what its windows need
        cond, uncond = (text if text is None else text.to(model.denoiser.device) for text in (cond, uncond))
    denoise = guide(one_text, cond, uncond, scale, rescale.multiplier if rescale else 0.0, apart)

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
    bad = sum(int((~torch.isfinite(part)).sum()) for part in (tensor.split(64) if tensor.ndim else [tensor]))
    if bad:  # counted in parts, so that the texts of a long clip's frames are not there twice
        raise T2VError(f"{name} holds {bad} of {tensor.numel()} values that are NaN or infinite")

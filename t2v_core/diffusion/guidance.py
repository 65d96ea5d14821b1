"""Classifier-free guidance, and the rescaling that keeps it from over-saturating."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor

from ..errors import T2VError
from .denoiser import align, denoised_from_v, v_from_denoised
from .modifiers import is_one

CondDenoise = Callable[[Tensor, Tensor, Tensor], Tensor]
Scales = Callable[[Tensor], "float | Sequence[float]"]
"""The guidance scale at a sigma: one number, or one for each frame."""


def guide(
    denoise: CondDenoise,
    cond: Tensor,
    uncond: Tensor | None,
    scale: float | Scales,
    rescale: float = 0.0,
    apart: bool = False,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Turn `denoise(x, sigma, cond)` into `(x, sigma) -> denoised` under guidance: Ho and Salimans (arXiv 2207.12598).

    cond, uncond: `[b, tokens, dim]`, or `[b * f, tokens, dim]` for one text per frame, for x `[b, c, f, h, w]`.
        Equal token counts run as one batch, uncond first; different ones as two calls, so neither is padded.
    scale: uncond + scale * (cond - uncond), a number or a function of sigma that returns one, or one for each frame.
        Where it is 1, for every frame, only cond runs; if it is the number 1, uncond may be None.
    rescale: 0..1, how far to pull the result's spread back to cond's: Lin et al. (arXiv 2305.08891), section 3.4,
        on the velocity as ComfyUI's RescaleCFG does, but over the whole clip, so that frames do not flicker.
    apart: two calls in any case, where there is not the memory for one.

    Raises T2VError for a scale that is not finite, a rescale out of range, a missing uncond.
    """
    if not 0.0 <= rescale <= 1.0:
        raise T2VError(f"guidance rescale is {rescale}; it goes from 0 (off) to 1 (full)")
    if not callable(scale):
        if not math.isfinite(scale):
            raise T2VError(f"cfg is {scale}; it must be a finite number")
        if math.isclose(scale, 1.0):
            return lambda x, sigma: denoise(x, sigma, cond)
    if uncond is None:
        named = "a cfg other than 1" if callable(scale) else f"cfg {scale}"
        raise T2VError(f"{named} needs a negative conditioning; only cfg 1 does without")

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        scales = scale(sigma) if callable(scale) else scale
        if is_one(scales):
            return denoise(x, sigma, cond)
        d_uncond, d_cond = _both(denoise, x, sigma, uncond, cond, apart)
        denoised = d_uncond + (d_cond - d_uncond) * by_frame(scales, "1 1 f 1 1", x)
        return rescale_guidance(x, sigma, denoised, d_cond, rescale) if rescale > 0.0 else denoised

    return guided


def by_frame(scales: float | Sequence[float], axes: str, x: Tensor) -> float | Tensor:
    """Numbers for each frame in a shape, such as "f 1 1 1", that multiplies x; a single one as it is."""
    if isinstance(scales, (int, float)):
        return scales
    return rearrange(torch.tensor(scales, dtype=x.dtype, device=x.device), f"f -> {axes}")


def _both(
    denoise: CondDenoise, x: Tensor, sigma: Tensor, uncond: Tensor, cond: Tensor, apart: bool
) -> tuple[Tensor, Tensor]:
    """Denoise under each of the two texts, in one call where their token counts allow it."""
    if apart or uncond.shape[1] != cond.shape[1]:
        return denoise(x, sigma, uncond), denoise(x, sigma, cond)
    rows = max(len(uncond), len(cond))  # one may hold a text per frame where the other holds one per clip
    uncond, cond = (repeat(c, "b n d -> (b f) n d", f=rows // len(c)) for c in (uncond, cond))
    sigmas = sigma if sigma.ndim == 0 else sigma.repeat(2)
    d_uncond, d_cond = denoise(torch.cat([x, x]), sigmas, torch.cat([uncond, cond])).chunk(2)
    return d_uncond, d_cond


def rescale_guidance(x: Tensor, sigma: Tensor, denoised: Tensor, d_cond: Tensor, rescale: float) -> Tensor:
    """Blend `denoised` with itself at the standard deviation that `d_cond` has over each clip, both as velocities.

    x, denoised, d_cond: `[b, c, f, h, w]`; sigma: a scalar or `[b]`; rescale: 0 (none) .. 1. Source: see `guide`.
    """
    sigma = align(sigma, x)
    v_cfg, v_pos = v_from_denoised(x, sigma, denoised), v_from_denoised(x, sigma, d_cond)
    std_pos, std_cfg = (v.std(dim=(1, 2, 3, 4), keepdim=True) for v in (v_pos, v_cfg))
    v_rescaled = v_cfg * (std_pos / std_cfg.clamp_min(torch.finfo(v_cfg.dtype).tiny))
    return denoised_from_v(x, sigma, rescale * v_rescaled + (1.0 - rescale) * v_cfg)

"""What a value on a socket must look like, checked before it reaches a host. Errors name the node's input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..t2v_core.diffusion import FreeInit
from ..t2v_core.errors import T2VError


def latents_of(latent: Any, name: str) -> Tensor:
    """The tensor `[f, c, h, w]` of a LATENT: one clip, its frames along the first axis."""
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, Tensor):
        raise T2VError(f"{name}: not a LATENT, which is a dictionary with a tensor under 'samples'")
    if samples.ndim != 4:
        raise T2VError(
            f"{name}: the latent has {samples.ndim} dimensions, {list(samples.shape)}; here a clip is a frame batch, "
            "[frames, channels, height / 8, width / 8], as T2VEmptyLatent makes it"
        )
    if samples.numel() == 0:
        raise T2VError(f"{name}: the latent {list(samples.shape)} is empty")
    return samples


def check_conditioning(conditioning: Any, frames: int, name: str) -> None:
    """CONDITIONING is `[[cond [1 or f, tokens, dim], {...}], ...]`; ComfyUI would tile or cut any other count."""
    if not isinstance(conditioning, (list, tuple)) or not conditioning:
        raise T2VError(f"{name}: not a CONDITIONING, which is a list of [tensor, dictionary] pairs")
    for entry in conditioning:
        cond = entry[0] if isinstance(entry, (list, tuple)) and len(entry) == 2 else None
        if not isinstance(cond, Tensor) or cond.ndim != 3:
            raise T2VError(
                f"{name}: an entry of the CONDITIONING is not a pair of a tensor [rows, tokens, dim] and a dictionary"
            )
        if cond.shape[0] not in (1, frames):
            raise T2VError(
                f"{name}: the conditioning has {cond.shape[0]} rows and the latent {frames} frames; "
                f"it takes 1 row for the whole clip or {frames}, one for each frame"
            )


def check_free_init(free_init: Any, denoise: float) -> None:
    """T2V_FREE_INIT is T2V FreeInit's alone, and goes with denoise 1: what is left of a latent would not be renewed."""
    if free_init is None:
        return
    if not isinstance(free_init, FreeInit):
        raise T2VError("free_init: not what T2V FreeInit gives; connect its output")
    if denoise != 1.0:
        raise T2VError(f"free_init: FreeInit makes clips out of noise alone, so denoise must be 1; it is {denoise:g}")


def check_images(images: Any, name: str, alpha: bool = False) -> None:
    """IMAGE is a floating-point tensor `[f, H, W, 3]` in 0..1; `[f, H, W, 4]` too where alpha is allowed."""
    if not isinstance(images, Tensor) or images.ndim != 4 or not torch.is_floating_point(images):
        raise T2VError(f"{name}: not an IMAGE, which is a floating-point tensor [frames, height, width, 3]")
    if images.numel() == 0 or images.shape[-1] not in ((3, 4) if alpha else (3,)):
        channels = "3, or 4 with alpha" if alpha else "3"
        raise T2VError(
            f"{name}: the images are {list(images.shape)}; they must be [frames, height, width, {channels}], none 0"
        )


def check_part(value: Any, name: str, part: str) -> None:
    """A loader leaves CLIP or VAE empty where the model has no such part, or the host no network for it."""
    if value is None:
        raise T2VError(
            f"{name}: the model file that was loaded holds no {part} that can be used here; connect that of another "
            "loader, or load a model that has one, such as 'bundled'"
        )

"""UNet3D as ComfyUI's diffusion model: the same parameters, ComfyUI's way of being called."""

from __future__ import annotations

from typing import Any

import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from einops import rearrange
from torch import Tensor

from ...t2v_core.errors import T2VError
from ...t2v_core.models.unet3d import UNet3D, UNet3DConfig
from .unet_hooks import ComfyHooks, attention

FRAMES = "t2v_frames"
"""Key in transformer_options: how many frames a clip has, where one call holds several clips a conditioning."""
FPS = "t2v_fps"
"""Key in transformer_options: the frames per second that the network is told, in place of those it is called with."""
WINDOWS = "t2v_attention_windows"
"""Key in transformer_options: `(frames) -> TemporalWindows`, or None, for clips of so many frames."""
COMPILED = "t2v_compiled"
"""Key in transformer_options: the `CompiledParts` of a model that has them."""


class ComfyUNet3D(UNet3D):
    """Inherits, for LoRAs, merges and saved files name the parameters by their place in the diffusion model."""

    def __init__(
        self,
        config: UNet3DConfig,
        model_channels: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        operations: Any = None,
    ):
        super().__init__(config, dtype=dtype, device=device, operations=operations, attention=attention)
        self.dtype = dtype
        self.model_channels = model_channels

    def forward(self, x, timesteps=None, context=None, y=None, control=None, transformer_options=None, **kwargs):
        """`x` `[(b f), c, h, w]` -> same; the arguments stand in the order in which wrappers expect them."""
        transformer_options = {} if transformer_options is None else transformer_options
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        executor = WrapperExecutor.new_class_executor(self._forward_frames, self, wrappers)
        return executor.execute(x, timesteps, context, y, control, transformer_options, **kwargs)

    def _forward_frames(self, x, timesteps, context, y=None, control=None, transformer_options=None, **kwargs):
        options = {} if transformer_options is None else transformer_options
        frames = _frames_per_clip(x, options, kwargs)
        hooks = ComfyHooks(control, options, x)
        if not hooks.patches_text_attention:
            wrapped = bool(get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options))
            context = _one_text_per_clip(context, frames, None if wrapped else kwargs.get("one_text"))
        clips = rearrange(x, "(b f) c h w -> b c f h w", f=frames)
        timesteps, fps = timesteps[::frames], None
        if self.config.fps_embedding and (rate := options.get(FPS, kwargs.get("fps"))) is not None:
            fps = torch.full_like(timesteps, rate)
        told = {"fps": fps, "hooks": hooks, "compiled": options.get(COMPILED)}
        told["windows"] = options[WINDOWS](frames) if WINDOWS in options else None
        out = super().forward(clips, timesteps, context, **told)
        return rearrange(out, "b c f h w -> (b f) c h w")


def _frames_per_clip(x: Tensor, options: dict, kwargs: dict) -> int:
    """How the batch divides into clips: as told, else one clip for each conditioning in the batch."""
    frames = options.get(FRAMES)
    if frames is None and "cond_or_uncond" in options:
        frames = x.shape[0] // len(options["cond_or_uncond"])
    if frames is None:
        frames = kwargs.get("num_video_frames", x.shape[0])
    if frames < 1 or x.shape[0] % frames:
        raise T2VError(f"a batch of {x.shape[0]} frames does not divide into clips of {frames}")
    return frames


def _one_text_per_clip(context: Tensor, frames: int, one_text: bool | None) -> Tensor:
    """ComfyUI repeats a clip's text for each frame; undone, its keys and values are computed once a clip.

    one_text: whether the rows of each clip are one text; None, where others may have changed them, compares them, for
        which the device has to be waited for.
    """
    texts = rearrange(context, "(b f) n d -> b f n d", f=frames)
    if one_text is None:
        one_text = bool((texts == texts[:, :1]).all())
    return texts[:, 0] if one_text else context

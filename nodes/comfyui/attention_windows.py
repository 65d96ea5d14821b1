"""A long clip as windows of its attention over time: the plan on its way to our UNet, which sees the whole clip."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.model_management as memory
from torch import Tensor

from ...t2v_core.errors import T2VError
from ...t2v_core.models.memory import check_whole_clip
from ...t2v_core.windows import ContextWindows, temporal_windows
from .model_sampling import noise_left
from .unet import WINDOWS, ComfyUNet3D


class WindowedAttentions:
    """`ContextWindows` whose `where` is "attention", as wrappers around a run and around each call of the UNet.

    Raises T2VError for a MODEL that is not of this pack's kind.
    """

    def __init__(self, modifier: ContextWindows, model: Any):
        if not isinstance(model.get_model_object("diffusion_model"), ComfyUNet3D):
            raise T2VError(
                "where: windows of the attention reach into a text-to-video model of T2V Load Model, and the connected "
                "model is another kind; set where to latents, which works with any model of frame batches"
            )
        self.modifier = modifier

    def sample(
        self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict, callback: Any, noise: Tensor,
        *args, **kwargs,
    ) -> Tensor:  # fmt: skip
        """Around `Sampler.sample`, for which ComfyUI has just made room. Raises T2VError for a clip that does not fit
        even one text at a time."""
        frames, device = len(noise), noise.device
        if self.modifier.applies(frames):
            check_whole_clip(
                lambda frames: guider.inner_model.memory_required([frames, *noise.shape[1:]]),
                frames, memory.get_free_memory(device), device.type,
            )  # fmt: skip
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)

    def apply(
        self, executor: Any, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None, control: Any = None,
        transformer_options: dict | None = None, **kwargs,
    ) -> Tensor:  # fmt: skip
        """Around `apply_model`, whose `t` is the sigma."""
        left = noise_left(executor.class_obj.model_sampling, t)
        options = {**(transformer_options or {}), WINDOWS: partial(temporal_windows, self.modifier, left=left)}
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

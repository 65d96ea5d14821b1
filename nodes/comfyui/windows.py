"""A long clip as windows of frames, for any MODEL whose latents are a frame batch and for any sampler of ComfyUI.

Each prediction is made window by window and put together before guidance, which so works on the whole clip, as it does
without ComfyUI. The sampler, its noise, masks and what other nodes do after guidance never see a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management as memory
import comfy.utils
from einops import rearrange
from torch import Tensor

from ...t2v_core.errors import T2VError
from ...t2v_core.windows import MOST_AT_ONCE, ContextWindows, Fused, batches
from .model_sampling import noise_left
from .unet import FRAMES, ComfyUNet3D
from .unet_hooks import TEMPORAL
from .window_conds import Rows, told_controls

NATIVE = "context_window"
"""Key in transformer_options: the window of ComfyUI's own context windows that a call is for."""
BAR = "t2v_windows_done"
"""Key in transformer_options: the `WindowBar` of a run."""
SAFETY = 1.5  # ComfyUI's own, where it decides how many texts go into one call


class WindowedCalls:
    """`ContextWindows` as wrappers around a run's preparation, its sampler, and each of its predictions."""

    def __init__(self, modifier: ContextWindows):
        self.modifier = modifier

    def prepare(self, executor: Any, model: Any, noise_shape: Sequence[int], *args, **kwargs) -> Any:
        """Around `prepare_sampling`: no more than one window's memory is asked for.

        Raises T2VError for latents that are no frame batch.
        """
        if len(noise_shape) != 4:
            raise T2VError(
                "context windows are for clips that are frame batches, [frames, channels, h, w]; this model's latent "
                f"is {list(noise_shape)}, for which ComfyUI has context windows of its own"
            )
        frames = min(noise_shape[0], self.modifier.length)
        return executor(model, type(noise_shape)((frames, *noise_shape[1:])), *args, **kwargs)

    def sample(
        self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict, callback: Any, *args, **kwargs
    ) -> Tensor:
        """Around `Sampler.sample`: the page's progress moves from window to window."""
        bar, options = WindowBar(len(sigmas) - 1), extra_args["model_options"]
        inner = {**options.get("transformer_options", {}), BAR: bar}
        extra_args = {**extra_args, "model_options": {**options, "transformer_options": inner}}

        def step_done(step: int, *told) -> None:
            bar.step = step + 1
            if callback is not None:
                callback(step, *told)

        return executor(guider, sigmas, extra_args, step_done, *args, **kwargs)

    def predict(
        self, executor: Any, model: Any, conds: list, x: Tensor, timestep: Tensor, model_options: dict
    ) -> list[Tensor]:
        """Around `calc_cond_batch`: x `[f, c, h, w]`; a prediction of that shape for each of the conds."""
        options = model_options.get("transformer_options", {})
        if NATIVE in options or not self.modifier.applies(len(x)):
            return executor(model, conds, x, timestep, model_options)
        windows = self.modifier.at(len(x), noise_left(model.model_sampling, timestep))
        parts = list(batches(windows, _at_once(model, x, windows.length, conds)))
        fused = [Fused(windows, x) for _ in conds]
        for done, batch in enumerate(parts):
            memory.throw_exception_if_processing_interrupted()
            part = Rows(windows.indices[batch].flatten().tolist(), len(x), windows.length)
            of_window = {**model_options, "transformer_options": _options(options, part)}
            with told_controls(conds, part) as its_conds:
                outs = executor(model, its_conds, part.of(x), part.of(timestep), of_window)
            for clip, out in zip(fused, outs, strict=True):
                clip.add(batch, rearrange(out, "(n l) c h w -> n l c h w", l=windows.length))
            if BAR in options:
                options[BAR].show(done + 1, len(parts))
        return [clip.total for clip in fused]


class WindowBar:
    """The page's progress within a step. It never goes back, however often a sampler calls the model in a step."""

    def __init__(self, steps: int):
        self.steps, self.step, self._shown = steps, 0, 0.0

    def show(self, done: int, batches: int) -> None:
        """`done` of the batches of windows of one prediction are done."""
        value, total = self.step * batches + done, max(self.steps, self.step + 1) * batches
        if value / total > self._shown and done < batches:  # the sampler says itself when a step is done
            self._shown = value / total
            comfy.utils.ProgressBar(total).update_absolute(value, total)


def _at_once(model: Any, x: Tensor, length: int, conds: list) -> int:
    """How many windows may go into one call, by the free memory: 1 where the network would take them for one."""
    if not isinstance(model.diffusion_model, ComfyUNet3D):
        return 1
    free, texts = memory.get_free_memory(x.device), sum(cond is not None for cond in conds)
    for count in range(MOST_AT_ONCE, 1, -1):
        if model.memory_required([count * length * texts, *x.shape[1:]]) * SAFETY < free:
            return count
    return 1


def _options(options: dict, part: Rows) -> dict:
    """transformer_options of a call for some windows."""
    # What packs made for AnimateDiff-Evolved, such as IPAdapter Plus, look up to take the right frames of their own.
    known = {"sub_idxs": part.frames, "full_length": part.clip, "context_length": part.length}
    told = {**options, FRAMES: part.length, "ad_params": {**options.get("ad_params", {}), **known}}
    if TEMPORAL in options:
        told[TEMPORAL] = part.of_temporal(options[TEMPORAL])
    return told

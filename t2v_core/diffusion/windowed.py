"""A denoiser of clips made one of longer clips: window by window, and fused."""

from __future__ import annotations

from collections.abc import Callable

from einops import rearrange
from torch import Tensor

from ..windows import ContextWindows, Fused, batches
from .denoiser import Denoiser
from .modifiers import noise_left
from .noise_schedule import NoiseSchedule

Between = Callable[[int, int], None]
"""`(done, total)`, after each batch of windows: how many of the clip's windows have run; raising cancels."""


class Windowed:
    """`(x, sigma, cond) -> denoised` for one clip of more frames than a window has, as guidance wants it.

    What it holds beside the clip is what `at_once` windows hold, however long the clip is.

    windows: the plan.
    denoiser: the `Denoiser` for windows, given their frames in the clip, `[windows * length]`, one after the other.
    at_once: how many windows may run in one call, 1 and up.
    between: see `Between`; it counts anew at every call.
    """

    def __init__(
        self,
        windows: ContextWindows,
        denoiser: Callable[[list[int]], Denoiser],
        noise_schedule: NoiseSchedule,
        at_once: int,
        between: Between | None = None,
    ):
        self._windows, self._denoiser, self._noise_schedule = windows, denoiser, noise_schedule
        self._at_once, self._between = at_once, between

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        """x: `[1, c, f, h, w]`; sigma: a scalar; cond: `[1 or f, tokens, dim]`, on any device."""
        clip = rearrange(x, "1 c f h w -> f c h w")
        windows = self._windows.at(len(clip), noise_left(self._noise_schedule, sigma))
        fused, total = Fused(windows, clip), len(windows.frames)
        for batch in batches(windows, self._at_once):
            indices = windows.indices[batch]
            frames = indices.flatten()
            inside = rearrange(clip[frames.to(clip.device)], "(n l) c h w -> n c l h w", l=windows.length)
            texts = cond.expand(len(indices), -1, -1) if len(cond) == 1 else cond[frames.to(cond.device)]
            result = self._denoiser(frames.tolist())(inside, sigma, texts)
            fused.add(batch, rearrange(result, "n c l h w -> n l c h w"))
            if self._between is not None:
                self._between(min(batch.stop, total), total)
        return rearrange(fused.total, "f c h w -> 1 c f h w")

"""ComfyUI's AUDIO, checked, and handed out in the pieces that belong to each frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from ...errors import VideoError

MAX_CHANNELS = 6
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000

_WANTED = 'audio must be {"waveform": float tensor [1, channels, samples], "sample_rate": int}'


@dataclass(frozen=True)
class Sound:
    """`waveform` `[channels, samples]`, floats in -1..1 (louder is clipped); `sample_rate` in Hz."""

    waveform: Tensor
    sample_rate: int

    @classmethod
    def from_comfyui(cls, audio: Mapping) -> Sound:
        """Check ComfyUI's AUDIO: one clip, 1 to 6 channels (mono to 5.1), finite, 1 to 768 kHz; else VideoError."""
        if not isinstance(audio, Mapping) or "waveform" not in audio or "sample_rate" not in audio:
            raise VideoError(_WANTED)
        waveform, rate = audio["waveform"], audio["sample_rate"]
        if not isinstance(waveform, Tensor) or not waveform.is_floating_point():
            raise VideoError(f"{_WANTED}; the waveform is {getattr(waveform, 'dtype', type(waveform).__name__)}")
        if waveform.ndim != 3 or waveform.shape[0] != 1 or not 1 <= waveform.shape[1] <= MAX_CHANNELS:
            shape = list(waveform.shape)
            raise VideoError(f"{_WANTED}, one clip, 1 to {MAX_CHANNELS} channels; the waveform is {shape}")
        if isinstance(rate, bool) or not isinstance(rate, Integral) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise VideoError(f"audio sample_rate is {rate!r}; it must be an int, {LOWEST_RATE} to {HIGHEST_RATE} Hz")
        if not bool(torch.isfinite(waveform).all()):
            raise VideoError("the audio waveform holds NaN or infinite values")
        return cls(waveform[0].detach(), int(rate))

    @property
    def channels(self) -> int:
        return self.waveform.shape[0]

    @property
    def seconds(self) -> Fraction:
        return Fraction(self.waveform.shape[1], self.sample_rate)

    def during(self, frame: int, fps: Fraction) -> bytes:
        """The samples heard while frame number `frame` (from 0) is shown: float32 little endian, channels interleaved.

        Silence where the clip has ended. The pieces of frames 0..n-1 together last exactly n / fps, to the sample.
        """
        start, end = (int(index * self.sample_rate / fps) for index in (frame, frame + 1))
        heard = self.waveform[:, start:end].to("cpu", torch.float32).clamp(-1, 1)
        samples = np.zeros((end - start, self.channels), dtype="<f4")
        samples[: heard.shape[1]] = heard.T.numpy()
        return samples.tobytes()

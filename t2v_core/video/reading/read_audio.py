"""The sound of a video file as ComfyUI's AUDIO."""

from __future__ import annotations

import math
import os
import struct
from numbers import Real

import numpy as np
import torch

from ...errors import VideoError
from .info import VideoInfo
from .output import capture
from .probe import probe

_MOST_BYTES = 2**32
"""Six hours of stereo."""
_SECONDS = 600.0
_AU = struct.Struct(">4s5I")  # magic, where the samples begin, their bytes, encoding, rate, channels (Sun's .au)


def read_audio(
    path: str | os.PathLike[str] | VideoInfo, start_seconds: float = 0.0, duration: float | None = None
) -> dict | None:
    """`{"waveform": float32 [1, channels, samples] in about -1..1, "sample_rate": Hz}`, or None without a sound track.

    The first sound track from `start_seconds` on, `duration` seconds of it (None: all), at its own rate and with its
    own channels; exact to the sample. It ends where the track ends: no silence is added at its end, but before a track
    that begins later than the pictures there is some. VideoError if it cannot be decoded.
    """
    for name, value in (("start_seconds", start_seconds), ("duration", 0 if duration is None else duration)):
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < math.inf:
            raise VideoError(f"{name} is {value!r}; it must be a number of seconds, 0 or more")
    info = path if isinstance(path, VideoInfo) else probe(path)
    if not info.audio:
        return None
    track = info.audio[0]
    length = "" if duration is None else f":duration={float(duration):.9f}"
    # first_pts: a track that begins late is filled up from the moment at which the pictures begin
    filters = f"aresample=async=1:first_pts=0,atrim=start={float(start_seconds):.9f}{length}"
    written, log = capture(
        [*info.file.arguments(), "-map", f"0:{track.index}", "-af", filters, "-c:a", "pcm_f32be", "-f", "au", "pipe:1"],
        seconds=_SECONDS,
        limit=_MOST_BYTES,
        what=f"{info.path} (its sound)",
    )
    if len(written) < _AU.size or written[:4] != b".snd":
        raise VideoError(f"{info.path}: its sound ({track.codec}) cannot be decoded: {log.strip().splitlines()[-1:]}")
    _, begin, _, _, rate, channels = _AU.unpack_from(written)
    whole = (len(written) - begin) // (4 * channels) * channels
    samples = np.frombuffer(written, ">f4", whole, begin).reshape(-1, channels)
    return {"waveform": torch.from_numpy(np.ascontiguousarray(samples.T, "<f4"))[None], "sample_rate": rate}

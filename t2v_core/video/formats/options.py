"""What may be asked of a video beside its format and quality."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from ...errors import VideoError
from .format import PRESETS, Format

DITHERS = ("auto", "none", "ordered", "error diffusion")
AUDIO_LENGTHS = ("video", "shortest", "longest")
MOST_LOOPS = 1000
MOST_COPIES = 100
"""Loops in a file that holds the clip that often: a number mistyped should not fill a disk."""
HIGHEST_BITRATE = 2000.0
"""Mbit/s."""


@dataclass(frozen=True)
class VideoOptions:
    """Wishes that go beyond a quality in a word; the defaults ask for nothing.

    crf: constant rate factor, 0 to 51 or 63; less is better and larger. None: as the quality says.
    bitrate: average in Mbit/s, in the place of a CRF. None: constant quality.
    preset: one of `PRESETS`: slower is smaller at the same quality. None: as the quality says.
    dither: what hides the steps of 8-bit colours. `ordered` makes a fixed pattern (from floats or 16-bit frames; in a
        GIF from any), `error diffusion` is for GIFs and what `auto` means there; elsewhere `auto` is `none`.
    loops: how often the clip plays. 0: for ever in GIF, WebP and APNG, once elsewhere. A format that cannot say it
        holds the clip that often, up to `MOST_COPIES`.
    pingpong: forward, then backward, the first and the last frame once each, so that it loops without a halt.
    audio_length: the sound is cut to the `video`, or followed by silence; or the video ends with what is `shortest`; or
        its last frame stays until what is `longest` has ended.
    """

    crf: int | None = None
    bitrate: float | None = None
    preset: str | None = None
    dither: str = "auto"
    loops: int = 0
    pingpong: bool = False
    audio_length: str = "video"

    def __post_init__(self) -> None:
        _check_number("crf", self.crf, Integral, 0, 63)
        _check_number("bitrate", self.bitrate, Real, 0.001, HIGHEST_BITRATE)
        _check_number("loops", self.loops, Integral, 0, MOST_LOOPS)
        if self.crf is not None and self.bitrate is not None:
            raise VideoError("crf and bitrate are both given; a video has constant quality or a bit rate, not both")
        for name, value, known in (
            ("preset", self.preset, (None, *PRESETS)),
            ("dither", self.dither, DITHERS),
            ("audio_length", self.audio_length, AUDIO_LENGTHS),
        ):
            if value not in known:
                raise VideoError(f"unknown {name} {value!r}; known: {', '.join(filter(None, known))}")

    def check(self, row: Format) -> None:
        """VideoError if the format cannot do what is asked."""
        name, rate = row.name, row.rate
        for option in ("crf", "bitrate", "preset"):
            if rate is None and getattr(self, option) is not None:
                raise VideoError(f"{name} has no {option}: its quality is fixed or told in a word. Leave {option} out")
        if rate is not None and self.crf is not None and self.crf > rate.highest_crf:
            raise VideoError(f"crf is {self.crf}; {name} takes 0 to {rate.highest_crf}")
        if rate is not None and self.preset is not None and self.preset not in rate.presets:
            raise VideoError(f"{name} has no preset {self.preset!r}; it has {', '.join(rate.presets)}")
        if not row.loops and self.loops > MOST_COPIES:
            raise VideoError(f"loops is {self.loops}; {name} holds the clip that often, which goes to {MOST_COPIES}")
        if self.dither == "error diffusion" and not row.palette:
            raise VideoError(f"dither 'error diffusion' is for GIF; {name} takes 'ordered' or 'none'")
        if self.dither == "ordered" and row.deep:
            raise VideoError(f"{name} keeps more than 8 bits and needs no dither; leave it at 'auto' or 'none'")

    def played(self, frames: Iterable, row: Format) -> Iterable:
        """The frames in the order they are written. Nothing is copied: what is asked twice is read twice."""
        times = 1 if row.loops else max(self.loops, 1)
        if self.pingpong or times > 1:
            _check_readable_twice(frames)
        once = (lambda: _there_and_back(frames)) if self.pingpong else (lambda: frames)
        return once() if times == 1 else chain.from_iterable(once() for _ in range(times))

    def length(self, frames: int, row: Format, fps: Fraction, sound: Fraction | None) -> int:
        """How many frames are written for a clip of that many, at least one, and a sound of so many seconds."""
        if self.pingpong:
            frames = max(2 * frames - 2, frames)
        if not row.loops:
            frames *= max(self.loops, 1)
        if sound is None or self.audio_length == "video":
            return frames
        heard = max(math.ceil(sound * fps), 1)
        return min(frames, heard) if self.audio_length == "shortest" else max(frames, heard)


def _check_number(name: str, value: Any, kind: type, low: float, high: float) -> None:
    if value is None and name != "loops":
        return
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        raise VideoError(f"{name} is {value!r}; it must be a number from {low} to {high}")


def _check_readable_twice(frames: Iterable) -> None:
    if not isinstance(frames, (Tensor, Sequence)) and not hasattr(frames, "__reversed__"):
        raise VideoError(
            "playing a clip backward or several times needs frames that can be read again: a tensor, a list, or an "
            f"object with __iter__ and __reversed__, not {type(frames).__name__}"
        )


def _there_and_back(frames: Any) -> Iterator:
    """Every frame, then from the last but one back to the second."""
    count = 0
    for frame in frames:
        count += 1
        yield frame
    backward = (frames[index] for index in range(count - 1, -1, -1)) if isinstance(frames, Tensor) else reversed(frames)
    yield from islice(backward, 1, max(count - 1, 1))

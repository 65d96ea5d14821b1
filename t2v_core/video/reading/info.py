"""What is in a video file, as `probe` finds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from .inputs import VideoFile
from .report import AudioStream, VideoStream


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` found. Sizes in pixels, times in seconds; what a file does not say is None or an empty text."""

    file: VideoFile
    duration: float | None
    width: int
    """As a player shows it: after the rotation, and before a stretch by `pixel_aspect`."""
    height: int
    fps: Fraction | None
    """Frames a second, exact where the file is; the average where `variable_rate`. None if it is no usable rate."""
    variable_rate: bool
    num_frames: int | None
    """Counted by `count_frames`."""
    stream: VideoStream
    """The first stream of pictures, which is the one that is read: codec, pixel format, colour, rotation."""
    audio: tuple[AudioStream, ...]
    others: tuple[str, ...]
    """More streams: of pictures, subtitles, data."""
    metadata: Mapping[str, str]
    """Everything the file says of itself. ComfyUI's are `prompt` and `workflow`, JSON texts."""

    @property
    def path(self) -> Path:
        return self.file.path

"""Frames in, a video file out: streamed through ffmpeg, right in colour, never half-written."""

from .formats import FORMATS, QUALITIES, Format
from .naming import OutputFolder, SavedVideo
from .write import write_video

__all__ = ["FORMATS", "QUALITIES", "Format", "OutputFolder", "SavedVideo", "write_video"]

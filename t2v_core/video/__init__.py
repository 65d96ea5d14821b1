"""Video files: frames in and a file out, a file in and frames out. Streamed through ffmpeg, right in colour."""

from .formats.format import PRESETS, QUALITIES, Format
from .formats.options import VideoOptions
from .formats.rows import FORMATS
from .reading.info import VideoInfo
from .reading.probe import count_frames, probe
from .reading.read import VideoReader, read_video
from .reading.read_audio import read_audio
from .writing.naming import OutputFolder, SavedVideo
from .writing.write import write_video

__all__ = [
    "FORMATS",
    "PRESETS",
    "QUALITIES",
    "Format",
    "OutputFolder",
    "SavedVideo",
    "VideoInfo",
    "VideoOptions",
    "VideoReader",
    "count_frames",
    "probe",
    "read_audio",
    "read_video",
    "write_video",
]

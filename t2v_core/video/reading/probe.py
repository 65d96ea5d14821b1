"""What is in a video file, without decoding more than its first frame."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np

from ...errors import VideoError
from ..rate import HIGHEST, LOWEST, frame_rate
from . import webp
from .info import VideoInfo
from .inputs import VideoFile, check_size
from .metadata_read import parse_ffmetadata, png_text
from .output import capture
from .report import VideoStream, parse_report

METADATA_BYTES = 2**26
"""Most of what a file may say of itself; ComfyUI's page reads no more of an mp4 either."""
_HEADER_SECONDS, _COUNT_SECONDS = 30.0, 300.0
_COUNT_BYTES = 2**28  # some four million frames
_STEADY = Fraction(1, 100)
"""How far the average rate of a stream of equal steps may lie from it: of short clips, a rounding at the end."""


def probe(path: str | os.PathLike[str], *, count: bool = False) -> VideoInfo:
    """What is in the file; decodes one frame. With `count` as `count_frames` gives it.

    VideoError for anything but a plain file with a stream of pictures of a bounded size whose first frame can be
    decoded. A file cut short still has a beginning, and that is what is looked at.
    """
    file = VideoFile.at(path)
    info = webp.probe(file) if file.demuxer is None else _probe(file)
    return count_frames(info) if count else info


def count_frames(info: VideoInfo) -> VideoInfo:
    """`info` with `num_frames`, and with a rate by the time stamps of all frames.

    The packets of the stream are counted without decoding them, which reads the whole file; one packet is one frame in
    nearly all files. VideoError if that takes longer than five minutes.
    """
    if info.num_frames is not None:
        return info
    source = [*info.file.arguments(), "-map", f"0:{info.stream.index}", "-c", "copy"]
    written, log = capture(
        [*source, "-f", "framecrc", "pipe:1"], seconds=_COUNT_SECONDS, limit=_COUNT_BYTES, what=info.path
    )
    # `0, 512, 1024, 512, 860, 0x6a33`: stream, decoding time, time, duration, bytes, checksum
    stamps = re.findall(rb"^0, *[^,]+, *([^,]+),", written, re.MULTILINE)
    if not stamps:
        raise VideoError(f"{info.path}: its frames could not be counted: {_reason(log, info.file)}")
    times = np.sort([int(stamp) for stamp in stamps if stamp.lstrip(b"-").isdigit()])
    ticks = re.search(rb"^#tb 0: (\d+)/(\d+)$", written, re.MULTILINE)
    info = replace(info, num_frames=len(stamps))
    if len(times) < len(stamps) or len(times) < 2 or times[-1] == times[0] or ticks is None:
        return info
    steps = np.diff(times)
    variable = bool(steps.max() - steps.min() > max(2, _STEADY * steps.mean()))  # 24 fps is 41 or 42 ms a frame
    average = Fraction(len(steps) * int(ticks[2]), int(times[-1] - times[0]) * int(ticks[1]))
    said_exactly = info.fps is not None and not variable and abs(info.fps - average) <= _STEADY * average
    return replace(info, fps=info.fps if said_exactly else _usable(average), variable_rate=variable)


def _probe(file: VideoFile) -> VideoInfo:
    source = file.arguments()
    metadata, log = capture(
        [*source, "-f", "ffmetadata", "pipe:1"], seconds=_HEADER_SECONDS, limit=METADATA_BYTES, what=file.path
    )
    if "\nOutput #0" not in log and not metadata:
        raise VideoError(f"{file.path} is no whole {file.kind} file: {_reason(log, file)}")
    report = parse_report(log)
    if not report.video:
        held = ", ".join([f"sound ({stream.codec})" for stream in report.audio] + report.others)
        raise VideoError(f"{file.path} has no stream of pictures; it holds {held or 'nothing that can be played'}")
    stream = report.video[0]
    if not stream.width:
        raise VideoError(f"{file.path}: the size of its frames cannot be told; it is damaged, or they are too large")
    check_size(stream.width, stream.height, file.path)
    width, height, base = _first_frame(file, stream)
    fps, variable = _rate(stream, base)
    return VideoInfo(
        file=file,
        duration=report.duration,
        width=width,
        height=height,
        fps=fps,
        variable_rate=variable,
        num_frames=1 if file.demuxer == "png_pipe" else None,
        stream=stream,
        audio=tuple(report.audio),
        others=(*(f"pictures ({other.codec})" for other in report.video[1:]), *report.others),
        metadata=png_text(file.path) if "PNG" in file.kind else parse_ffmetadata(metadata),
    )


def _first_frame(file: VideoFile, stream: VideoStream) -> tuple[int, int, Fraction | None]:
    """(width, height, base of the time stamps) of what comes out of the decoder: the header of a framecrc, which
    gives the rate that ffmpeg's report rounds to two decimals."""
    arguments = ["-map", f"0:{stream.index}", "-frames:v", "1", "-c:v", "rawvideo", "-f", "framecrc", "pipe:1"]
    written, log = capture(
        [*file.arguments(), *arguments], seconds=_HEADER_SECONDS, limit=METADATA_BYTES, what=file.path
    )
    said = dict(re.findall(r"^#(tb|dimensions) 0: (\S+)$", written.decode(errors="replace"), re.MULTILINE))
    if not re.search(rb"^0,", written, re.MULTILINE) or len(said) < 2:
        raise VideoError(f"{file.path}: no frame of it can be decoded: {_reason(log, file)}")
    width, height = map(int, said["dimensions"].split("x"))
    check_size(width, height, file.path)
    ticks, second = map(int, said["tb"].split("/"))
    return width, height, Fraction(second, ticks) if ticks and second else None


def _rate(stream: VideoStream, base: Fraction | None) -> tuple[Fraction | None, bool]:
    """(frames a second, whether that is an average of frames that last unequally long)."""
    average, steps = stream.average_rate, stream.base_rate
    if average is None:
        return _usable(base), False
    exact = next((rate for rate in (base, steps) if rate and abs(rate - average) <= Fraction(1, 100)), None)
    steady = steps is None or abs(steps - average) <= _STEADY * average
    return _usable(exact if exact and steady else average), not steady


def _usable(rate: Fraction | None) -> Fraction | None:
    return frame_rate(float(rate)) if rate is not None and LOWEST <= rate <= HIGHEST else None


def _reason(log: str, file: VideoFile) -> str:
    """The last line in which ffmpeg says what is wrong, without its own words for where."""
    lines = [re.sub(r"^(\[[^\]]*\] ?)+", "", line).strip() for line in log.split("\n")]
    named = [line.replace(f"file:{file.path}: ", "").replace(f"file:{file.path}", file.path.name) for line in lines]
    faults = [line for line in named if re.search("rror|nvalid|not found|not contain|xceed|truncated|missing", line)]
    return (faults or ["it is damaged"])[0][:300]

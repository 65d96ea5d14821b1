"""A video file in, frames out, one at a time: memory does not depend on how many there are."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from numbers import Integral
from typing import Any

import numpy as np

from ...errors import VideoError
from ..ffmpeg import ERRORS, last_words
from ..rate import frame_rate
from . import depth, webp
from .info import VideoInfo
from .inputs import check_size
from .output import Output, every_frame_once, failure
from .probe import count_frames, probe

logger = logging.getLogger(__name__)

_SILENCE = 60.0
"""Seconds in which a frame must come."""
_SKIPPED = 0.2
"""Seconds more for each frame that is decoded on the way to it and thrown away."""
_MOST_INDEX = 10**9
_MOST_RESAMPLED = 10**7
"""Frames; a time stamp that is far off would be filled up to with copies."""
# Untagged pictures of this height or more are BT.709, smaller ones BT.601: as browsers and players guess.
_HD_HEIGHT = 720
# As in writing: without accurate_rnd swscale truncates; without full_chroma_* it halves the chroma on the way.
_SCALE_FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_TICK = 25
"""Frames that are passed on get time stamps of this rate, one each, whatever the file's are."""
_PIXELS = {(8, 3): "rgb24", (8, 4): "rgba", (16, 3): "rgb48le", (16, 4): "rgba64le"}


class VideoReader(Iterator[np.ndarray]):
    """An iterator of frames `[height, width, channels]`; `close`, or leaving a `with` block, ends it early.

    When it has ended, `warning` says what was wrong with the file, if anything was.
    """

    def __init__(self, info: VideoInfo, size: tuple[int, int], channels: int, bits: int):
        self.info = info
        self.width, self.height = size
        self.channels = channels
        self.dtype = np.dtype(np.uint8 if bits == 8 else "<u2")
        self.stride = 1
        self.fps: Fraction | None = None
        """Frames a second that come out; None if the file gives no usable rate."""
        self.count = 0
        """How many frames came out so far."""
        self.warning = ""

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __next__(self) -> np.ndarray:
        frame = self._next()
        if frame is None:
            raise StopIteration
        self.count += 1
        return frame

    @abstractmethod
    def open(self, start: int, end: int | None, stride: int, rate: Fraction | None) -> None:
        """Get ready for the frames `[start:end:stride]` at `rate`; called once, by `read_video`."""

    @abstractmethod
    def close(self) -> None:
        """End it: no process is left."""

    @abstractmethod
    def _next(self) -> np.ndarray | None:
        """The next frame; None after the last."""


def read_video(
    path: str | os.PathLike[str] | VideoInfo,
    start: int = 0,
    end: int | None = None,
    stride: int = 1,
    size: tuple[int, int] | None = None,
    *,
    fps: float | Fraction | None = None,
    bits: int | None = None,
    alpha: bool = False,
) -> VideoReader:
    """The frames number `start`, `start + stride`, ... before `end` of a video, as `frames[start:end:stride]` would be.

    path: a file, or what `probe` said of it.
    start, end, stride: counted in decoded frames from 0, exactly. end None: to the last. A range that ends behind the
        last frame ends with it; one that starts there is a VideoError.
    size: (width, height) to resize to, bicubic, whatever the proportions; None: the video's own, as a player turns it
        and without its stretch by pixels that are not square.
    fps: None: every frame as it is stored, also where they last unequally long. Else the video is first brought to
        this rate by leaving frames out and repeating them, and the numbers above count what comes out of that.
    bits: 8 for uint8, 16 for uint16; None: 16 where the file has more than 8.
    alpha: whether a fourth channel comes with them, straight, opaque where the file has none. Without, what lies below
        transparent pixels is shown.

    Colour follows the file's tags (BT.601, 709, 2020; limited and full range). An untagged one is limited range and
    BT.709 if it is 720 pixels high or more, else BT.601. High dynamic range is not mapped to standard range.

    Everything about the file is checked here, before the first frame is asked for; VideoError says what is wrong. A
    file that is damaged or cut short gives the frames there are, then a warning in the log and in `warning`; one that
    gives no frame at all is a VideoError.
    """
    start, stride = _index(start, "start", 0), _index(stride, "stride", 1)
    end = None if end is None else _index(end, "end", 0)
    if end is not None and end <= start:
        raise VideoError(f"end is {end}; it must be greater than start, which is {start}")
    if bits not in (None, 8, 16):
        raise VideoError(f"bits is {bits!r}; it must be 8 or 16, or None for what the file has")
    rate = None if fps is None else frame_rate(fps)
    info = path if isinstance(path, VideoInfo) else probe(path)
    size = _size(size, info)
    if rate is not None and info.fps is None:
        raise VideoError(f"{info.path} gives no usable frame rate, so it cannot be brought to another one")
    if rate is not None and (info.duration or 0) * rate > _MOST_RESAMPLED:
        said = f"{info.path} says that it lasts {info.duration:.0f} seconds"
        raise VideoError(f"{said}; that is too many frames at {float(rate):g} a second")
    kind = _WebPReader if info.file.demuxer is None else _FFmpegReader
    reader = kind(info, size, 4 if alpha else 3, bits or (16 if info.stream.bits > 8 else 8))
    out = rate or info.fps
    reader.stride, reader.fps = stride, None if out is None else out / stride
    reader.open(start, end, stride, rate)
    return reader


class _FFmpegReader(VideoReader):
    def open(self, start: int, end: int | None, stride: int, rate: Fraction | None) -> None:
        stream = self.info.stream
        decoder = []
        if self.channels == 4 and stream.vp_alpha:  # ffmpeg's own decoders of VP8 and VP9 leave the alpha out
            decoder = ["-c:v", "libvpx-vp9" if stream.codec == "vp9" else "libvpx"]
        self._raw = np.dtype(np.uint8 if stream.bits <= 8 else "<u2")
        pixels = _PIXELS[8 * self._raw.itemsize, self.channels]
        filters = [
            *([f"fps={rate}:round=up"] if rate else ()),
            f"select='gte(n,{start})*not(mod(n-{start},{stride}))'",
            _scale(self.info, self.width, self.height),
            f"format={pixels},settb=1/{_TICK},setpts=N",
        ]
        count = [] if end is None else ["-frames:v", str(len(range(start, end, stride)))]
        self._start, self._first_wait = start, _SILENCE + _SKIPPED * start
        self._wait = _SILENCE + _SKIPPED * stride
        self._output = Output(
            [
                # one graph of filters however the stream changes: another would count its frames from 0 again
                *(*decoder, "-reinit_filter:v", "0", "-max_error_rate", "1", *self.info.file.arguments()),
                *(
                    "-map",
                    f"0:{stream.index}",
                    "-vf",
                    ",".join(filters),
                    "-enc_time_base",
                    f"1:{_TICK}",
                    *every_frame_once(),
                    *count,
                ),
                *("-c:v", "rawvideo", "-f", "rawvideo", "pipe:1"),
            ]
        )
        self._ended = False

    def _next(self) -> np.ndarray | None:
        if self._ended:
            return None
        frame = np.empty((self.height, self.width, self.channels), self._raw)
        got = self._output.read_into(memoryview(frame).cast("B"), self._wait if self.count else self._first_wait)
        if got == frame.nbytes:
            return depth.scaled(frame, self.info.stream, self.dtype)
        self._ended = True
        code, log = self._output.finish(), self._output.log
        if self._output.too_slow:
            raise VideoError(f"{self.info.path}: ffmpeg gave no frame for {self._wait:.0f} s and was stopped")
        if code != 0:
            raise failure(code, log, str(self.info.path))
        if not self.count:
            raise self._nothing(log)
        if ERRORS.search(log):
            self.warning = f"{self.info.path.name} is damaged or cut short; {self.count} frames of it were read"
            logger.warning("%s. ffmpeg says: %s", self.warning, last_words(log))
        return None

    def _nothing(self, log: bytes) -> VideoError:
        if self._start and not ERRORS.search(log):
            frames = count_frames(self.info).num_frames
            return VideoError(f"{self.info.path} has no frame {self._start}: it ends after about {frames} frames")
        return VideoError(f"{self.info.path} has no frame that can be decoded:\n{last_words(log)}")

    def close(self) -> None:
        self._ended = True
        self._output.close()


class _WebPReader(VideoReader):
    def open(self, start: int, end: int | None, stride: int, rate: Fraction | None) -> None:
        pictures = (picture for picture, _ in webp.frames(self.info.file, self.channels == 4))
        if rate is not None:
            pictures = _resampled(webp.frames(self.info.file, self.channels == 4), rate)
        self._start = start
        self._pictures = _slice(pictures, start, end, stride)

    def _next(self) -> np.ndarray | None:
        try:
            picture = next(self._pictures, None)
        except VideoError as error:
            if not self.count:
                raise
            self.warning = f"{self.info.path.name} is damaged or cut short; {self.count} frames of it were read"
            logger.warning("%s. %s", self.warning, error)
            picture = None
        if picture is None:
            if not self.count:
                frames = self.info.num_frames
                raise VideoError(f"{self.info.path} has no frame {self._start}: it ends after {frames} frames")
            self.close()
            return None
        if picture.shape[:2] != (self.height, self.width):
            picture = webp.resized(picture, (self.width, self.height))
        return picture if self.dtype == np.uint8 else picture.astype("<u2") * 257

    def close(self) -> None:
        self._pictures.close()


def _slice(pictures: Iterator[np.ndarray], start: int, end: int | None, stride: int) -> Iterator[np.ndarray]:
    for index, picture in enumerate(pictures):
        if end is not None and index >= end:
            return
        if index >= start and (index - start) % stride == 0:
            yield picture


def _resampled(timed: Iterator[tuple[np.ndarray, Fraction]], rate: Fraction) -> Iterator[np.ndarray]:
    """At each multiple of 1 / rate the picture that is shown then, as ffmpeg's filter fps gives it."""
    index = 0
    for picture, end in timed:
        while index / rate < end:
            yield picture
            index += 1


def _scale(info: VideoInfo, width: int, height: int) -> str:
    """The filter to RGB: also where the size stays, so that every frame has it whatever the stream changes to."""
    stream = info.stream
    words = [str(width), str(height), f"flags={_SCALE_FLAGS}", "sws_dither=none"]
    if not stream.matrix and not depth.is_rgb(stream):
        words.append(f"in_color_matrix={'bt709' if stream.height >= _HD_HEIGHT else 'bt601'}")
    return "scale=" + ":".join(words)


def _size(size: Any, info: VideoInfo) -> tuple[int, int]:
    if size is None:
        return info.width, info.height
    try:
        width, height = size
    except (TypeError, ValueError):
        raise VideoError(f"size is {size!r}; it must be (width, height)") from None
    width, height = _index(width, "width", 1), _index(height, "height", 1)
    check_size(width, height, "size")
    return width, height


def _index(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= _MOST_INDEX:
        raise VideoError(f"{name} is {value!r}; it must be a whole number, {least} to {_MOST_INDEX:,}")
    return int(value)

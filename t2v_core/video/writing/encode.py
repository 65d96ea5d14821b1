"""From frames to a whole file under a temporary name: everything but where it goes."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from ...errors import VideoError
from ..ffmpeg import FFmpeg, find_ffmpeg
from ..formats.format import Format, check_quality
from ..formats.options import VideoOptions
from ..formats.rows import FORMATS, find_format
from ..rate import frame_rate
from . import avi, palette
from .audio import Sound
from .frames import Frames
from .metadata import ffmetadata
from .pictures import add_exif, add_text

_METADATA = "metadata.txt"
_PICTURE = "%05d.png"
_TEXT_IN_PICTURES = {"exif": add_exif, "text": add_text}


@dataclass(frozen=True)
class Encoding:
    """What is asked of a video file, checked before the first frame is asked for."""

    program: str
    fps: Fraction
    format: Format
    quality: str
    options: VideoOptions
    metadata: Mapping[str, str] | None
    tags: bytes | None
    """The metadata in ffmpeg's words, where ffmpeg writes it."""
    sound: Sound | None

    @classmethod
    def checked(
        cls,
        fps: float | Fraction,
        format: str | Format,
        quality: str,
        options: VideoOptions | None,
        metadata: Mapping[str, str] | None,
        audio: Mapping | None,
    ) -> Encoding:
        """Arguments as for `write_video`; VideoError for the first that is wrong, or if there is no ffmpeg."""
        program, rate = find_ffmpeg(), frame_rate(fps)
        row = format if isinstance(format, Format) else find_format(format)
        options = options or VideoOptions()
        check_quality(quality)
        options.check(row)
        tags = ffmetadata(metadata) if metadata else None
        if row.max_fps is not None and rate > row.max_fps:
            raise VideoError(f"fps is {float(rate):g}; {row.name} can say at most {row.max_fps} frames per second")
        if audio is not None and row.audio is None:
            with_sound = ", ".join(known for known, other in FORMATS.items() if other.audio and not other.hardware)
            raise VideoError(f"{row.name} holds no sound; leave the audio out or choose one of {with_sound}")
        sound = None if audio is None else Sound.from_comfyui(audio)
        return cls(program, rate, row, quality, options, metadata, tags if row.metadata == "tags" else None, sound)

    def check_alpha(self, has_alpha: bool) -> None:
        if has_alpha and self.format.alpha is None:
            with_alpha = ", ".join(known for known, other in FORMATS.items() if other.alpha)
            raise VideoError(
                f"the frames have an alpha channel, and {self.format.name} holds none; give [h, w, 3] frames or choose "
                f"one of {with_alpha}"
            )

    def arguments(self, output: str, has_alpha: bool) -> list[str]:
        """ffmpeg's arguments: from `avi` on its standard input to the file `output`."""
        row = self.format
        source = ["-f", "avi", "-c:v", "rawvideo", "-i", "pipe:0"]  # without -c:v it decodes no rgb24 in an AVI
        if row.palette:
            colours = int(row.qualities[self.quality][0])
            return [*source, *palette.count_colours(row.alpha if has_alpha else row.pixel_format, colours)]
        return [
            *source,
            *(("-f", "ffmetadata", "-i", _METADATA) if self.tags else ()),
            *("-map_metadata", "1" if self.tags else "-1", "-map_chapters", "-1", "-fflags", "+bitexact"),
            *("-map", "0:v", "-vf", row.filters(has_alpha), *row.encoder, *self._amount()),
            *(("-map", "0:a", *row.audio) if self.sound else ()),
            *(*row.container, *self._loops(), output),
        ]

    def last_pass(self, output: str) -> list[str] | None:
        """The arguments of what is left to do after `arguments`, or None."""
        row = self.format
        if not row.palette:
            return None
        encoder = (*row.encoder, "-map_metadata", "-1", "-fflags", "+bitexact")
        return [*palette.apply(self.options.dither), *encoder, *row.container, *self._loops(), output]

    def _amount(self) -> tuple[str, ...]:
        row, options = self.format, self.options
        if row.rate is None:
            return row.qualities.get(self.quality, ())
        return row.rate.arguments(self.quality, options.crf, options.bitrate, options.preset)

    def _loops(self) -> list[str]:
        return [word.format(self._loop_count()) for word in self.format.loops or ()]

    def _loop_count(self) -> int:
        """0 is for ever. GIF counts how often it plays again, and -1 is not at all."""
        loops = self.options.loops
        return loops if not self.format.palette or loops == 0 else (loops - 1 or -1)

    def timed(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The pictures; fewer where the sound is to end the video, or the last one again until the sound has ended."""
        if self.sound is None or self.options.audio_length == "video":
            yield from pictures
            return
        heard = max(math.ceil(self.sound.seconds * self.fps), 1)
        if self.options.audio_length == "shortest":
            yield from islice(pictures, heard)
            return
        count = 0
        for picture in pictures:
            count += 1
            yield picture
        for _ in range(count, heard):
            yield picture


@contextmanager
def encoded(
    frames: Iterable, folder: Path, encoding: Encoding, on_frame: Callable[[int], None] | None = None
) -> Iterator[Path]:
    """Encode into a hidden temporary folder in `folder` and yield the path of the whole file, ready to be renamed.

    On leaving, and on any exception before that, the temporary folder is gone and no ffmpeg is left.
    """
    with _writing(folder):
        scratch = Path(tempfile.mkdtemp(prefix=".t2v-", dir=folder))
    try:
        whole = scratch / ("video" + encoding.format.extension)
        _encode(frames, whole, encoding, on_frame)
        with _writing(folder):
            _complete(whole, encoding)
        yield whole
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _encode(frames: Iterable, whole: Path, encoding: Encoding, on_frame: Callable[[int], None] | None) -> None:
    row, sound, scratch = encoding.format, encoding.sound, whole.parent
    pictures = Frames(
        encoding.options.played(frames, row),
        alignment=row.alignment,
        bits=row.bits,
        exact=not row.is_yuv,  # between RGB of different depths ffmpeg is up to 0.4% off
        dither=encoding.options.dither == "ordered" and not row.palette,
    )
    encoding.check_alpha(pictures.has_alpha)
    with _writing(scratch.parent):
        if encoding.tags:
            (scratch / _METADATA).write_bytes(encoding.tags)
        if row.is_folder:
            whole.mkdir()
    output = f"{whole.name}/{_PICTURE}" if row.is_folder else whole.name
    count = 0
    with FFmpeg(encoding.program, encoding.arguments(output, pictures.has_alpha), scratch) as ffmpeg:
        ffmpeg.write(_opening(pictures, encoding))
        for picture in encoding.timed(pictures):
            for piece in avi.chunk(avi.VIDEO, picture):
                ffmpeg.write(piece)
            if sound:
                for piece in avi.chunk(avi.SOUND, sound.during(count, encoding.fps)):
                    ffmpeg.write(piece)
            count += 1
            if on_frame is not None:
                on_frame(count)
        written = ffmpeg.finish()
    if last := encoding.last_pass(output):
        with FFmpeg(encoding.program, last, scratch) as ffmpeg:
            written = ffmpeg.finish()
    if row.counted and written != count:
        raise VideoError(f"ffmpeg was given {count} frames and wrote {written}; the file was thrown away")


def _opening(pictures: Frames, encoding: Encoding) -> bytes:
    sound = encoding.sound
    channels, sample_rate = (sound.channels, sound.sample_rate) if sound else (0, 0)
    return avi.header(
        pictures.width, pictures.height, encoding.fps, channels, sample_rate, pixel_format=pictures.pixel_format
    )


def _complete(whole: Path, encoding: Encoding) -> None:
    """What ffmpeg does not write; then all of it is on disk before it gets its name: else a power cut can leave the
    name and not the content."""
    files = sorted(whole.iterdir()) if encoding.format.is_folder else [whole]
    for path in files:
        if encoding.metadata and encoding.format.metadata in _TEXT_IN_PICTURES:
            _TEXT_IN_PICTURES[encoding.format.metadata](path, encoding.metadata)
        with path.open("r+b") as file:
            os.fsync(file.fileno())


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says of our own files which folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise VideoError(f"cannot write in {folder}: {error.strerror}") from error

"""From frames to a whole file under a temporary name: everything but where it goes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ..errors import VideoError
from . import avi
from .audio import Sound
from .ffmpeg import FFmpeg, find_ffmpeg
from .formats import Format, check_quality, find_format
from .frames import Frames
from .metadata import ffmetadata
from .rate import frame_rate

_METADATA = "metadata.txt"


@dataclass(frozen=True)
class Encoding:
    """What is asked of a video file, checked before the first frame is asked for."""

    program: str
    fps: Fraction
    format: Format
    quality: str
    metadata: bytes | None
    sound: Sound | None

    @classmethod
    def checked(
        cls, fps: float | Fraction, format: str, quality: str, metadata: Mapping[str, str] | None, audio: Mapping | None
    ) -> Encoding:
        """Arguments as for `write_video`; VideoError for the first that is wrong, or if there is no ffmpeg."""
        return cls(
            program=find_ffmpeg(),
            fps=frame_rate(fps),
            format=find_format(format),
            quality=check_quality(quality),
            metadata=ffmetadata(metadata) if metadata else None,
            sound=None if audio is None else Sound.from_comfyui(audio),
        )

    def arguments(self, output: str) -> list[str]:
        """ffmpeg's arguments: from `avi` on its standard input to the file `output`."""
        row = self.format
        metadata_input = ["-f", "ffmetadata", "-i", _METADATA] if self.metadata else []
        # Without -c:v ffmpeg has no decoder for rgb24 in an AVI; that decoder knows the tag.
        return [
            *("-f", "avi", "-c:v", "rawvideo", "-i", "pipe:0"),
            *metadata_input,
            *("-map_metadata", "1" if self.metadata else "-1", "-map_chapters", "-1", "-fflags", "+bitexact"),
            *("-map", "0:v", "-vf", row.filters, *row.encoder, *row.qualities[self.quality]),
            *(("-map", "0:a", *row.audio) if self.sound else ()),
            *(*row.container, output),
        ]


@contextmanager
def encoded(
    frames: Iterable, folder: Path, encoding: Encoding, on_frame: Callable[[int], None] | None = None
) -> Iterator[Path]:
    """Encode into a hidden temporary folder in `folder` and yield the path of the whole file, ready to be renamed.

    On leaving, and on any exception before that, the temporary folder is gone and no ffmpeg is left.
    """
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".t2v-", dir=folder))
    except OSError as error:
        raise VideoError(f"cannot write in {folder}: {error.strerror}") from error
    try:
        whole = scratch / ("video" + encoding.format.extension)
        _encode(frames, whole, encoding, on_frame)
        yield whole
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _encode(frames: Iterable, whole: Path, encoding: Encoding, on_frame: Callable[[int], None] | None) -> None:
    sound = encoding.sound
    pictures = Frames(frames, encoding.format.alignment)
    opening = avi.header(
        pictures.width, pictures.height, encoding.fps, *((sound.channels, sound.sample_rate) if sound else ())
    )
    if encoding.metadata:
        _store(whole.with_name(_METADATA), encoding.metadata)
    count = 0
    with FFmpeg(encoding.program, encoding.arguments(whole.name), whole.parent) as ffmpeg:
        ffmpeg.write(opening)
        for picture in pictures:
            for piece in avi.chunk(avi.VIDEO, picture):
                ffmpeg.write(piece)
            if sound:
                for piece in avi.chunk(avi.SOUND, sound.during(count, encoding.fps)):
                    ffmpeg.write(piece)
            count += 1
            if on_frame is not None:
                on_frame(count)
        written = ffmpeg.finish()
    if written != count:
        raise VideoError(f"ffmpeg was given {count} frames and wrote {written}; the file was thrown away")
    _sync(whole)


def _store(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise VideoError(f"cannot write in {path.parent.parent}: {error.strerror}") from error


def _sync(path: Path) -> None:
    """On disk before it gets its name: else a power cut can leave the name and not the content."""
    try:
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise VideoError(f"cannot write in {path.parent.parent}: {error.strerror}") from error

"""Animated WebP, which ffmpeg reads only in its newest versions: read by Pillow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import BinaryIO

import numpy as np
from PIL import Image

from ...errors import VideoError
from ..rate import HIGHEST, LOWEST, frame_rate
from .info import VideoInfo
from .inputs import VideoFile, check_size
from .metadata_read import comfyui_key
from .report import VideoStream

_MOST_BYTES = 2**31  # Pillow holds the whole file
_MOST_CHUNKS = 1_000_000
_BROKEN = (OSError, EOFError, ValueError, SyntaxError, MemoryError, RuntimeError, Image.DecompressionBombError)


def probe(file: VideoFile) -> VideoInfo:
    """What is in the file; its frames are counted, not decoded. VideoError if it is damaged or too large."""
    if file.size > _MOST_BYTES:
        raise VideoError(f"{file.path} has {file.size:,} bytes; a WebP of at most {_MOST_BYTES:,} is read")
    with file.path.open("rb") as opened:
        durations, (width, height) = _chunks(opened)
    check_size(width, height, file.path)
    with _opened(file) as image:
        alpha, metadata = image.mode == "RGBA", _metadata(image)
        if image.size != (width, height):
            raise VideoError(f"{file.path} is damaged: it says two sizes")
    milliseconds = sum(durations)
    mean = Fraction(1000 * len(durations), milliseconds) if milliseconds else None
    return VideoInfo(
        file=file,
        duration=milliseconds / 1000 if durations else None,
        width=width,
        height=height,
        fps=frame_rate(round(float(mean), 2)) if mean and LOWEST <= mean <= HIGHEST else None,
        variable_rate=bool(durations) and max(durations) - min(durations) > 1,  # 24 fps is 41 or 42 ms a frame
        num_frames=len(durations) or 1,
        stream=VideoStream(0, "webp", pixel_format="rgba" if alpha else "rgb24", width=width, height=height),
        audio=(),
        others=(),
        metadata=metadata,
    )


def frames(file: VideoFile, alpha: bool) -> Iterator[tuple[np.ndarray, Fraction]]:
    """Each frame, uint8 `[h, w, 3 or 4]`, and the second at which it ends. VideoError where one is damaged."""
    with file.path.open("rb") as opened:
        durations, size = _chunks(opened)
    end = Fraction(0)
    with _opened(file) as image:
        check_size(*image.size, file.path)
        for index in range(max(1, len(durations))):
            try:
                image.seek(index)
                picture = np.array(image.convert("RGBA" if alpha else "RGB"))
            except _BROKEN as error:
                raise VideoError(f"{file.path}: frame {index} cannot be decoded: {error}") from None
            end += Fraction(durations[index], 1000) if durations else 0
            yield picture, end


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame at another size `(width, height)`, bicubic."""
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _opened(file: VideoFile) -> Image.Image:
    try:
        return Image.open(file.path, formats=["WEBP"])
    except _BROKEN as error:
        reason = "it is damaged" if isinstance(error, Image.UnidentifiedImageError) else error
        raise VideoError(f"{file.path} is no whole WebP file: {reason}") from None


def _chunks(file: BinaryIO) -> tuple[list[int], tuple[int, int]]:
    """(how long each frame of an animation is shown, in milliseconds; width and height) by the chunks ANMF and VP8X
    (Google's WebP container specification). The size is (0, 0) if no chunk says it before the pixels."""
    durations, size = [], (0, 0)
    file.seek(12)
    for _ in range(_MOST_CHUNKS):
        start = file.read(8)
        if len(start) < 8:
            break
        length = int.from_bytes(start[4:], "little")
        head = file.read(min(length, 16))
        if start[:4] == b"VP8X" and len(head) >= 10:
            size = (1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little"))
        elif start[:4] == b"ANMF" and len(head) >= 15:
            durations.append(int.from_bytes(head[12:15], "little"))
        elif start[:4] == b"VP8L" and size == (0, 0) and len(head) >= 5:
            bits = int.from_bytes(head[1:5], "little")
            size = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
        elif start[:4] == b"VP8 " and size == (0, 0) and len(head) >= 10:
            size = (int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF)
        file.seek(length + (length & 1) - len(head), 1)
    return durations, size


def _metadata(image: Image.Image) -> Mapping[str, str]:
    """ComfyUI's texts, which it keeps in EXIF strings as `prompt:{...}` and `workflow:{...}`."""
    found = {}
    try:
        entries = dict(image.getexif())
    except _BROKEN:
        return found
    for value in entries.values():
        if isinstance(value, str) and ":" in value:
            name, _, text = value.partition(":")
            if comfyui_key(name) != name or name in ("prompt", "workflow"):
                found[comfyui_key(name)] = _utf8(text)
    return found


def _utf8(text: str) -> str:
    """Pillow reads EXIF strings as Latin-1; ComfyUI's page and this pack write UTF-8."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text

"""Raw frames and sound on one pipe: an AVI file that never ends, the simplest thing ffmpeg reads with both in it.

One pipe carries both because ffmpeg cannot cut sound at the end of a video whose length it does not know: `-shortest`
with `apad` leaves up to a second too much, and not the same amount each time. Here every frame is followed by the
sound that belongs to it, so the lengths agree by construction and nothing is spooled to disk.

Layout: Microsoft, "AVI RIFF File Reference" and WAVEFORMATEX (all little endian). The sizes of the outer lists are 0,
"until the end", as for any AVI written to a pipe.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

VIDEO, SOUND = b"00dc", b"01wb"

# What the AVI calls each pixel format, and its bits a pixel: tags that ffmpeg's raw video decoder knows, top row first.
_TAGS = {"rgb24": (b"RGB\x18", 24), "rgba": (b"RGBA", 32), "rgb48le": (b"RGB\x30", 48), "rgba64le": (b"RBA\x40", 64)}
_IEEE_FLOAT = 3
_IS_INTERLEAVED = 0x100


def header(
    width: int, height: int, fps: Fraction, channels: int = 0, sample_rate: int = 0, pixel_format: str = "rgb24"
) -> bytes:
    """Everything before the first chunk: raw frames, top row first, and float32 sound if `channels` is not 0."""
    streams = _video_stream(width, height, fps, pixel_format)
    if channels:
        streams += _sound_stream(channels, sample_rate)
    microseconds = min(round(1_000_000 / fps), 0xFFFFFFFF)
    main = struct.pack(
        "<14I", microseconds, 0, 0, _IS_INTERLEAVED, 0, 0, 2 if channels else 1, 0, width, height, 0, 0, 0, 0
    )
    headers = _list(b"hdrl", _whole_chunk(b"avih", main) + streams)
    return b"RIFF" + struct.pack("<I", 0) + b"AVI " + headers + b"LIST" + struct.pack("<I", 0) + b"movi"


def chunk(kind: bytes, data: bytes | np.ndarray) -> Iterator[bytes | np.ndarray]:
    """One chunk as the pieces to write one after the other; `data` itself is one of them and is not copied."""
    size = memoryview(data).nbytes
    yield kind + struct.pack("<I", size)
    yield data
    if size % 2:
        yield b"\0"  # chunks start on even bytes


def _whole_chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join(chunk(kind, data))


def _list(kind: bytes, content: bytes) -> bytes:
    return _whole_chunk(b"LIST", kind + content)


def _video_stream(width: int, height: int, fps: Fraction, pixel_format: str) -> bytes:
    tag, bits = _TAGS[pixel_format]
    head = _stream_head(b"vids", tag, fps.denominator, fps.numerator, 0)
    bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, bits, tag, width * height * bits // 8, 0, 0, 0, 0)
    return _list(b"strl", head + _whole_chunk(b"strf", bitmap))


def _sound_stream(channels: int, sample_rate: int) -> bytes:
    block = channels * 4
    head = _stream_head(b"auds", b"\0\0\0\0", 1, sample_rate, block)
    wave = struct.pack("<HHIIHHH", _IEEE_FLOAT, channels, sample_rate, sample_rate * block, block, 32, 0)
    return _list(b"strl", head + _whole_chunk(b"strf", wave))


def _stream_head(kind: bytes, handler: bytes, scale: int, rate: int, sample_size: int) -> bytes:
    fields = (0, 0, 0, 0, scale, rate, 0, 0, 0, 0xFFFFFFFF, sample_size)
    return _whole_chunk(b"strh", kind + handler + struct.pack("<IHHIIIIIIII4H", *fields, 0, 0, 0, 0))

"""ffmpeg's 16 bits a channel, brought to a scale on which white is white.

swscale gives white as 65280 where it converts from YUV (255 x 256 and not 65535), and shifts grey, and the alpha of
YUV, of fewer bits up without filling in the lowest: measured with ffmpeg 5.1 and 9.0.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .report import VideoStream

_FROM_YUV = 255 << 8
_RGB = ("rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "pal8", "x2")


def is_rgb(stream: VideoStream) -> bool:
    """Whether its frames need no conversion of colour."""
    return stream.pixel_format.startswith(_RGB)


def scaled(frame: np.ndarray, stream: VideoStream, dtype: np.dtype) -> np.ndarray:
    """A frame `[h, w, 3 or 4]` as ffmpeg gives it, made of this stream, to uint8 or uint16 full scale, rounded.

    It is uint8 if the stream has 8 bits a channel, which need no more, and uint16 if it has more.
    """
    if frame.itemsize == 1:
        return frame if dtype.itemsize == 1 else frame.astype(dtype) * 257
    if is_rgb(stream):
        return _table(0xFFFF, dtype.itemsize)[frame]
    shifted = ((1 << stream.bits) - 1) << (16 - stream.bits)
    white = shifted if stream.pixel_format.startswith(("gray", "ya")) else _FROM_YUV
    if frame.shape[2] == 3:
        return _table(white, dtype.itemsize)[frame]
    result = np.empty(frame.shape, dtype)
    result[..., :3] = _table(white, dtype.itemsize)[frame[..., :3]]
    result[..., 3] = _table(shifted if stream.alpha else 0xFFFF, dtype.itemsize)[frame[..., 3]]
    return result


@lru_cache(maxsize=16)
def _table(white: int, itemsize: int) -> np.ndarray:
    """From each 16-bit value to that of full scale, of which `white` is the most."""
    most = 255 if itemsize == 1 else 65535
    values = (np.arange(2**16, dtype=np.int64) * most + white // 2) // white
    return np.minimum(values, most).astype(np.uint8 if itemsize == 1 else "<u2")

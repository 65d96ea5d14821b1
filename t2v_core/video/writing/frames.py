"""Frames as they come (tensors or arrays, 8 or 16 bits or float, with alpha or without) to the bytes ffmpeg is fed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from ...errors import VideoError

MAX_SIDE = 16384
"""The largest side libx264 takes."""

_AT_ONCE = 65536
"""Values rounded at once: 256 KiB of float32, which stay in a core's cache from the first of the passes to the last."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_ARRAYS = (np.uint8, np.uint16, np.float16, np.float32, np.float64)


class Frames:
    """An iterable of frames, read one at a time and turned into packed RGB or RGBA of 8 or 16 bits.

    The first frame is read on construction and fixes `width` and `height` (in the file: rounded up to `alignment`, the
    last column and row repeated) and `pixel_format`, ffmpeg's name of what is fed: rgb24, rgba, rgb48le or rgba64le,
    with alpha if the first frame has it. Iterating yields contiguous arrays `[height, width, 3 or 4]`, uint8 or uint16,
    each good until the next is asked for: a frame that is already what ffmpeg is fed as it is, any other in one reused
    buffer. No frame is kept.

    bits: 8, 10 or 16, how many the file holds; fewer than 16 are the upper ones. Frames of 8 bits are fed as they are
        if they need not be `exact`, and else widened here.
    dither: 8 bits are rounded by an 8x8 ordered pattern of thresholds, the same in every frame, in the place of a half
        (B. E. Bayer, "An optimum method for two-level rendition of continuous-tone pictures", 1973).

    Floats are clamped to 0..1, times the highest value there is, rounded half up; integers of another depth likewise.

    VideoError: no frames, a frame that is not `[h, w, 3]` or `[h, w, 4]` of uint8, uint16 or float, one of another
    shape than the first, NaN or infinity, a side longer than 16384. The message counts frames from 0.
    """

    def __init__(
        self, frames: Iterable, *, alignment: int = 1, bits: int = 8, exact: bool = True, dither: bool = False
    ) -> None:
        try:
            self._source = iter(frames)
        except TypeError:
            raise VideoError(f"frames must be an iterable of [h, w, 3] frames, not {type(frames).__name__}") from None
        try:
            self._first = _as_tensor(next(self._source), 0)
        except StopIteration:
            raise VideoError("there are no frames: a video needs at least one") from None
        self._height, self._width, channels = self._first.shape
        if max(self._height, self._width) > MAX_SIDE:
            raise VideoError(f"frames are {self._width}x{self._height}; no side may exceed {MAX_SIDE} pixels")
        self.width = -(-self._width // alignment) * alignment
        self.height = -(-self._height // alignment) * alignment
        self.has_alpha = channels == 4
        self._bits = bits if exact or self._first.dtype != torch.uint8 else 8
        deep = self._bits > 8
        self.pixel_format = {3: ("rgb24", "rgb48le"), 4: ("rgba", "rgba64le")}[channels][deep]
        self._buffer = np.empty((self.height, self.width, channels), np.uint16 if deep else np.uint8)
        self._as_given = {8: torch.uint8, 16: torch.uint16}.get(self._bits)
        rows = 8 * max(1, _AT_ONCE // (8 * self._width * channels))  # whole squares of the pattern
        self._scaled = np.empty((rows, self._width, channels), np.float32)
        self._threshold = _thresholds(self._scaled.shape) if dither else np.full((1, 1, 1), np.float32(0.5))

    def __iter__(self) -> Iterator[np.ndarray]:
        frame, self._first = self._first, None
        index = 0
        while frame is not None:
            picture = self._picture(frame, index)
            frame = None  # let go of it before the next is made
            yield picture
            picture = None
            index += 1
            try:
                frame = _as_tensor(next(self._source), index)
            except StopIteration:
                return

    def _picture(self, frame: Tensor, index: int) -> np.ndarray:
        h, w, channels = self._height, self._width, self._buffer.shape[2]
        if frame.shape[:2] != (h, w):
            raise VideoError(
                f"frame {index} is {frame.shape[1]}x{frame.shape[0]} (width x height), frame 0 is {w}x{h}; "
                "all frames of a video must have one size"
            )
        if frame.shape[2] != channels:
            raise VideoError(f"frame {index} has {frame.shape[2]} channels, frame 0 has {channels}; they must agree")
        frame, picture = frame.to("cpu"), self._buffer[:h, :w]
        if frame.dtype == self._as_given:
            if picture.shape == self._buffer.shape and frame.is_contiguous():
                return frame.numpy()
            np.copyto(picture, frame.numpy())
        else:
            self._round_into(picture, frame, index)
        if self._bits == 10:
            self._buffer[:h, :w] <<= 6
        self._buffer[:h, w:] = self._buffer[:h, w - 1 : w]
        self._buffer[h:] = self._buffer[h - 1 : h]
        return self._buffer

    def _round_into(self, picture: np.ndarray, frame: Tensor, index: int) -> None:
        """The threshold + 255 x (or 1023 x, 65535 x) without its fraction, a band of rows after the other."""
        to_unit = 1.0 if frame.is_floating_point() else 1 / torch.iinfo(frame.dtype).max
        scale = np.float32((2**self._bits - 1) * to_unit)
        source = (frame.float() if frame.dtype == torch.bfloat16 else frame).numpy()  # NumPy has no bfloat16
        rows = len(self._scaled)
        for top in range(0, len(picture), rows):
            band = source[top : top + rows]
            low, high = float(band.min()) * to_unit, float(band.max()) * to_unit
            if not (np.isfinite(low) and np.isfinite(high)):
                raise VideoError(f"frame {index} holds NaN or infinite values; floats must lie in 0..1")
            if low < 0 or high > 1:
                band = band.clip(0, 1)
            scaled = np.multiply(band, scale, out=self._scaled[: len(band)])
            scaled += self._threshold[: len(band)]
            np.copyto(picture[top : top + rows], scaled, casting="unsafe")


def _thresholds(shape: tuple[int, int, int]) -> np.ndarray:
    """Bayer's 8x8 matrix over `[rows, width, channels]`: the 64 values (i + 0.5) / 64 in each square of pixels."""
    pattern = np.zeros((1, 1), np.float32)
    corners = np.array([[0, 2], [3, 1]], np.float32)
    for _ in range(3):
        pattern = np.tile(4 * pattern, (2, 2)) + np.kron(corners, np.ones_like(pattern))
    rows, width, channels = shape
    tiled = np.tile((pattern + 0.5) / 64, (-(-rows // 8), -(-width // 8)))[:rows, :width, None]
    return np.repeat(tiled, channels, axis=2)


def _as_tensor(frame: object, index: int) -> Tensor:
    if isinstance(frame, np.ndarray):
        if frame.dtype not in _ARRAYS:
            raise VideoError(_wrong_type(index, frame.dtype))
        # torch wants positive strides and, or it warns, memory it might write to
        frame = torch.from_numpy(np.require(frame, requirements=["C", "W"]))
    if not isinstance(frame, Tensor):
        raise VideoError(f"frame {index} is {type(frame).__name__}; a frame is a torch tensor or numpy array [h, w, 3]")
    if frame.dtype not in (torch.uint8, torch.uint16) and frame.dtype not in _FLOATS:
        raise VideoError(_wrong_type(index, frame.dtype))
    if frame.ndim != 3 or frame.shape[2] not in (3, 4) or 0 in frame.shape:
        shape = list(frame.shape)
        raise VideoError(f"frame {index} has shape {shape}; a frame is [h, w, 3], red, green, blue last, or [h, w, 4]")
    return frame.detach()


def _wrong_type(index: int, dtype: object) -> str:
    return f"frame {index} is {dtype}; frames are uint8 (0..255), uint16 (0..65535) or float (0..1)"

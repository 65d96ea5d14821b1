"""Frames as they come (tensors or arrays, 8-bit or float) to the 8-bit RGB bytes that ffmpeg is fed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from ..errors import VideoError

MAX_SIDE = 16384
"""The largest side libx264 takes."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_ARRAYS = (np.uint8, np.float16, np.float32, np.float64)


class Frames:
    """An iterable of frames, read one at a time and turned into rgb24.

    The first frame is read on construction and fixes `width` and `height` (in the file: rounded up to `alignment`, the
    last column and row repeated). Iterating yields one reused contiguous buffer uint8 `[height, width, 3]`; no frame
    is kept. uint8 is taken as it is; floats are clamped to 0..1, times 255, rounded half up.

    VideoError: no frames, a frame that is not `[h, w, 3]` of uint8 or float, one of another size than the first, NaN
    or infinity, a side longer than 16384. The message counts frames from 0.
    """

    def __init__(self, frames: Iterable, alignment: int = 1) -> None:
        try:
            self._source = iter(frames)
        except TypeError:
            raise VideoError(f"frames must be an iterable of [h, w, 3] frames, not {type(frames).__name__}") from None
        try:
            self._first = _as_tensor(next(self._source), 0)
        except StopIteration:
            raise VideoError("there are no frames: a video needs at least one") from None
        self._height, self._width = self._first.shape[:2]
        if max(self._height, self._width) > MAX_SIDE:
            raise VideoError(f"frames are {self._width}x{self._height}; no side may exceed {MAX_SIDE} pixels")
        self.width = -(-self._width // alignment) * alignment
        self.height = -(-self._height // alignment) * alignment
        self._buffer = torch.empty(self.height, self.width, 3, dtype=torch.uint8)
        self._scaled = torch.empty(0)
        self._half = torch.tensor(0.5)

    def __iter__(self) -> Iterator[np.ndarray]:
        frame, self._first = self._first, None
        index = 0
        while frame is not None:
            self._fill(frame, index)
            frame = None  # let go of it before the next is made
            yield self._buffer.numpy()
            index += 1
            try:
                frame = _as_tensor(next(self._source), index)
            except StopIteration:
                return

    def _fill(self, frame: Tensor, index: int) -> None:
        h, w = self._height, self._width
        if frame.shape[:2] != (h, w):
            raise VideoError(
                f"frame {index} is {frame.shape[1]}x{frame.shape[0]} (width x height), frame 0 is {w}x{h}; "
                "all frames of a video must have one size"
            )
        picture = frame if frame.dtype == torch.uint8 else self._rounded(frame, index)
        self._buffer[:h, :w] = picture
        self._buffer[:h, w:] = self._buffer[:h, w - 1 : w]
        self._buffer[h:] = self._buffer[h - 1 : h]

    def _rounded(self, frame: Tensor, index: int) -> Tensor:
        """0.5 + 255 x, float32, in a buffer of its own: the copy into uint8 that follows drops the fraction."""
        frame = frame.to("cpu", torch.float32)
        low, high = (float(bound) for bound in frame.aminmax())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise VideoError(f"frame {index} holds NaN or infinite values; floats must lie in 0..1")
        if low < 0 or high > 1:
            frame = frame.clamp(0, 1)
        self._scaled.resize_(frame.shape)
        return torch.add(self._half, frame, alpha=255, out=self._scaled)


def _as_tensor(frame: object, index: int) -> Tensor:
    if isinstance(frame, np.ndarray):
        if frame.dtype not in _ARRAYS:
            raise VideoError(_wrong_type(index, frame.dtype))
        # torch wants positive strides and, or it warns, memory it might write to
        frame = torch.from_numpy(np.require(frame, requirements=["C", "W"]))
    if not isinstance(frame, Tensor):
        raise VideoError(f"frame {index} is {type(frame).__name__}; a frame is a torch tensor or numpy array [h, w, 3]")
    if frame.dtype != torch.uint8 and frame.dtype not in _FLOATS:
        raise VideoError(_wrong_type(index, frame.dtype))
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise VideoError(f"frame {index} has shape {list(frame.shape)}; a frame is [h, w, 3]: red, green, blue last")
    return frame.detach()


def _wrong_type(index: int, dtype: object) -> str:
    return f"frame {index} is {dtype}; frames are uint8 (0..255) or float (0..1)"

"""Frames as they are read, uint8 or uint16 arrays, to float32 tensors in 0..1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .read import VideoReader


def read_images(
    reader: VideoReader, expected: int, on_frame: Callable[[int], None], before_growing: Callable[[int], None]
) -> Tensor:
    """All frames of `reader`, `[f, h, w, 3]`, in memory that is taken once.

    expected: how many there are said to be. on_frame: called with how many were read so far. before_growing: called
        with how many frames there must be room for, where there are more than expected: an exception ends the reading.
    """
    images = np.empty((expected, reader.height, reader.width, reader.channels), np.float32)
    for index, frame in enumerate(reader):
        if index == len(images):
            more = 1 + index // 8
            before_growing(index + more)
            images = np.concatenate([images, np.empty((more, *images.shape[1:]), np.float32)])
        _to_float(frame, images[index])
        on_frame(index + 1)
    return torch.from_numpy(images[: reader.count])


def batches(reader: VideoReader, most: int, width: int, height: int) -> Iterator[Tensor]:
    """The frames of `reader`, at most `most` at a time, the middle of each cut out: `[n, height, width, 3]`."""
    frames = []
    for frame in reader:
        frames.append(frame)
        if len(frames) == most:
            yield _middle(frames, width, height)
            frames = []
    if frames:
        yield _middle(frames, width, height)


def _middle(frames: Sequence[np.ndarray], width: int, height: int) -> Tensor:
    top, left = (frames[0].shape[0] - height) // 2, (frames[0].shape[1] - width) // 2
    images = np.empty((len(frames), height, width, frames[0].shape[2]), np.float32)
    for image, frame in zip(images, frames, strict=True):
        _to_float(frame[top : top + height, left : left + width], image)
    return torch.from_numpy(images)


def _to_float(frame: np.ndarray, out: np.ndarray) -> None:
    np.divide(frame, np.float32(np.iinfo(frame.dtype).max), out=out, dtype=np.float32)

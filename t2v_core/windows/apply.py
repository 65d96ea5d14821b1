"""A clip from its windows: which run together, and their results averaged by weight into one clip's memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .context_windows import Windows

MOST_AT_ONCE = 8
"""Windows in one call of a network. On a CPU 8 take a third less time each than one by itself and 16 no less (bundled
model), on a GPU 8 keep it busy; and what a run holds must not grow with the clip."""


def batches(windows: Windows, at_once: int) -> Iterator[slice]:
    """Which windows run together, `at_once` of them in a call; fewer in the last."""
    for start in range(0, len(windows.frames), at_once):
        yield slice(start, start + at_once)


class Fused:
    """The average of windows' results, in `total`, `[f, ...]`: each window is added as it comes and then forgotten.

    Windows are added one after the other, so the sum of a frame is always taken in the same order, on every device.

    like: a tensor of the clip's shape `[f, ...]`, on its device and in its dtype.
    """

    def __init__(self, windows: Windows, like: Tensor):
        self.total = torch.zeros_like(like, memory_format=torch.contiguous_format)
        self._indices = windows.indices.to(like.device)
        self._weights = windows.weights.to(like).reshape(*windows.weights.shape, *(1,) * (like.ndim - 1))

    def add(self, batch: slice, results: Tensor) -> None:
        """Add what came out for these windows, `[windows, length, ...]`."""
        for indices, weights, result in zip(self._indices[batch], self._weights[batch], results, strict=True):
            self.total.index_add_(0, indices, result * weights)

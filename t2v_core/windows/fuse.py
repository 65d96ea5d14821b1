"""How much each frame of a window counts where windows overlap. A new way is one function and one row of `FUSES`.

Every function is `(length, before, after) -> weights [windows, length] or [length]`, all above 0: before and after
`[windows]` say how many of its frames a window shares with the one before it and the one after it in its row. Only the
ratios count: afterwards the weights of each frame are divided by their sum over all windows.

With k = 0 .. length - 1 the place in the window and m = (length - 1) / 2 its middle:

  flat            1: all windows that have a frame count the same
  pyramid         min(k + 1, length - k): AnimateDiff-Evolved's, and FreeNoise's (Qiu et al., arXiv 2310.15169)
  overlap-linear  1, but for straight lines over what is shared with a neighbour: (k + 1) / (before + 1) and the same
                  from the other end, whichever is less
  gaussian        exp(-(k - m)^2 / (2 s^2)) with s = length / 6: an overlap goes over in the shape of an S
  relative        max(0.01, 1 - |k - m| / (m + 0.005)): AnimateDiff-Evolved adds windows up as a running average, each
                  with this bias; after the last one that is the average by these weights, in whatever order
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Shared = NDArray[np.int64]
Weights = NDArray[np.float64]


def flat(length: int, before: Shared, after: Shared) -> Weights:
    """See above."""
    return np.ones(length)


def pyramid(length: int, before: Shared, after: Shared) -> Weights:
    """See above."""
    place = np.arange(length, dtype=np.float64)
    return np.minimum(place + 1, length - place)


def overlap_linear(length: int, before: Shared, after: Shared) -> Weights:
    """See above."""
    place = np.arange(length)
    rising = (place + 1) / (before[:, None] + 1)
    falling = (length - place) / (after[:, None] + 1)
    return np.minimum(np.minimum(rising, falling), 1.0)


def gaussian(length: int, before: Shared, after: Shared) -> Weights:
    """See above."""
    return np.exp(-0.5 * (_from_middle(length) / (length / 6)) ** 2)


def relative(length: int, before: Shared, after: Shared) -> Weights:
    """See above."""
    return np.maximum(0.01, 1 - _from_middle(length) / ((length - 1) / 2 + 0.005))


def _from_middle(length: int) -> Weights:
    return np.abs(np.arange(length) - (length - 1) / 2)


FUSES: dict[str, Callable[[int, Shared, Shared], Weights]] = {
    "flat": flat,
    "pyramid": pyramid,
    "overlap-linear": overlap_linear,
    "gaussian": gaussian,
    "relative": relative,
}

"""How many things a clip shows and which pixels are whose: parts that hang together, counted over all frames."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clips.scenes import RADIUS_OF_TWO

COARSE = 64  # side of the reduced frames that things are counted in
LEAST = 0.2 * math.pi * RADIUS_OF_TWO[0] ** 2 * COARSE**2  # pixels of a thing there: what is smaller is a speck
LEAST_CLEAR = LEAST / 2  # of them, so many are clearly off the ground: what is not is a stain on it


def components(seen: Tensor) -> Tensor:
    """Number the parts of `seen` `[f, n, n]` that hang together: a positive number in each's pixels, elsewhere 0."""
    number = torch.arange(1, seen.numel() + 1).view_as(seen) * seen
    while True:
        # The largest number spreads by a pixel, then by jumps: the pixel a number is named after knows a larger one.
        larger = number.clone()
        for side in (1, 2):
            length = seen.shape[side] - 1
            for here, there in ((0, 1), (1, 0)):
                torch.maximum(larger.narrow(side, here, length), number.narrow(side, there, length),
                              out=larger.narrow(side, here, length))  # fmt: skip
        larger = F.pad((larger * seen).flatten(), (1, 0))[larger * seen]
        if torch.equal(larger, number):
            return number
        number = larger


def _parts(numbers: Tensor, clear: Tensor) -> list[tuple[float, int, int]]:
    """Mean column, pixels and number of each part of a frame `[n, n]` that is neither speck nor stain, the biggest
    first."""
    found, index, pixels = numbers.unique(return_inverse=True, return_counts=True)
    columns = torch.arange(numbers.shape[1], dtype=torch.float32).expand_as(numbers)
    x, clear = (
        torch.zeros(len(found)).index_add_(0, index.flatten(), each.flatten().float()) for each in (columns, clear)
    )
    rows = zip((x / pixels).tolist(), pixels.tolist(), found.tolist(), clear.tolist(), strict=True)
    things = (row[:3] for row in rows if row[2] and row[1] > LEAST and row[3] > LEAST_CLEAR)
    return sorted(things, key=lambda row: -row[1])


def things_in(seen: Tensor, clear: Tensor) -> Tensor:
    """Which pixels each thing has, `[things, f, n, n]`, of all that are `seen`, `[f, n, n]`, and of these `clear`ly
    off the ground; the left one first.

    There are as many as in the middle one of all frames, ordered by how many they show.
    """
    numbers = components(seen)
    parts = [_parts(*frame) for frame in zip(numbers, clear, strict=True)]
    count = sorted(map(len, parts))[len(parts) // 2]
    things = torch.zeros(count, *seen.shape, dtype=torch.bool)
    if not count:
        return things
    places = torch.tensor([[row[0] for row in sorted(rows[:count])] for rows in parts if len(rows) >= count])
    usual = places.median(dim=0).values
    for frame, rows in enumerate(parts):
        for thing, (x, _, number) in enumerate(sorted(rows[:count])):
            if len(rows) < count:  # some are hidden: this is the one whose place is nearest
                thing = int((usual - x).abs().argmin())
            things[thing, frame] |= numbers[frame] == number
    return things

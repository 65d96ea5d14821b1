"""Figures of the evaluation: intervals of shares, rank correlation, and how steady the things of a clip are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .detect import Reading, Track
from .prompts import Prompt

INSIDE = 0.5  # of the radius: so much round the centre is inside of every shape


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval (95% by default) of a share, `right` of `count` having been seen; 0..1 for none (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    share, square = right / count, z * z
    middle = share + square / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    scale = 1 + square / count
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def ranks(values: Sequence[float]) -> list[float]:
    """Each value's place in the order, from 1 on; those alike have the mean of theirs."""
    return [1 + sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
            for value in values]  # fmt: skip


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, -1..1; 0 where either never changes."""
    x, y = (torch.tensor(ranks(values), dtype=torch.float64) for values in (first, second))
    x, y = x - x.mean(), y - y.mean()
    spread = float(x.norm() * y.norm())
    return float(x @ y) / spread if spread > 0 else 0.0


@dataclass(frozen=True)
class Steadiness:
    """Means over the things of a clip.

    shape_iou: overlap with the template of the shape asked for, None where the prompt does not say a shape.
    colour_drift: standard deviation over the frames of a thing's colour, mean of red, green and blue, 0..1.
    jitter: length of the second difference of a thing's centre, mean over the frames, in percent of the side.
    """

    shape_iou: float | None
    colour_drift: float
    jitter: float


def steadiness(frames: Tensor, reading: Reading, prompt: Prompt) -> Steadiness | None:
    """Of a clip `[f, h, w, 3]` and what was read in it; None where there are not as many things as asked for."""
    things = prompt.scene.things
    if len(reading.tracks) != len(things):
        return None
    said = ["shape" in prompt.said, "second shape" in prompt.said]
    overlaps = [
        iou[thing.shape] for thing, iou, is_said in zip(things, reading.shape_iou, said, strict=False) if is_said
    ]
    return Steadiness(
        _mean(overlaps) if overlaps else None,
        _mean([_drift(frames, track) for track in reading.tracks]),
        _mean([_jitter(track) for track in reading.tracks]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _drift(frames: Tensor, track: Track) -> float:
    side = frames.shape[1]
    grid = (torch.arange(side) + 0.5) / side
    x, y, radius = (torch.tensor(values)[:, None, None] for values in (track.x, track.y, track.radius))
    far = ((grid[None, None, :] - x).square() + (grid[None, :, None] - y).square()).sqrt()
    inside = (far < (INSIDE * radius).clamp(min=1 / side)).float()  # one pixel at least
    colour = torch.einsum("fhwc,fhw->fc", frames, inside) / inside.sum((1, 2)).clamp(min=1)[:, None]
    return colour.std(dim=0, correction=0).mean().item()


def _jitter(track: Track) -> float:
    centre = torch.tensor([track.x, track.y])
    return 100 * centre.diff(n=2, dim=1).norm(dim=0).mean().item()

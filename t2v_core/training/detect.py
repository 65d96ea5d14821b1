"""Read a clip's attributes off its pixels, knowing how the training clips are drawn.

Nothing here is learned. On clips straight from the renderer the answers are right; on generated ones they say whether
the model drew what the prompt asked for, and `shape_iou` how cleanly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .shapes import BACKGROUNDS, COLOURS, SHAPES, Attributes, coverage

PATCH = 32  # side of the patch a shape is compared in
EXTENT = 1.8  # half the patch, in units of the shape's radius


@dataclass(frozen=True)
class Reading:
    """What was seen: the nearest attributes, and how well the shape fits its template (1 is exactly)."""

    attributes: Attributes
    shape_iou: dict[str, float]
    x: tuple[float, ...]
    y: tuple[float, ...]
    radius: tuple[float, ...]

    def matches(self, wanted: Attributes) -> dict[str, bool]:
        """Which attributes are as wanted."""
        return {name: getattr(self.attributes, name) == value for name, value in vars(wanted).items()}


def _nearest(colour: Tensor, table: dict[str, tuple[float, float, float]]) -> str:
    distances = (torch.tensor(list(table.values())) - colour).norm(dim=1)
    return list(table)[int(distances.argmin())]


def _separate(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Background colour `[3]`, shape colour `[3]`, and how much of each pixel is shape, `[f, h, w]` in 0..1."""
    border = torch.cat([frames[:, :2].flatten(0, 2), frames[:, -2:].flatten(0, 2), frames[:, :, :2].flatten(0, 2),
                        frames[:, :, -2:].flatten(0, 2)])  # fmt: skip
    background = border.median(dim=0).values
    difference = frames - background
    distance = difference.norm(dim=-1)
    # The strongest hundredth of all pixels lies well inside the shape, away from its blended edge.
    inside = distance >= distance.flatten().kthvalue(int(0.99 * distance.numel())).values
    colour = frames[inside].median(dim=0).values
    axis = colour - background
    return background, colour, (difference @ axis / axis.square().sum().clamp(min=1e-6)).clamp(0, 1)


def _track(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre x, y and radius of the shape in each frame, as fractions of the side."""
    weight = torch.where(mask > 0.35, mask, torch.zeros_like(mask))
    total = weight.sum((1, 2)).clamp(min=1e-6)
    size = mask.shape[-1]
    grid = (torch.arange(size, dtype=mask.dtype) + 0.5) / size
    x = (weight.sum(1) * grid).sum(1) / total
    y = (weight.sum(2) * grid).sum(1) / total
    return x, y, (total / (size * size * math.pi)).sqrt()


def _shape(mask: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> dict[str, float]:
    """Mean intersection over union with each shape's template, each frame centred and scaled by its own track."""
    visible = radius > 0.05
    if not visible.any():
        return dict.fromkeys(SHAPES, 0.0)
    mask, x, y, radius = mask[visible], x[visible], y[visible], radius[visible]
    line = (torch.arange(PATCH) + 0.5) / PATCH * 2 - 1
    offset = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1) * EXTENT
    places = torch.stack([x, y], dim=1)[:, None, None] + offset * radius[:, None, None, None]
    patches = F.grid_sample(mask[:, None], places * 2 - 1, align_corners=False)[:, 0]
    middle = torch.tensor([0.5])
    scores = {}
    for shape in SHAPES:
        template = coverage(shape, middle, middle, torch.tensor([0.5 / EXTENT]), PATCH)
        union = torch.maximum(patches, template).sum((1, 2))
        scores[shape] = (torch.minimum(patches, template).sum((1, 2)) / union).mean().item()
    return scores


def _motion(x: Tensor, y: Tensor, radius: Tensor) -> str:
    """The motion a track is nearest to: size first, then which way the centre goes, and whether it comes back."""
    growth = (radius[-3:].mean() / radius[:3].mean().clamp(min=1e-6)).item()
    if growth > 1.35 or growth < 1 / 1.35:
        return "growing" if growth > 1 else "shrinking"
    wide, high = (x.max() - x.min()).item(), (y.max() - y.min()).item()
    if max(wide, high) < 0.08:
        return "still"
    if min(wide, high) > 0.5 * max(wide, high):
        return "orbiting"
    if wide > high:
        return "right" if x[-1] > x[0] else "left"
    if abs((y[-1] - y[0]).item()) > 0.8 * high and (y.diff().sign() == (y[-1] - y[0]).sign()).float().mean() > 0.7:
        return "down" if y[-1] > y[0] else "up"
    return "bouncing"


def read(frames: Tensor) -> Reading:
    """Read a clip: `frames` `[f, h, w, 3]` in 0..1."""
    background, colour, mask = _separate(frames.float())
    x, y, radius = _track(mask)
    scores = _shape(mask, x, y, radius)
    attributes = Attributes(
        _nearest(colour, COLOURS), max(scores, key=scores.get), _motion(x, y, radius), _nearest(background, BACKGROUNDS)
    )
    return Reading(attributes, scores, tuple(x.tolist()), tuple(y.tolist()), tuple(radius.tolist()))

"""The four shapes as formulas: distance to the outline, and how much of each pixel a shape covers.

Lengths are fractions of the frame's side, y pointing down. All shapes of one radius have the area of the circle of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "star")
STAR_INNER = 0.45  # inner over outer radius of the five-pointed star


def polygon(shape: str) -> Tensor | None:
    """Corners `[n, 2]` (x, y) of `shape` round its centroid, with the area of the unit circle; None for the circle."""
    if shape == "circle":
        return None
    if shape == "square":
        half = math.sqrt(math.pi) / 2
        return torch.tensor([(-half, -half), (half, -half), (half, half), (-half, half)])
    corners, inner = (3, 1.0) if shape == "triangle" else (10, STAR_INNER)
    step = 2 * math.pi / corners
    radii = [1.0 if i % 2 == 0 or corners == 3 else inner for i in range(corners)]
    points = torch.tensor([(r * math.sin(i * step), -r * math.cos(i * step)) for i, r in enumerate(radii)])
    following = points.roll(-1, 0)
    area = (points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]).sum().abs() / 2
    return points * torch.sqrt(math.pi / area)


POLYGONS = {shape: polygon(shape) for shape in SHAPES}
# How far each shape reaches from its centre in x and y, in units of `radius`: keeps a moving shape inside the frame.
REACH = {shape: (1.0, 1.0) if p is None else tuple(p.abs().amax(0).tolist()) for shape, p in POLYGONS.items()}


def signed_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the outline of the unit-area-of-circle `shape`, negative inside; any broadcastable `x`, `y`."""
    points = POLYGONS[shape]
    if points is None:
        return torch.sqrt(x * x + y * y) - 1.0
    nearest = torch.full_like(x, math.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(points.tolist(), points.roll(-1, 0).tolist(), strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        along = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp_(0, 1)
        nearest = torch.minimum(nearest, (px - along * ex).square_() + (py - along * ey).square_())
        if ay != by:  # even-odd rule: count the edges crossed by the ray to the right
            inside ^= ((y < ay) != (y < by)) & (px < py * (ex / ey))
    return torch.where(inside, -nearest.sqrt(), nearest.sqrt())


def coverage(shape: str, x: Tensor, y: Tensor, radius: Tensor, size: int) -> Tensor:
    """How much of each pixel the shape covers, 0..1, `[f, size, size]`, for centres and radii `[f]`."""
    side = min(size, math.ceil(2 * max(REACH[shape]) * float(radius.max()) * size) + 4)  # of a box that holds the shape
    place = torch.stack([x, y])
    corner = (place * size - side / 2).round().long().clamp(0, size - side)  # 2 f
    line = torch.arange(side)
    columns, rows = (first[:, None] + line for first in corner)  # f side
    dx, dy = (((at + 0.5) / size - centre[:, None]) / radius[:, None] for at, centre in ((columns, x), (rows, y)))
    dx, dy = torch.broadcast_tensors(dx[:, None, :], dy[:, :, None])
    pixels = signed_distance(shape, dx.contiguous(), dy.contiguous()) * radius[:, None, None] * size
    covered = torch.zeros(len(x), size, size)
    covered[torch.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]] = (0.5 - pixels).clamp_(0, 1)
    return covered

"""What the training clips show, drawn by formula: one flat shape, moving in one way, on a flat background.

Lengths are fractions of the frame's side, y pointing down. The pixels are a pure function of a `Clip`, which is drawn
from a `torch.Generator`: the generator is the data set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

# sRGB, 0..1. Chosen far apart, so that a detector cannot mistake one for another.
COLOURS = {
    "red": (0.86, 0.10, 0.12),
    "green": (0.12, 0.62, 0.20),
    "blue": (0.14, 0.34, 0.92),
    "yellow": (0.97, 0.87, 0.10),
    "orange": (0.98, 0.50, 0.05),
    "purple": (0.50, 0.14, 0.68),
    "cyan": (0.10, 0.80, 0.88),
    "pink": (0.98, 0.52, 0.74),
}
BACKGROUNDS = {
    "white": (0.98, 0.98, 0.98),
    "black": (0.03, 0.03, 0.03),
    "gray": (0.50, 0.50, 0.50),
    "navy": (0.05, 0.08, 0.34),
    "beige": (0.91, 0.85, 0.70),
}
SHAPES = ("circle", "square", "triangle", "star")
MOTIONS = ("right", "left", "up", "down", "growing", "shrinking", "bouncing", "orbiting", "still")
OPPOSITE = {"right": "left", "up": "down", "growing": "shrinking"}
OPPOSITE |= {backwards: forwards for forwards, backwards in OPPOSITE.items()}

# Never drawn together in training, and asked for in evaluation: what the model does with them it was not shown.
HELD_OUT_COLOUR_SHAPE = {("blue", "triangle"), ("red", "star"), ("yellow", "square"), ("purple", "circle")}
HELD_OUT_SHAPE_MOTION = {("square", "orbiting"), ("circle", "up"), ("star", "growing"), ("triangle", "left")}

STAR_INNER = 0.5  # inner over outer radius of the five-pointed star


@dataclass(frozen=True)
class Attributes:
    """What a caption may say of a clip."""

    colour: str
    shape: str
    motion: str
    background: str

    @property
    def held_out(self) -> bool:
        """True when the clip holds a pair that is kept out of training."""
        return (self.colour, self.shape) in HELD_OUT_COLOUR_SHAPE or (self.shape, self.motion) in HELD_OUT_SHAPE_MOTION


COMBINATIONS = tuple(Attributes(*names) for names in product(COLOURS, SHAPES, MOTIONS, BACKGROUNDS))
SEEN = tuple(a for a in COMBINATIONS if not a.held_out)
HELD_OUT = tuple(a for a in COMBINATIONS if a.held_out)


@dataclass(frozen=True)
class Clip:
    """One clip: its attributes, the path of the centre, and the size; `radius` is that of the circle of equal area."""

    attributes: Attributes
    x: tuple[float, ...]
    y: tuple[float, ...]
    radius: tuple[float, ...]
    colour_rgb: tuple[float, float, float]
    background_rgb: tuple[float, float, float]


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
# How far each shape reaches from its centre, in units of `radius`: keeps a moving shape inside the frame.
REACH = {shape: 1.0 if p is None else float(p.abs().max()) for shape, p in POLYGONS.items()}


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
    grid = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    dx = (grid[None, None, :] - x[:, None, None]) / radius[:, None, None]
    dy = (grid[None, :, None] - y[:, None, None]) / radius[:, None, None]
    dx, dy = torch.broadcast_tensors(dx, dy)
    pixels = signed_distance(shape, dx.contiguous(), dy.contiguous()) * radius[:, None, None] * size
    return (0.5 - pixels).clamp_(0, 1)


def draw(clip: Clip, size: int = 64) -> Tensor:
    """Render `clip` to frames `[f, 3, size, size]`, float32 0..1, edges antialiased."""
    mask = coverage(clip.attributes.shape, torch.tensor(clip.x), torch.tensor(clip.y), torch.tensor(clip.radius), size)
    colour, background = torch.tensor(clip.colour_rgb), torch.tensor(clip.background_rgb)
    return background[:, None, None] + mask[:, None] * (colour - background)[:, None, None]


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _path(motion: str, reach: float, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Centre of the shape in each frame, `[f]` and `[f]`, kept `reach` away from the frame's border."""
    phase = torch.linspace(0, 1, frames)
    low, high = reach + 0.02, 0.98 - reach
    still_x, still_y = (_uniform(generator, max(low, 0.3), min(high, 0.7)) for _ in range(2))
    flat_x, flat_y = torch.full((frames,), still_x), torch.full((frames,), still_y)
    if motion in ("right", "left", "up", "down"):
        start, end = _uniform(generator, low, low + 0.08), _uniform(generator, high - 0.08, high)
        run = start + (end - start) * phase
        run = run if motion in ("right", "down") else run.flip(0)
        return (run, flat_y) if motion in ("right", "left") else (flat_x, run)
    if motion == "bouncing":  # two and a half hops; the ball starts and ends on or above the floor
        hops = torch.sin(math.pi * (2.5 * phase + _uniform(generator, 0.0, 1.0))).abs()
        return flat_x, high - (high - max(low, 0.25)) * hops
    if motion == "orbiting":
        radius = min(_uniform(generator, 0.19, 0.24), 0.49 - reach)
        turn = 2 * math.pi * (phase * (frames - 1) / frames + _uniform(generator, 0.0, 1.0))
        return 0.5 + radius * torch.cos(turn), 0.5 + radius * torch.sin(turn)
    return flat_x, flat_y


def sample_clip(attributes: Attributes, generator: torch.Generator, frames: int = 16) -> Clip:
    """Draw the free quantities of a clip (place, size, pace, slight colour variation) with these attributes."""
    radius = _uniform(generator, 0.16, 0.21)
    factor = torch.ones(frames)
    if attributes.motion in ("growing", "shrinking"):
        factor = torch.linspace(_uniform(generator, 0.55, 0.65), _uniform(generator, 1.3, 1.4), frames)
        factor = factor if attributes.motion == "growing" else factor.flip(0)
    reach = REACH[attributes.shape] * radius * float(factor.max())
    x, y = _path(attributes.motion, reach, frames, generator)
    jitter = (0.01 * torch.randn(2, 3, generator=generator)).clamp_(-0.03, 0.03)
    colour = (torch.tensor(COLOURS[attributes.colour]) + jitter[0]).clamp_(0, 1)
    background = (torch.tensor(BACKGROUNDS[attributes.background]) + jitter[1]).clamp_(0, 1)
    return Clip(
        attributes,
        tuple(x.tolist()),
        tuple(y.tolist()),
        tuple((radius * factor).tolist()),
        tuple(colour.tolist()),
        tuple(background.tolist()),
    )

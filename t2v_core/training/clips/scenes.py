"""What the training clips show, drawn by formula: one or two flat shapes, each moving in one way, on a background.

Lengths are fractions of the frame's side, y pointing down. The pixels are a pure function of a `Clip`, which is drawn
from a `torch.Generator`: the generator is the data set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from .shapes import REACH, SHAPES, coverage

SIZE, FRAMES, LONGER = 96, 16, 24
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
MOTIONS = ("right", "left", "up", "down", "growing", "shrinking", "bouncing", "orbiting", "still")
STRAIGHT = ("right", "left", "up", "down")
PHASED = ("bouncing", "orbiting")  # those whose course has a set beginning
PACED = (*STRAIGHT, *PHASED)  # those that can be slow or fast
SIZES = ("small", "medium", "large")
SPEEDS = ("slow", "medium", "fast")
CAMERAS = ("fixed", "pan left", "pan right", "pan up", "pan down", "zoom in", "zoom out")
OPPOSITE = {"right": "left", "up": "down", "growing": "shrinking",
            "pan left": "pan right", "pan up": "pan down", "zoom in": "zoom out"}  # fmt: skip
OPPOSITE |= {backwards: forwards for forwards, backwards in OPPOSITE.items()}

# Never drawn together in training, and asked for in evaluation: what the model does with them it was not shown.
HELD_OUT_COLOUR_SHAPE = {("blue", "triangle"), ("red", "star"), ("yellow", "square"), ("purple", "circle")}
HELD_OUT_SHAPE_MOTION = {("square", "orbiting"), ("circle", "up"), ("star", "growing"), ("triangle", "left")}

# What the words stand for. Radii are those of the circle of equal area, travel is from the first frame to the last.
RADIUS = {"small": (0.11, 0.125), "medium": (0.155, 0.175), "large": (0.21, 0.225)}
RADIUS_OF_TWO = (0.11, 0.12)
TRAVEL = {"slow": (0.15, 0.18), "medium": (0.27, 0.31), "fast": (0.42, 0.50)}
HOPS = {"slow": 1.5, "medium": 2.5, "fast": 4.0}
TURNS = {"slow": 0.75, "medium": 1.25, "fast": 2.0}
LATE = 0.12  # of a hop or a turn that may be over in the first frame
GROWTH = ((0.58, 0.66), (1.26, 1.36))  # of the radius: at the smaller end, at the larger
PAN = (0.22, 0.30)
ZOOM = (1.45, 1.60)
MARGIN = 0.015  # between a shape and the border, or the middle line between two
SQUARE = 0.2  # side of the squares of a checkered background
CONTRAST = 0.16  # between their two tones


@dataclass(frozen=True)
class Thing:
    """What a caption may say of one shape. Pace means something only to the `PACED` motions."""

    colour: str
    shape: str
    motion: str
    size: str = "medium"
    speed: str = "medium"

    @property
    def held_out(self) -> bool:
        """True when it holds a pair that is kept out of training."""
        return (self.colour, self.shape) in HELD_OUT_COLOUR_SHAPE or (self.shape, self.motion) in HELD_OUT_SHAPE_MOTION


@dataclass(frozen=True)
class Scene:
    """What a caption may say of a clip: one thing, or two, the left one first; the ground; what the camera does.

    A camera that moves has a checkered ground to be seen moving over, and one thing that stays where it is.
    """

    things: tuple[Thing, ...]
    background: str
    camera: str = "fixed"

    @property
    def held_out(self) -> bool:
        return any(thing.held_out for thing in self.things)

    @property
    def reversible(self) -> bool:
        """True when its clips, played backwards, are clips of a scene too: not where a motion has a set beginning."""
        return not any(thing.motion in PHASED for thing in self.things)

    def backwards(self) -> Scene:
        """What a clip of it shows when it is played backwards, if it is `reversible`."""
        things = tuple(replace(each, motion=OPPOSITE.get(each.motion, each.motion)) for each in self.things)
        return replace(self, things=things, camera=OPPOSITE.get(self.camera, self.camera))


PLAIN_THINGS = tuple(Thing(*names) for names in product(COLOURS, SHAPES, MOTIONS))
SEEN_THINGS = tuple(thing for thing in PLAIN_THINGS if not thing.held_out)
HELD_OUT_THINGS = tuple(thing for thing in PLAIN_THINGS if thing.held_out)


@dataclass(frozen=True)
class Layer:
    """One thing as it is drawn: its centre and radius in each frame, and its colour."""

    shape: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    radius: tuple[float, ...]
    rgb: tuple[float, float, float]


@dataclass(frozen=True)
class Clip:
    """One clip. view: for a checkered ground, x and y of the world that is mid-frame and the scale, in each frame."""

    scene: Scene
    layers: tuple[Layer, ...]
    background_rgb: tuple[float, float, float]
    view: tuple[tuple[float, float, float], ...] | None = None


def second_tone(rgb: Tensor) -> Tensor:
    """The other tone of a checkered ground `[3]`: away from white, or from black."""
    return rgb + (CONTRAST if rgb.mean() < 0.4 else -CONTRAST)


def checkers(view: Tensor, size: int) -> Tensor:
    """Share of the second tone in each pixel `[f, size, size]`, for views `[f, 3]`. Squares meet at (0, 0)."""
    grid = (torch.arange(size, dtype=torch.float32) + 0.5) / size - 0.5
    scale = view[:, 2:]

    def stripes(centre: Tensor) -> Tensor:
        """-1/2 or 1/2 by turns, with antialiased edges: `[f, size]`."""
        place = (grid / scale + centre[:, None]) / SQUARE
        nearest = place.round()
        sign = 1 - 2 * (nearest % 2)
        return sign * ((place - nearest) * SQUARE * scale * size).clamp(-0.5, 0.5)

    across, along = stripes(view[:, 0]), stripes(view[:, 1])
    return 0.5 + 2 * along[:, :, None] * across[:, None, :]


def draw(clip: Clip, size: int = SIZE) -> Tensor:
    """Render `clip` to frames `[f, 3, size, size]`, float32 0..1, edges antialiased."""
    ground = torch.tensor(clip.background_rgb)
    frames = ground.view(3, 1, 1).expand(len(clip.layers[0].x), 3, size, size)
    if clip.view is not None:
        other = (second_tone(ground) - ground)[:, None, None]
        frames = frames + checkers(torch.tensor(clip.view), size)[:, None] * other
    for layer in clip.layers:
        mask = coverage(layer.shape, torch.tensor(layer.x), torch.tensor(layer.y), torch.tensor(layer.radius), size)
        frames = frames + mask[:, None] * (torch.tensor(layer.rgb)[:, None, None] - frames)
    return frames.clamp(0, 1)


def _uniform(generator: torch.Generator, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return low + (high - low) * torch.rand((), generator=generator).item()


Box = tuple[tuple[float, float], tuple[float, float]]
"""Where a centre may be: bounds of x, bounds of y."""


def box_of(shape: str, radius: float, lane: tuple[float, float] = (0, 1)) -> Box:
    """The places for a thing of this size within `lane`, a part of the width."""
    across, along = (MARGIN + reach * radius for reach in REACH[shape])
    return (lane[0] + across, lane[1] - across), (along, 1 - along)


def near_middle(bounds: tuple[float, float], generator: torch.Generator, share: float = 0.25) -> float:
    """Somewhere in the middle `share` of what there is."""
    low, high = bounds
    aside = (1 - share) / 2 * (high - low)
    return _uniform(generator, (low + aside, high - aside))


def _straight(motion: str, travel: float, box: Box, phase: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x and y `[f]` of a way of length `travel`, or as much of it as there is room for, across the middle of `box`.

    Were it anywhere, the direction would say next to nothing of where the thing is in each frame, and a denoiser, which
    learns words by what they say of the picture, would be long in reading it.
    """
    along, across = box if motion in ("right", "left") else box[::-1]
    travel = min(travel, along[1] - along[0])
    start = near_middle((along[0], along[1] - travel), generator, 0.15)
    run = start + travel * (phase if motion in ("right", "down") else 1 - phase)
    rest = torch.full_like(run, near_middle(across, generator))
    return (run, rest) if motion in ("right", "left") else (rest, run)


def _path(thing: Thing, box: Box, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Centre of the thing in each frame, `[f]` and `[f]`, inside `box`; the motion takes the whole clip.

    Hops begin at about the bottom, turns at about the right. Began they anywhere, the pace would say next to nothing of
    where the thing is in any one frame, and would not be learnt (see `_straight`).
    """
    phase = torch.linspace(0, 1, frames)
    if thing.motion in STRAIGHT:
        return _straight(thing.motion, _uniform(generator, TRAVEL[thing.speed]), box, phase, generator)
    x, y = (torch.full((frames,), near_middle(bounds, generator)) for bounds in box)
    if thing.motion == "bouncing":
        low, high = box[1]
        hops = torch.sin(math.pi * (HOPS[thing.speed] * phase + _uniform(generator, (0.0, LATE)))).abs()
        return x, high - min(0.45, high - low) * hops
    if thing.motion == "orbiting":
        room = min(high - low for low, high in box) / 2
        radius = min(_uniform(generator, (0.17, 0.22)), room)
        turn = 2 * math.pi * (TURNS[thing.speed] * phase + _uniform(generator, (0.0, LATE)))
        x, y = (near_middle((low + radius, high - radius), generator) for low, high in box)
        return x + radius * torch.cos(turn), y + radius * torch.sin(turn)
    return x, y


def _jittered(rgb: tuple[float, float, float], generator: torch.Generator) -> tuple[float, float, float]:
    """The colour with a slight variation."""
    jitter = (0.01 * torch.randn(3, generator=generator)).clamp_(-0.03, 0.03)
    return tuple((torch.tensor(rgb) + jitter).clamp_(0, 1).tolist())


def _layer(thing: Thing, lane: tuple[float, float], radii: tuple[float, float], frames: int,
           generator: torch.Generator) -> Layer:  # fmt: skip
    """One thing of a clip, at a place and with a pace of its own."""
    radius = torch.full((frames,), _uniform(generator, radii))
    if thing.motion in ("growing", "shrinking"):
        smaller, larger = (_uniform(generator, bounds) for bounds in GROWTH)
        factor = torch.linspace(smaller, larger, frames)
        radius = radius * (factor if thing.motion == "growing" else factor.flip(0))
    x, y = _path(thing, box_of(thing.shape, float(radius.max()), lane), frames, generator)
    rgb = _jittered(COLOURS[thing.colour], generator)
    return Layer(thing.shape, tuple(x.tolist()), tuple(y.tolist()), tuple(radius.tolist()), rgb)


def sample_clip(scene: Scene, generator: torch.Generator, frames: int = FRAMES) -> Clip:
    """Draw the free quantities of a clip (places, sizes, pace, slight colour variation) of this scene."""
    ground = _jittered(BACKGROUNDS[scene.background], generator)
    if scene.camera != "fixed":
        return _filmed(scene, ground, frames, generator)
    if len(scene.things) == 1:
        (thing,) = scene.things
        return Clip(scene, (_layer(thing, (0, 1), RADIUS[thing.size], frames, generator),), ground)
    left, right = (
        _layer(thing, lane, RADIUS_OF_TWO, frames, generator)
        for thing, lane in zip(scene.things, ((0, 0.5), (0.5, 1)), strict=True)
    )
    return Clip(scene, (left, right), ground)


def _filmed(scene: Scene, ground: tuple[float, float, float], frames: int, generator: torch.Generator) -> Clip:
    """A thing at rest in the world, about where squares meet, seen by a camera that moves. It stays in the frame."""
    (thing,) = scene.things
    phase = torch.linspace(0, 1, frames)
    radius = _uniform(generator, RADIUS[thing.size])
    world = [_uniform(generator, (-0.2 * SQUARE, 0.2 * SQUARE)) for _ in range(2)]  # of the thing
    x, y = torch.full((2, frames), 0.0), torch.full((2, frames), 0.0)
    kind, way = scene.camera.split()
    if kind == "zoom":
        zoom = _uniform(generator, ZOOM)
        scale = 1 + (zoom - 1) * (phase if way == "in" else 1 - phase)
        aside = [_uniform(generator, (-0.05, 0.05)) for _ in range(2)]
        x, y = (0.5 + scale * offset for offset in aside)
        middle = (torch.full_like(phase, place - by) for place, by in zip(world, aside, strict=True))
        view = torch.stack([*middle, scale])
    else:
        # The thing goes the other way through the frame, and the world with it.
        x, y = _straight(OPPOSITE[way] if way in OPPOSITE else way, _uniform(generator, PAN),
                         box_of(thing.shape, radius), phase, generator)  # fmt: skip
        scale = torch.ones_like(phase)
        view = torch.stack([world[0] + 0.5 - x, world[1] + 0.5 - y, scale])
    layer = Layer(thing.shape, tuple(x.tolist()), tuple(y.tolist()), tuple((radius * scale).tolist()),
                  _jittered(COLOURS[thing.colour], generator))  # fmt: skip
    return Clip(scene, (layer,), ground, tuple(map(tuple, view.T.tolist())))

"""Which clips the model is shown, and how often: one thing, two, a camera that moves, a caption that changes midway.

Nothing held out is ever drawn here, unless asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .scenes import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    FRAMES,
    HELD_OUT_THINGS,
    PACED,
    RADIUS,
    SEEN_THINGS,
    SIZE,
    SIZES,
    SPEEDS,
    STRAIGHT,
    TRAVEL,
    Clip,
    Layer,
    Scene,
    Thing,
    box_of,
    draw,
    near_middle,
    sample_clip,
)
from .shapes import REACH, SHAPES

TWO, FILMED = 0.35, 0.10  # shares of the scenes
HARD, TURNING = 0.5, 0.2  # shares of the changes; the rest are blends


def choose(options, generator: torch.Generator):
    """One of `options`, each as likely."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def chance(probability: float, generator: torch.Generator) -> bool:
    """True with this probability."""
    return torch.rand((), generator=generator).item() < probability


def _thing(generator: torch.Generator, held_out: bool) -> Thing:
    """Colour and shape and motion by turns, each motion and shape as likely as any other."""
    return choose(HELD_OUT_THINGS if held_out else SEEN_THINGS, generator)


def sized(thing: Thing, generator: torch.Generator) -> Thing:
    """The thing with a size and a pace. What is large is never fast: there is no room for it."""
    size = choose(SIZES, generator) if chance(0.6, generator) else "medium"
    speeds = [each for each in SPEEDS if (each, size) != ("fast", "large")]
    paced = thing.motion in PACED and chance(0.6, generator)
    return replace(thing, size=size, speed=choose(speeds, generator) if paced else "medium")


def random_scene(generator: torch.Generator, held_out: bool = False) -> Scene:
    """A scene as training draws it, or, `held_out`, one that it never draws."""
    background = choose(tuple(BACKGROUNDS), generator)
    first = _thing(generator, held_out)
    kind = torch.rand((), generator=generator).item()
    if kind < TWO:
        things = (first, _thing(generator, False))
        return Scene(things if chance(0.5, generator) else things[::-1], background)
    if kind < TWO + FILMED:
        if held_out:  # by its colour: no motion of a thing at rest is
            first = choose([each for each in HELD_OUT_THINGS if each.motion == "still"], generator)
        still = replace(first, motion="still", size=choose(("small", "medium"), generator))
        return Scene((still,), background, choose(CAMERAS[1:], generator))
    return Scene((sized(first, generator),), background)


@dataclass(frozen=True)
class Change:
    """A clip whose caption changes: what it shows at first and at last, and the weight of the latter in each frame."""

    before: Scene
    after: Scene
    weights: tuple[float, ...]

    def backwards(self) -> Change:
        return Change(self.after.backwards(), self.before.backwards(), tuple(1 - w for w in self.weights[::-1]))

    @property
    def reversible(self) -> bool:
        return self.before.reversible and self.after.reversible

    @property
    def held_out(self) -> bool:
        return self.before.held_out or self.after.held_out


def _other(scene: Scene, names: tuple[str, ...], generator: torch.Generator) -> Scene:
    """The scene with these attributes changed to others. Nothing held out."""
    options = {"colour": tuple(COLOURS), "shape": SHAPES, "motion": (*STRAIGHT, "still")}
    while True:
        (thing,), background = scene.things, scene.background
        for name in names:
            if name == "background":
                background = choose([each for each in BACKGROUNDS if each != scene.background], generator)
            else:
                others = [each for each in options[name] if each != getattr(thing, name)]
                thing = replace(thing, **{name: choose(others, generator)})
        if not thing.held_out:
            return Scene((thing,), background)


def random_change(generator: torch.Generator, frames: int = FRAMES) -> Change:
    """A change as training draws it: of looks at one frame, of the way it moves, or of colours little by little."""
    scene = Scene((_thing(generator, False),), choose(tuple(BACKGROUNDS), generator))
    kind = torch.rand((), generator=generator).item()
    at = int(torch.randint(frames // 4, frames - frames // 4 + 1, (), generator=generator))
    hard = tuple(float(i >= at) for i in range(frames))
    if kind < HARD:
        names = tuple(name for name in ("colour", "shape", "background") if chance(0.5, generator))
        return Change(scene, _other(scene, names or ("colour",), generator), hard)
    if kind < HARD + TURNING:
        while True:
            thing = replace(scene.things[0], motion=choose(STRAIGHT, generator))
            if not thing.held_out:
                scene = replace(scene, things=(thing,))
                return Change(scene, _other(scene, ("motion",), generator), hard)
    names = choose((("colour",), ("background",), ("colour", "background")), generator)
    start = int(torch.randint(0, frames // 3, (), generator=generator)) if chance(0.5, generator) else 0
    end = frames - 1 - (int(torch.randint(0, frames // 3, (), generator=generator)) if chance(0.5, generator) else 0)
    weights = tuple(min(1.0, max(0.0, (i - start) / (end - start))) for i in range(frames))
    return Change(scene, _other(scene, names, generator), weights)


def _turning(change: Change, generator: torch.Generator) -> Clip:
    """A thing that moves in one way and then in another, without a jump."""
    (thing,), frames = change.before.things, len(change.weights)
    low, high = TRAVEL["medium"]
    step = (low + (high - low) * torch.rand((), generator=generator).item()) / (FRAMES - 1)
    ways = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
    first, second = (torch.tensor(ways[scene.things[0].motion]) for scene in (change.before, change.after))
    weights = torch.tensor(change.weights[1:])[:, None]  # of the step that leads to each frame
    path = torch.cat([torch.zeros(1, 2), (first * (1 - weights) + second * weights) * step]).cumsum(0)
    low, high = RADIUS["medium"]
    radius = low + (high - low) * torch.rand((), generator=generator).item()
    x, y = (
        way + near_middle((low - float(way.min()), high - float(way.max())), generator)
        for (low, high), way in zip(box_of(thing.shape, radius), path.unbind(1), strict=True)
    )
    still = sample_clip(Scene((replace(thing, motion="still"),), change.before.background), generator, frames)
    layer = Layer(thing.shape, tuple(x.tolist()), tuple(y.tolist()), (radius,) * frames, still.layers[0].rgb)
    return Clip(change.before, (layer,), still.background_rgb)


def draw_change(change: Change, generator: torch.Generator, size: int = SIZE) -> Tensor:
    """Frames `[f, 3, size, size]` of a change: both looks on one track, mixed by the weights."""
    frames = len(change.weights)
    if change.before.things[0].motion != change.after.things[0].motion:
        return draw(_turning(change, generator), size)
    shapes = [scene.things[0].shape for scene in (change.before, change.after)]
    widest = max(shapes, key=lambda shape: max(REACH[shape]))  # leaves room for either
    track = sample_clip(
        replace(change.before, things=(replace(change.before.things[0], shape=widest),)), generator, frames
    )
    mixed: Tensor | float = 0.0
    for scene, weight in ((change.before, [1 - w for w in change.weights]), (change.after, change.weights)):
        looks = sample_clip(scene, generator, frames)
        layer = replace(track.layers[0], shape=scene.things[0].shape, rgb=looks.layers[0].rgb)
        clip = Clip(scene, (layer,), looks.background_rgb)
        mixed = mixed + torch.tensor(weight).view(-1, 1, 1, 1) * draw(clip, size)
    return mixed

"""Read a clip's attributes off its pixels, knowing how the training clips are drawn.

Nothing here is learned. On clips straight from the renderer the answers are right; on generated ones they say whether
the model drew what the prompt asked for, and `shape_iou` how cleanly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clips.scenes import (
    BACKGROUNDS,
    COLOURS,
    CONTRAST,
    PACED,
    RADIUS,
    SIZES,
    Scene,
    Thing,
    second_tone,
)
from ..clips.shapes import SHAPES, coverage
from .parts import COARSE, things_in
from .tracks import camera_of, motion_of

PATCH = 32  # side of the patch a shape is compared in
EXTENT = 1.8  # half the patch, in units of the shape's radius
# How far the colours of things are off the ground's: what is nearer to the ground is not seen, a thing is clear of it.
SEEN, CLEAR = (share * min(math.dist(a, b) for a, b in product(COLOURS.values(), BACKGROUNDS.values()))
               for share in (0.5, 0.75))  # fmt: skip
SIZE_LIMITS = [(RADIUS[a][1] + RADIUS[b][0]) / 2 for a, b in zip(SIZES, SIZES[1:], strict=False)]


@dataclass(frozen=True)
class Track:
    """One thing over the frames: centre and radius of the circle of equal area, in fractions of the side.

    Where the thing is not to be seen, its values are those of the nearest frame in which it is.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    radius: tuple[float, ...]


@dataclass(frozen=True)
class Reading:
    """What was seen: the nearest scene, each thing's track, and how well it fits each shape's template (1: exactly).

    The left thing comes first. Size and speed are "medium" where captions do not tell them.
    """

    scene: Scene
    tracks: tuple[Track, ...]
    shape_iou: tuple[dict[str, float], ...]

    def matches(self, wanted: Scene) -> dict[str, bool]:
        """Which attributes are as wanted, by name; all those of a thing that is missing are not."""
        right = {"count": len(self.scene.things) == len(wanted.things)}
        for side, thing, found in zip(
            ("left ", "right "), wanted.things, self._found(len(wanted.things)), strict=False
        ):
            prefix = side if len(wanted.things) == 2 else ""
            for name in _told(wanted, thing):
                right[prefix + name] = found is not None and getattr(found, name) == getattr(thing, name)
        right["background"] = self.scene.background == wanted.background
        right["camera"] = self.scene.camera == wanted.camera
        return right

    def _found(self, count: int) -> list[Thing | None]:
        """The things to compare with `count` wanted ones: of one the biggest, of two those at the sides."""
        things = self.scene.things
        if not things:
            return [None] * count
        if count == 1:
            return [max(zip(self.tracks, things, strict=True), key=lambda seen: _middle(seen[0].radius))[1]]
        if len(things) == 1:
            return [things[0], None] if _middle(self.tracks[0].x) < 0.5 else [None, things[0]]
        return [things[0], things[-1]]


@dataclass(frozen=True)
class Frame:
    """One frame by itself, colours in 0..1, lengths in fractions of the side; without a thing, no names, radius 0."""

    colour: str
    shape: str
    background: str
    rgb: tuple[float, float, float]
    background_rgb: tuple[float, float, float]
    x: float
    y: float
    radius: float


def _told(scene: Scene, thing: Thing) -> list[str]:
    """The attributes that a thing of this scene has; a camera that moves stands for motion, size and speed."""
    names = ["colour", "shape"]
    if scene.camera == "fixed":
        names.append("motion")
        if len(scene.things) == 1:
            names += ["size"] * (thing.motion not in ("growing", "shrinking")) + ["speed"] * (thing.motion in PACED)
    return names


def _middle(values: tuple[float, ...]) -> float:
    return sorted(values)[len(values) // 2]


def _nearest(colour: Tensor, table: dict[str, tuple[float, float, float]]) -> str:
    distances = (torch.tensor(list(table.values())) - colour).norm(dim=1)
    return list(table)[int(distances.argmin())]


@dataclass(frozen=True)
class _Ground:
    """What things are seen against. tones `[2, 3]`: the squares' two colours, the named one first; alike when plain."""

    name: str
    tones: Tensor
    checkered: bool

    def nearest(self, pixels: Tensor) -> Tensor:
        """The ground's colour nearest to each of `[..., 3]`: one of the tones or, on the squares' edges, between."""
        if not self.checkered:
            return self.tones[0].expand_as(pixels)
        return self.tones[0] + self.share(pixels)[..., None] * (self.tones[1] - self.tones[0])

    def share(self, pixels: Tensor) -> Tensor:
        """How much of each of `[..., 3]` is the second tone, 0..1."""
        axis = self.tones[1] - self.tones[0]
        return ((pixels - self.tones[0]) @ axis / axis.square().sum().clamp(min=1e-6)).clamp(0, 1)


def _off(pixels: Tensor, ground: _Ground) -> Tensor:
    """How far the colours `[..., 3]` are from the ground's."""
    return ((pixels - ground.nearest(pixels)).square() @ torch.ones(3)).sqrt()


def _ground(frames: Tensor) -> _Ground | None:
    """The ground as the border shows it; None when the border is of all colours."""
    wide = max(1, frames.shape[1] // COARSE)
    border = torch.cat([frames[:, :wide].flatten(0, 2), frames[:, -wide:].flatten(0, 2),
                        frames[:, :, :wide].flatten(0, 2), frames[:, :, -wide:].flatten(0, 2)])  # fmt: skip
    light = border.mean(dim=1)
    low, high = light.quantile(torch.tensor([0.25, 0.75])).tolist()
    if checkered := high - low > CONTRAST / 2:
        dark = light < (low + high) / 2
        name, tones = _nearest_tones(border[dark].median(dim=0).values, border[~dark].median(dim=0).values)
    else:
        tone = border.median(dim=0).values
        name, tones = _nearest(tone, BACKGROUNDS), torch.stack([tone, tone])
    ground = _Ground(name, tones, checkered)
    plain = _off(border, ground) < SEEN
    return ground if plain.float().mean() > 0.5 else None


def _nearest_tones(dark: Tensor, light: Tensor) -> tuple[str, Tensor]:
    """The background whose two tones are nearest to these, and them, its own first."""

    def distance(name: str, tones: Tensor) -> float:
        own = torch.tensor(BACKGROUNDS[name])
        return float((torch.stack([own, second_tone(own)]) - tones).norm())

    orders = torch.stack([dark, light]), torch.stack([light, dark])
    return min(product(BACKGROUNDS, orders), key=lambda option: distance(*option))


@dataclass(frozen=True)
class _Seen:
    """One thing as it was found: its colour `[3]`; of each frame that shows it (`frames`) the mask and the track."""

    rgb: Tensor
    frames: Tensor
    mask: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor

    def iou(self) -> dict[str, float]:
        """Mean intersection over union with each shape's template, each frame centred and scaled by its own track."""
        line = (torch.arange(PATCH) + 0.5) / PATCH * 2 - 1
        offset = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1) * EXTENT
        places = torch.stack([self.x, self.y], dim=1)[:, None, None] + offset * self.radius[:, None, None, None]
        patches = F.grid_sample(self.mask[:, None], places * 2 - 1, align_corners=False)[:, 0]
        middle = torch.tensor([0.5])
        scores = {}
        for shape in SHAPES:
            template = coverage(shape, middle, middle, torch.tensor([0.5 / EXTENT]), PATCH)
            union = torch.maximum(patches, template).sum((1, 2))
            scores[shape] = (torch.minimum(patches, template).sum((1, 2)) / union).mean().item()
        return scores

    def track(self, frames: int) -> Track:
        """The track over all frames of a clip."""
        nearest = (torch.arange(frames)[:, None] - self.frames).abs().argmin(dim=1)
        return Track(*(tuple(values[nearest].tolist()) for values in (self.x, self.y, self.radius)))


def _resized(pixels: Tensor, size: int) -> Tensor:
    return F.interpolate(pixels[:, None].float(), size=(size, size), mode="nearest")[:, 0] > 0


def _look(frames: Tensor, ground: _Ground, pixels: Tensor) -> _Seen:
    """The thing in `frames` that has these `pixels` `[f, n, n]` of their reductions."""
    shown = pixels.flatten(1).any(dim=1).nonzero()[:, 0]
    frames, pixels = frames[shown], pixels[shown].float()
    size = frames.shape[1]
    around = _resized(F.max_pool2d(pixels, 3, 1, 1), size)
    core = _resized(1 - F.max_pool2d(1 - pixels, 3, 1, 1), size)  # free of the blended edge
    rgb = frames[core if core.any() else around].median(dim=0).values
    axis = rgb - ground.nearest(rgb)
    mask = ((frames - ground.nearest(frames)) @ axis / axis.square().sum().clamp(min=1e-6)).clamp(0, 1) * around
    weight = torch.where(mask > 0.25, mask, torch.zeros_like(mask))  # free of what noise leaves
    total = weight.sum((1, 2)).clamp(min=1e-6)
    grid = (torch.arange(size) + 0.5) / size
    x, y = ((weight.sum(side) * grid).sum(1) / total for side in (1, 2))
    return _Seen(rgb, shown, mask, x, y, (total / (size * size * math.pi)).sqrt())


def _find(frames: Tensor) -> tuple[_Ground | None, list[_Seen], Tensor]:
    """The ground, the things before it, and where neither is: the bare ground's pixels `[f, n, n]` of reductions."""
    ground = _ground(frames)
    if ground is None:
        return None, [], torch.zeros(len(frames), COARSE, COARSE, dtype=torch.bool)
    small = _reduced(frames)
    off = _off(small, ground)
    seen = off > SEEN
    found = [_look(frames, ground, pixels) for pixels in things_in(seen, off > CLEAR)]
    return ground, found, F.max_pool2d(seen.float(), 3, 1, 1) == 0


def _reduced(frames: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(frames.permute(0, 3, 1, 2), COARSE).permute(0, 2, 3, 1)


def _thing(seen: _Seen, iou: dict[str, float], frames: int, alone: bool, moving_camera: bool) -> Thing:
    """The nearest thing; before a camera that moves, one at rest."""
    motion, speed, size = "still", "medium", "medium"
    if not moving_camera:
        motion, speed = motion_of(seen.x, seen.y, seen.radius, seen.frames / max(1, frames - 1))
        if alone and motion not in ("growing", "shrinking"):
            size = SIZES[sum(float(seen.radius.median()) > limit for limit in SIZE_LIMITS)]
    return Thing(_nearest(seen.rgb, COLOURS), max(iou, key=iou.get), motion, size, speed if alone else "medium")


def read(frames: Tensor) -> Reading:
    """Read a clip: `frames` `[f, h, w, 3]` in 0..1, of any square size. What shows nothing has no things."""
    frames = frames.float()
    ground, found, bare = _find(frames)
    if ground is None:
        return Reading(Scene((), _nearest(frames.flatten(0, 2).median(dim=0).values, BACKGROUNDS)), (), ())
    camera = "fixed"
    if ground.checkered:
        camera = camera_of((2 * ground.share(_reduced(frames)) - 1) * bare)
    scores = tuple(seen.iou() for seen in found)
    things = (_thing(seen, iou, len(frames), len(found) == 1, camera != "fixed")
              for seen, iou in zip(found, scores, strict=True))  # fmt: skip
    tracks = tuple(seen.track(len(frames)) for seen in found)
    return Reading(Scene(tuple(things), ground.name, camera), tracks, scores)


def read_frames(frames: Tensor) -> list[Frame]:
    """Read each of `frames` `[f, h, w, 3]` in 0..1 by itself: its biggest thing, and the ground."""
    return [_read_frame(frame[None]) for frame in frames.float()]


def _read_frame(frame: Tensor) -> Frame:
    ground, found, _ = _find(frame)
    if ground is None or not found:
        tone = frame.flatten(0, 2).median(dim=0).values if ground is None else ground.tones[0]
        grey = tuple(tone.tolist())
        return Frame("", "", _nearest(tone, BACKGROUNDS), grey, grey, 0.5, 0.5, 0.0)
    seen = max(found, key=lambda each: float(each.radius))
    iou = seen.iou()
    return Frame(_nearest(seen.rgb, COLOURS), max(iou, key=iou.get), ground.name, tuple(seen.rgb.tolist()),
                 tuple(ground.tones[0].tolist()), float(seen.x), float(seen.y), float(seen.radius))  # fmt: skip

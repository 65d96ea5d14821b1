"""Does the model follow a prompt that changes midway, at once or little by little? Answers read frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import permutations, product
from pathlib import Path

import torch

from ...checkpoints import Bundled
from ..clips.captions import plain_caption
from ..clips.scenes import BACKGROUNDS, COLOURS, FRAMES, STRAIGHT, Scene, Thing
from ..clips.shapes import SHAPES
from .detect import Frame, read_frames
from .evaluate import Settings, generate_changing, in_order, shifted
from .measures import spearman
from .sheets import film_strip
from .wordings import evenly, mixed

AT = FRAMES // 2  # the first frame of the prompt after a switch
EACH = 5  # switches of each kind
BLENDED = 10  # blends of each kind
ENOUGH = 400  # pairs to choose from
FIRST_SWITCH, FIRST_BLEND = 3000, 4000  # seeds
CLEAR = 0.3  # between a thing's colour and its ground's, all the way of a blend: else there is nothing to be read
KINDS = ("colour", "shape", "background")
TWO_KINDS = (("colour", "shape"), ("colour", "background"), ("shape", "background"))


@dataclass(frozen=True)
class Change:
    """Two scenes of one thing that differ in the attributes `changed` alone, and the seed of the clip."""

    before: Scene
    after: Scene
    changed: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Switch:
    """A clip whose prompt changes at frame `AT`. right: which attributes were seen to change within one frame of it."""

    change: Change
    right: dict[str, bool]
    strip: bytes

    @property
    def all_right(self) -> bool:
        return all(self.right.values())


@dataclass(frozen=True)
class Blend:
    """A clip whose prompt changes evenly. correlation: of the weight with the colour seen, by rank."""

    change: Change
    correlation: float
    strip: bytes


def _value(scene: Scene, name: str) -> str:
    return scene.background if name == "background" else getattr(scene.things[0], name)


def _pairs(changed: tuple[str, ...], count: int, usable: Callable[[Scene, Scene], bool],
           seed: int) -> list[tuple[Scene, Scene]]:  # fmt: skip
    """Pairs of scenes that differ in `changed`, nothing of them held out; all values about equally often."""
    tables = {"colour": COLOURS, "shape": SHAPES, "background": BACKGROUNDS}
    ways = [
        permutations(table, 2) if name in changed else [(one, one) for one in table] for name, table in tables.items()
    ]
    options: list[tuple[Scene, Scene]] = []
    for (*looks, grounds), motion in mixed(product(product(*ways), (*STRAIGHT, "still")), seed):
        if len(options) == ENOUGH:
            break
        first, last = (Scene((Thing(*look, motion),), ground) for *look, ground in zip(*looks, grounds, strict=True))
        if not first.held_out and not last.held_out and usable(first, last):
            options.append((first, last))

    def values(pair: tuple[Scene, Scene]) -> list[tuple[str, str]]:
        said = [(name, _value(scene, name)) for scene in pair for name in tables]
        return [*said, ("motion", pair[0].things[0].motion)]

    return evenly(options, count, values, seed)


def switch_list() -> list[Change]:
    """The fixed switches: a colour, a shape, a background, or two of these at once."""
    wanted = [((name,), EACH) for name in KINDS]
    wanted += [(names, sum(i % len(TWO_KINDS) == place for i in range(EACH))) for place, names in enumerate(TWO_KINDS)]
    found = [(pair, names) for names, count in wanted for pair in _pairs(names, count, lambda a, b: True, len(names))]
    return [Change(*pair, names, FIRST_SWITCH + index) for index, (pair, names) in enumerate(found)]


def _clear(first: Scene, last: Scene) -> bool:
    """True when the thing stands out from its ground all the way."""
    share = torch.linspace(0, 1, FRAMES)[:, None]
    things, grounds = (
        torch.lerp(torch.tensor(table[a]), torch.tensor(table[b]), share)
        for table, a, b in ((COLOURS, first.things[0].colour, last.things[0].colour),
                            (BACKGROUNDS, first.background, last.background))
    )  # fmt: skip
    return bool((things - grounds).norm(dim=1).min() > CLEAR)


def blend_list() -> list[Change]:
    """The fixed blends: of two colours, or of two backgrounds."""
    found = [(pair, (name,)) for name in ("colour", "background") for pair in _pairs((name,), BLENDED, _clear, 1)]
    return [Change(*pair, names, FIRST_BLEND + index) for index, (pair, names) in enumerate(found)]


def switches(path: Path, settings: Settings = Settings(), workers: int = 2,  # noqa: B008 (frozen)
             limit: int | None = None) -> Iterator[Switch]:  # fmt: skip
    """Generate and read the clips of `switch_list`, or the first `limit`, as `evaluate` does."""
    return in_order(path, partial(_switch, settings=settings), shifted(switch_list()[:limit], settings), workers)


def blends(path: Path, settings: Settings = Settings(), workers: int = 2,  # noqa: B008 (frozen)
           limit: int | None = None) -> Iterator[Blend]:  # fmt: skip
    """Generate and read the clips of `blend_list`, or the first `limit`, as `evaluate` does."""
    return in_order(path, partial(_blend, settings=settings), shifted(blend_list()[:limit], settings), workers)


def _generated(bundled: Bundled, change: Change, weights: list[float], settings: Settings) -> torch.Tensor:
    texts = (plain_caption(scene) for scene in (change.before, change.after))
    return generate_changing(bundled, *texts, weights, change.seed, settings)


def _switch(bundled: Bundled, change: Change, settings: Settings) -> Switch:
    frames = _generated(bundled, change, [float(index >= AT) for index in range(FRAMES)], settings)
    return Switch(change, switched(read_frames(frames), change), film_strip(frames))


def switched(seen: list[Frame], change: Change) -> dict[str, bool]:
    """Of each changed attribute, whether the frames show the first value up to two before `AT` and the second from one
    after it on."""
    return {
        name: all(getattr(frame, name) == _value(change.before, name) for frame in seen[: AT - 1])
        and all(getattr(frame, name) == _value(change.after, name) for frame in seen[AT + 1 :])
        for name in change.changed
    }


def _blend(bundled: Bundled, change: Change, settings: Settings) -> Blend:
    weights = torch.linspace(0, 1, FRAMES).tolist()
    frames = _generated(bundled, change, weights, settings)
    return Blend(change, spearman(weights, places(read_frames(frames), change)), film_strip(frames))


def places(seen: list[Frame], change: Change) -> list[float]:
    """How far the blended colour of each frame has come on the line from the first, 0, to the second, 1."""
    (name,) = change.changed
    table = COLOURS if name == "colour" else BACKGROUNDS
    first, last = (torch.tensor(table[_value(scene, name)]) for scene in (change.before, change.after))
    line = last - first
    colours = torch.tensor([frame.rgb if name == "colour" else frame.background_rgb for frame in seen])
    return ((colours - first) @ line / line.square().sum()).tolist()

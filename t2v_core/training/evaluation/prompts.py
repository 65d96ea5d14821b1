"""The evaluation's prompts: a list that is fixed for ever, in `prompts.json`, and how it was made.

`python -m t2v_core.training.evaluation.prompts` writes the file again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from ..clips.captions import DRAWN, HELD_OUT, Caption, Wording, everything
from ..clips.scenes import (
    BACKGROUNDS,
    CAMERAS,
    FRAMES,
    HELD_OUT_THINGS,
    LONGER,
    PACED,
    SEEN_THINGS,
    SIZES,
    SPEEDS,
    Scene,
    Thing,
)
from .free_prompts import HAND_MADE, free_prompts
from .wordings import Wordings, evenly

PROMPTS_PATH = Path(__file__).parent / "prompts.json"
FIRST_SEED = 1000
SETS = {"held out": 400, "seen": 100, "free": 100, "two": 200, "camera": 84, "longer": 60}
# Drawn in training; they say where things are, some the right one first.
RELATIONS = ("{a} to the left of {b}", "{b} to the right of {a}", "on the right {b} and on the left {a}",
             "{b} on the right, {a} on the left", "{a} on the left and {b} on the right")  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """A prompt, the scene that it asks for, and the fields (of `captions.fields`) that its words say."""

    set: str
    text: str
    scene: Scene
    said: frozenset[str]
    frames: int
    seed: int

    @property
    def judged(self) -> frozenset[str]:
        """What is said, and the count, by the names that `Reading.matches` has for it."""
        fields = self.said | {"count"}
        if len(self.scene.things) == 1:
            return fields
        sides = {name: f"left {name}" for name in ("colour", "shape", "motion")}
        sides |= {f"second {name}": f"right {name}" for name in sides}
        return frozenset(sides.get(field, field) for field in fields)


def load_prompts(path: Path = PROMPTS_PATH) -> dict[str, list[Prompt]]:
    """The list, by set."""
    sets: dict[str, list[Prompt]] = {}
    for entry in json.loads(path.read_text(encoding="utf-8")):
        things = tuple(Thing(*names) for names in entry.pop("things"))
        scene = Scene(things, entry.pop("background"), entry.pop("camera"))
        prompt = Prompt(scene=scene, said=frozenset(entry.pop("said")), **entry)
        sets.setdefault(prompt.set, []).append(prompt)
    return sets


def _line(prompt: Prompt) -> str:
    scene = prompt.scene
    things = [[each.colour, each.shape, each.motion, each.size, each.speed] for each in scene.things]
    entry = {"set": prompt.set, "seed": prompt.seed, "frames": prompt.frames, "text": prompt.text, "things": things,
             "background": scene.background, "camera": scene.camera, "said": sorted(prompt.said)}  # fmt: skip
    return json.dumps(entry, ensure_ascii=False)


def write_prompts(path: Path = PROMPTS_PATH) -> Path:
    """Make the list and write it, a prompt a line; replaces the file. The same bytes each time."""
    lines, seed = [], FIRST_SEED
    for name, make in MAKERS.items():
        for scene, caption in make(SETS[name]):
            frames = LONGER if name == "longer" else FRAMES
            lines.append(_line(Prompt(name, caption.text, scene, caption.said, frames, seed)))
            seed += 1
    path.write_bytes(("[\n" + ",\n".join(lines) + "\n]\n").encode())
    return path


def _values(scene: Scene) -> list[tuple[str, ...]]:
    """What is to come evenly often: every value that the scene has."""
    values: list[tuple[str, ...]] = [("background", scene.background), ("camera", scene.camera)]
    for thing in scene.things:
        values += [("colour", thing.colour), ("shape", thing.shape), ("motion", thing.motion), ("size", thing.size)]
        # Motions without a pace have the size in its place, or they would come less often for having one value alone.
        values.append(("pace", thing.motion, thing.speed if thing.motion in PACED else thing.size))
    return values


def _ones(things: tuple[Thing, ...], count: int, seed: int) -> list[Scene]:
    """Scenes of one of these things, with sizes and paces as there are in training: what is large is never fast."""
    options = [
        Scene((replace(thing, size=size, speed=speed),), background)
        for thing, background, size, speed in product(things, BACKGROUNDS, SIZES, SPEEDS)
        if (size, speed) != ("large", "fast") and (speed == "medium" or thing.motion in PACED)
    ]
    return evenly(options, count, _values, seed)


def _looks(thing: Thing) -> list[tuple[str, str]]:
    return [("colour", thing.colour), ("shape", thing.shape), ("motion", thing.motion)]


def _twos(count: int, held_out: int, seed: int) -> list[Scene]:
    """Scenes of two things, the first `held_out` of them with one that is held out, on the left and right by turns."""
    odd = evenly(HELD_OUT_THINGS, held_out, _looks, seed)
    pairs = list(zip(odd, evenly(SEEN_THINGS, held_out, _looks, seed + 1), strict=True))
    pairs = [pair if index % 2 else pair[::-1] for index, pair in enumerate(pairs)]
    rest = (evenly(SEEN_THINGS, count - held_out, _looks, seed + place) for place in (2, 3))
    pairs += zip(*rest, strict=True)
    grounds = evenly(tuple(BACKGROUNDS), count, lambda name: [name], seed + 4)
    return [Scene(pair, ground) for pair, ground in zip(pairs, grounds, strict=True)]


def _filmed(count: int, seed: int) -> list[Scene]:
    """Scenes of one thing at rest that a camera moves over, as there are in training."""
    still = tuple(thing for thing in SEEN_THINGS if thing.motion == "still")
    options = [
        Scene((replace(thing, size=size),), background, camera)
        for thing, background, size, camera in product(still, BACKGROUNDS, ("small", "medium"), CAMERAS[1:])
    ]
    return evenly(options, count, _values, seed)


Made = list[tuple[Scene, Caption]]


def _plain(scenes: list[Scene]) -> Made:
    return [(scene, everything(scene)) for scene in scenes]


def _worded(scenes: list[Scene], wording: Wording, seed: int) -> Made:
    wordings = Wordings(seed)
    return [(scene, wordings.caption(scene, wording)) for scene in scenes]


def _by_turns(*parts: Made) -> Made:
    """One of each, and again; the parts may differ in length by one."""
    return [part[row] for row in range(len(parts[0])) for part in parts if row < len(part)]


def _held_out(count: int) -> Made:
    return _worded(_ones(HELD_OUT_THINGS, count, 1), HELD_OUT, 1)


def _seen(count: int) -> Made:
    return _plain(_ones(SEEN_THINGS, count, 2))


def _free(count: int) -> Made:
    return free_prompts(_ones(SEEN_THINGS, count - len(HAND_MADE), 3), 3)


def _two(count: int) -> Made:
    scenes = _twos(count, 3 * count // 10, 4)
    relations = replace(DRAWN, two=RELATIONS)
    return _by_turns(_plain(scenes[0::3]), _worded(scenes[1::3], HELD_OUT, 4), _worded(scenes[2::3], relations, 5))


def _camera(count: int) -> Made:
    scenes = _filmed(count, 6)
    return _by_turns(_plain(scenes[0::2]), _worded(scenes[1::2], HELD_OUT, 6))


def _longer(count: int) -> Made:
    scenes = _ones(SEEN_THINGS, count // 2, 7) + _twos(count // 3, 0, 8) + _filmed(count // 6, 13)
    return _by_turns(_plain(scenes[0::2]), _worded(scenes[1::2], HELD_OUT, 7))


MAKERS = {"held out": _held_out, "seen": _seen, "free": _free, "two": _two, "camera": _camera, "longer": _longer}

if __name__ == "__main__":
    print(write_prompts())

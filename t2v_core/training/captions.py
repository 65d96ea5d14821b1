"""Captions of the training clips: synonyms and word orders, with attributes sometimes left unsaid."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from .shapes import Attributes

COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "yellow": ("yellow", "golden"),
    "orange": ("orange", "tangerine"),
    "purple": ("purple", "violet"),
    "cyan": ("cyan", "turquoise", "teal"),
    "pink": ("pink", "rose"),
}
SHAPE_WORDS = {
    "circle": ("circle", "ball", "disc", "disk", "dot"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "wedge"),
    "star": ("star", "asterisk"),
}
BACKGROUND_WORDS = {
    "white": ("white", "snowy"),
    "black": ("black",),
    "gray": ("gray", "grey"),
    "navy": ("navy", "midnight"),
    "beige": ("beige", "sand", "cream"),
}
# The first is the plain caption's. Each stands after "a red circle" as it is: "moving up", "moves up", "that rises".
_GOING = ("moving", "moves", "move", "going", "goes", "heading", "heads", "sliding", "slides", "drifting", "drifts",
          "travelling", "travels", "gliding", "glides", "flying", "flies", "is moving", "is going",
          "that moves")  # fmt: skip


def _towards(*ends: str) -> tuple[str, ...]:
    return tuple(f"{verb} {end}" for end in ends for verb in _GOING)


MOTION_PHRASES = {
    "right": ("moving left to right", *_towards("right", "to the right", "rightward", "rightwards", "left to right",
                                                "from left to right", "towards the right")),
    "left": ("moving right to left", *_towards("left", "to the left", "leftward", "leftwards", "from right to left",
                                               "right to left", "towards the left")),
    "up": ("moving up", *_towards("up", "upward", "upwards", "to the top"), "rising", "rises", "ascending", "ascends",
           "climbing", "climbs", "floating up", "is rising", "that rises"),
    "down": ("moving down", *_towards("down", "downward", "downwards", "to the bottom"), "falling", "falls",
             "descending", "descends", "sinking", "sinks", "dropping", "drops", "is falling", "that falls"),
    "growing": ("growing", "grows", "is growing", "that grows", "getting bigger", "gets bigger", "getting larger",
                "gets larger", "expanding", "expands", "swelling", "swells", "inflating", "inflates",
                "growing larger"),
    "shrinking": ("shrinking", "shrinks", "is shrinking", "that shrinks", "getting smaller", "gets smaller",
                  "contracting", "contracts", "deflating", "deflates", "growing smaller"),
    "bouncing": ("bouncing", "bounces", "is bouncing", "that bounces", "hopping", "hops", "jumping", "jumps",
                 "bouncing up and down", "jumping up and down", "moving up and down"),
    "orbiting": ("orbiting", "orbits", "is orbiting", "that orbits", "moving in a loop", "moves in a loop",
                 "going around", "goes around", "revolving", "revolves", "going round and round", "circling",
                 "moving in circles"),
    "still": ("staying still", "stays still", "standing still", "stands still", "not moving", "still", "motionless",
              "static", "stationary", "resting", "rests", "at rest", "sitting still", "that does not move", "is still"),
}  # fmt: skip

# {o} is the object with its colour, {m} what it does, {g} the background; each may be missing.
TEMPLATES = (
    "a {o} {m} on a {g} background",
    "{o} {m} on a {g} background",
    "the {o} {m} on {g} background",
    "a {o} {m}, {g} background",
    "a {o} on a {g} background {m}",
    "on a {g} background a {o} {m}",
    "{g} background, {o} {m}",
    "a video of a {o} {m} against a {g} background",
    "a {o} {m} in front of a {g} backdrop",
    "a {g} scene with a {o} {m}",
    "one {o} {m} over {g}",
)
# The same without a background.
BARE = ("a {o} {m}", "{o} {m}", "the {o} {m}", "a video of a {o} {m}", "an animation of a {o} {m}", "one {o} {m}")
FILLER = ("a", "the", "small", "simple", "nice", "please", "show", "me", "clip", "of", "with", "and", "slowly",
          "smoothly")  # fmt: skip
NAMES = tuple(field.name for field in fields(Attributes))


@dataclass(frozen=True)
class Caption:
    """A caption and which attributes it mentions."""

    text: str
    said: frozenset[str]


def plain_caption(attributes: Attributes) -> str:
    """The one fixed wording: "a red circle moving left to right on a white background"."""
    article = "an" if attributes.colour[0] in "aeiou" else "a"
    motion = MOTION_PHRASES[attributes.motion][0]
    return f"{article} {attributes.colour} {attributes.shape} {motion} on a {attributes.background} background"


def _choose(options, generator: torch.Generator):
    return options[int(torch.randint(len(options), (), generator=generator))]


def free_caption(attributes: Attributes, generator: torch.Generator) -> Caption:
    """A wording drawn at random; the colour, shape, motion or background is left out now and then, words are added."""
    chances = {"colour": 0.06, "shape": 0.06, "motion": 0.08, "background": 0.15}
    draws = torch.rand(len(NAMES), generator=generator).tolist()
    said = frozenset(name for name, draw in zip(NAMES, draws, strict=True) if draw >= chances[name])
    shape = _choose(SHAPE_WORDS[attributes.shape] if "shape" in said else ("shape", "thing"), generator)
    colour = _choose(COLOUR_WORDS[attributes.colour], generator) if "colour" in said else ""
    motion = _choose(MOTION_PHRASES[attributes.motion], generator) if "motion" in said else ""
    ground = _choose(BACKGROUND_WORDS[attributes.background], generator)
    template = _choose(TEMPLATES if "background" in said else BARE, generator)
    text = template.format(o=f"{colour} {shape}".strip(), m=motion, g=ground)
    words = text.replace(" ,", ",").split()
    while torch.rand((), generator=generator).item() < 0.12:
        # An unknown word beside known ones, or an empty one, must not matter.
        extra = "qqq" if torch.rand((), generator=generator).item() < 0.6 else _choose(FILLER, generator)
        words.insert(int(torch.randint(len(words) + 1, (), generator=generator)), extra)
    return Caption(" ".join(words), said)


def vocabulary() -> list[str]:
    """Every word a caption may hold, sorted, without duplicates; ids are given by the tokenizer."""
    texts = [*TEMPLATES, *BARE, *FILLER, "shape", "thing", "an"]
    for table in (COLOUR_WORDS, SHAPE_WORDS, BACKGROUND_WORDS, MOTION_PHRASES):
        texts += [phrase for phrases in table.values() for phrase in phrases]
    cleaned = " ".join(texts).replace("{o}", " ").replace("{m}", " ").replace("{g}", " ").replace(",", " ")
    return sorted(set(cleaned.split()))

"""Captions of the training clips: synonyms and word orders, with attributes sometimes left unsaid.

Some wordings are kept out of training, to see whether the model reads what it was not shown: the `HELD_OUT_` tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .mixture import chance, choose
from .scenes import PACED, Scene, Thing

COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet", "ruby"),
    "green": ("green", "emerald", "lime"),
    "blue": ("blue", "azure", "cobalt"),
    "yellow": ("yellow", "golden", "lemon"),
    "orange": ("orange", "tangerine"),
    "purple": ("purple", "violet", "lilac"),
    "cyan": ("cyan", "turquoise", "teal"),
    "pink": ("pink", "rose", "magenta"),
}
SHAPE_WORDS = {
    "circle": ("circle", "ball", "disc", "disk", "dot", "sphere"),
    "square": ("square", "box", "block", "cube"),
    "triangle": ("triangle", "wedge", "pyramid"),
    "star": ("star", "asterisk", "starfish"),
}
BACKGROUND_WORDS = {
    "white": ("white", "snowy", "bright"),
    "black": ("black", "dark"),
    "gray": ("gray", "grey"),
    "navy": ("navy", "midnight"),
    "beige": ("beige", "sand", "cream"),
}
# The first is the plain caption's. Each stands after "a red circle" as it is: "moving up", "moves up", "that rises".
_GOING = ("moving", "moves", "move", "going", "goes", "heading", "heads", "sliding", "slides", "drifting", "drifts",
          "travelling", "travels", "gliding", "glides", "flying", "flies", "is moving", "is going",
          "that moves")  # fmt: skip


# Verbs that are never drawn with a "rightwards" or the like: what "heading rightwards" means must be put together.
_NOT_WITH_WARDS = ("heading", "heads", "drifting", "drifts", "gliding", "glides")


def _towards(*ends: str) -> tuple[str, ...]:
    return tuple(f"{verb} {end}" for end in ends for verb in _GOING
                 if not (verb in _NOT_WITH_WARDS and end.endswith(("ward", "wards"))))  # fmt: skip


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

SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
SPEED_WORDS = {
    "slow": ("slowly", "gently", "lazily", "at a slow pace"),
    "fast": ("quickly", "fast", "rapidly", "swiftly", "at high speed"),
}
_FILMING = ("the camera {}s", "camera {}ing", "a camera that {}s", "the camera is {}ing", "{}ing", "{}")


def _filming(verb: str, *ways: str) -> tuple[str, ...]:
    """The first is the plain caption's: "the camera pans left"."""
    said = [f"{phrase.format(verb)} {way}" for way in ways for phrase in _FILMING]
    return tuple(phrase.replace("paning", "panning") for phrase in said)


CAMERA_PHRASES = {
    **{f"pan {way}": _filming("pan", way, f"to the {way}" if way in ("left", "right") else f"{way}wards")
       for way in ("left", "right", "up", "down")},
    "zoom in": (*_filming("zoom", "in"), "moving closer", "the camera moves closer", "dolly in"),
    "zoom out": (*_filming("zoom", "out"), "pulling back", "the camera pulls back", "dolly out"),
}  # fmt: skip

# {a} is a thing and what it does, {g} the background. The lists of the held-out wordings are never drawn in training.
ONE = ("{a}", "a video of {a}", "an animation of {a}", "a clip of {a}", "show me {a}", "there is {a}")
HELD_OUT_ONE = ("please make {a}", "i would like {a}", "now {a} appears")
# {a} is the left thing, {b} the right one.
TWO = (
    "{a} and {b}",
    "{a} and {b}",
    "{a} on the left and {b} on the right",
    "on the left {a}, on the right {b}",
    "{a} to the left of {b}",
    "{b} to the right of {a}",
    "on the right {b} and on the left {a}",
    "{a} next to {b}",
    "{a} beside {b}",
    "{a}, {b}",
    "two shapes: {a} and {b}",
    "left: {a}, right: {b}",
    "{b} on the right, {a} on the left",
    "a video of {a} and {b}",
    "{a} while {b}",
    "{a} with {b} on the right",
)
HELD_OUT_TWO = ("show me {a} and {b}", "at left {a} and at right {b}", "two things, {a} and {b}")
GROUND = (
    "{s} on a {g} background",
    "{s} on {g} background",
    "{s}, {g} background",
    "on a {g} background {s}",
    "{g} background, {s}",
    "{s} against a {g} background",
    "{s} in front of a {g} backdrop",
    "in front of a {g} backdrop {s}",
    "a {g} scene with {s}",
    "{s} over {g}",
    "over {g} {s}",
    "{s}, the background is {g}",
)
HELD_OUT_GROUND = ("{s} in a {g} scene", "against a {g} backdrop {s}")
CAMERA = (
    "{s}, {c}",
    "{s}, {c}",
    "{c}, {s}",
    "{s} while {c}",
    "{s} and {c}",
    "{s} as {c}",
    "{c} over {s}",
    "{c} on {s}",
)
HELD_OUT_CAMERA = ("{s}. {c}", "{s} with {c}")
ANYTHING = ("shape", "thing", "object", "something")
FILLER = ("a", "the", "simple", "nice", "please", "show", "me", "clip", "of", "with", "and", "smoothly", "flat",
          "it", "then", "make", "there", "very")  # fmt: skip
LONGEST = 30  # words; what a chunk of the text encoder holds
UNKNOWN = "qqq"  # any word that is not in the vocabulary
# Words that may be missing: then what is said is told by the others, in whatever sentence.
LOOSE = {
    "a",
    "an",
    "the",
    "one",
    "on",
    "background",
    "backdrop",
    "scene",
    "video",
    "animation",
    "clip",
    "of",
    "show",
    "me",
    "there",
    "is",
    "with",
    "in",
    "front",
    "against",
    "over",
    "while",
    "as",
    "shapes",
    "next",
    "beside",
}


def fields(scene: Scene) -> dict[str, str]:
    """Everything a caption may say of a scene, by field; "none" of a second thing that is not there."""
    first = scene.things[0]
    second = scene.things[1] if len(scene.things) == 2 else None
    return {
        "count": str(len(scene.things)),
        "colour": first.colour,
        "shape": first.shape,
        "motion": first.motion,
        "size": first.size,
        "speed": first.speed,
        "second colour": second.colour if second else "none",
        "second shape": second.shape if second else "none",
        "second motion": second.motion if second else "none",
        "background": scene.background,
        "camera": scene.camera,
    }


@dataclass(frozen=True)
class Caption:
    """A caption and which fields of the scene it mentions."""

    text: str
    said: frozenset[str]


@dataclass(frozen=True)
class Wording:
    """Sentences to draw a caption from."""

    one: tuple[str, ...] = ONE
    two: tuple[str, ...] = TWO
    ground: tuple[str, ...] = GROUND
    camera: tuple[str, ...] = CAMERA


DRAWN = Wording()
HELD_OUT = Wording(HELD_OUT_ONE, HELD_OUT_TWO, HELD_OUT_GROUND, HELD_OUT_CAMERA)
LEFT_OUT = {"colour": 0.05, "shape": 0.05, "motion": 0.06, "size": 0.1, "speed": 0.1, "background": 0.12}


def plain_caption(scene: Scene) -> str:
    """The one fixed wording: "a small red circle moving left to right slowly on a white background"."""

    def described(thing: Thing) -> str:
        size = "" if thing.size == "medium" else f"{thing.size} "
        article = "an" if (size or thing.colour)[0] in "aeiou" else "a"
        motion = "" if scene.camera != "fixed" else f" {MOTION_PHRASES[thing.motion][0]}"
        pace = "" if thing.speed == "medium" else f" {SPEED_WORDS[thing.speed][0]}"
        return f"{article} {size}{thing.colour} {thing.shape}{motion}{pace}"

    camera = "" if scene.camera == "fixed" else f", {CAMERA_PHRASES[scene.camera][0]}"
    return f"{' and '.join(map(described, scene.things))} on a {scene.background} background{camera}"


def _describe(thing: Thing, second: bool, filmed: bool, generator: torch.Generator) -> tuple[str, set[str]]:
    """One thing in words, and the fields that they say. A word may be garbled: then its field is not said."""
    said: set[str] = set()

    def word(field: str, words: tuple[str, ...], otherwise: str = "") -> str:
        draw = torch.rand((), generator=generator).item()
        if draw < LEFT_OUT[field]:
            return otherwise
        if draw > 0.98:
            return UNKNOWN
        said.add(f"second {field}" if second else field)
        return choose(words, generator)

    size = word("size", SIZE_WORDS[thing.size]) if thing.size != "medium" else ""
    colour = word("colour", COLOUR_WORDS[thing.colour])
    shape = word("shape", SHAPE_WORDS[thing.shape], choose(ANYTHING, generator))
    parts = [choose(("a", "a", "a", "one", "the", ""), generator), size, colour, shape]
    if not filmed or chance(0.2, generator):
        motion = word("motion", MOTION_PHRASES[thing.motion])
        pace = ""
        if thing.motion in PACED and thing.speed != "medium" and motion not in ("", UNKNOWN):
            pace = word("speed", SPEED_WORDS[thing.speed])
        parts += [motion, pace] if chance(0.6, generator) else [pace, motion]
    return " ".join(filter(None, parts)), said


def free_caption(scene: Scene, generator: torch.Generator, wording: Wording = DRAWN) -> Caption:
    """A wording drawn at random; what it might say is left out now and then, words that say nothing are added."""
    filmed = scene.camera != "fixed"
    texts, said = [], {"count"}
    for place, thing in enumerate(scene.things):
        text, fields_said = _describe(thing, place == 1, filmed, generator)
        texts.append(text)
        said |= fields_said
    sentences = wording.two if len(texts) == 2 else wording.one
    text = choose(sentences, generator).format(a=texts[0], b=texts[-1])
    if not chance(LEFT_OUT["background"], generator):
        said.add("background")
        text = choose(wording.ground, generator).format(s=text, g=choose(BACKGROUND_WORDS[scene.background], generator))
    if filmed:
        said.add("camera")
        text = choose(wording.camera, generator).format(s=text, c=choose(CAMERA_PHRASES[scene.camera], generator))
    words = [word for word in text.replace(",", " , ").split() if word not in LOOSE or not chance(0.06, generator)]
    words = [UNKNOWN if word in LOOSE and chance(0.04, generator) else word for word in words]
    if chance(0.1, generator) and len(words) + 4 <= LONGEST:  # "i would like to see ..."
        words[:0] = [UNKNOWN if chance(0.7, generator) else choose(FILLER, generator)
                     for _ in range(1 + int(torch.randint(4, (), generator=generator)))]  # fmt: skip
    while chance(0.12, generator) and len(words) < LONGEST:
        # An unknown word beside known ones, or an empty one, must not matter.
        extra = UNKNOWN if chance(0.6, generator) else choose(FILLER, generator)
        words.insert(int(torch.randint(len(words) + 1, (), generator=generator)), extra)
    return Caption(" ".join(words), frozenset(said))


def everything(scene: Scene) -> Caption:
    """The plain caption: it says all there is to say."""
    said = {"count", "colour", "shape", "background"}
    said |= {f"second {field}" for field in ("colour", "shape", "motion") if len(scene.things) == 2}
    said |= {"motion"} if scene.camera == "fixed" else {"camera"}
    return Caption(
        plain_caption(scene), frozenset(said | {n for n in ("size", "speed") if fields(scene)[n] != "medium"})
    )


def vocabulary() -> list[str]:
    """Every word a caption drawn in training may hold, sorted, without duplicates; ids are given by the tokenizer."""
    # Not those of the held-out wordings alone: an unknown word says nothing, one never trained says anything.
    texts = [*ONE, *TWO, *GROUND, *CAMERA, *ANYTHING, *FILLER, "a an one the"]
    for table in (COLOUR_WORDS, SHAPE_WORDS, SIZE_WORDS, SPEED_WORDS, BACKGROUND_WORDS, MOTION_PHRASES, CAMERA_PHRASES):
        texts += [phrase for phrases in table.values() for phrase in phrases]
    for mark in ("{a}", "{b}", "{s}", "{g}", "{c}", ",", ".", ":"):
        texts = [text.replace(mark, " ") for text in texts]
    return sorted(set(" ".join(texts).split()))

"""Prompts as people type them: unknown and misspelt words, capitals, punctuation, phrases that training left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..clips.captions import DRAWN, HELD_OUT, Caption
from ..clips.scenes import SIZES, Scene, Thing
from .wordings import Wordings, mixed

# A prompt, and what it says: of each thing the colour, shape and motion, in that order, then size and pace if it says
# them; the background; what the camera does. A ? is what no known word says, and is not judged.
HAND_MADE = (
    # A verb with an end that training never gave it.
    ("crimson ball heading rightwards", "red circle right on ?"),
    ("emerald cube drifting downwards, sand background", "green square down on beige"),
    ("A golden starfish glides leftwards on a midnight background.", "yellow star left on navy"),
    ("TURQUOISE PYRAMID HEADS UPWARDS!!!", "cyan triangle up on ?"),
    ("lilac wedge gliding rightward against a snowy backdrop", "purple triangle right on white"),
    ("a rose box that heads leftward over grey", "pink square left on gray"),
    # Words that are misspelt, or stand for nothing that it was taught.
    ("a purpel trianglle sinking over grey", "? ? down on gray"),
    ("gren circle growing on black background", "? circle growing on black"),
    ("a yelow ball bouncing rapidly on grey background", "? circle bouncing fast on gray"),
    ("a red squar that is still, navy background", "red ? still on navy"),
    ("blue triangel swiftly falling on a cream background", "blue ? down fast on beige"),
    ("a cyan star whirling on a beige background", "cyan star ? on beige"),
    ("a magenta hexagon resting on white", "pink ? still on white"),
    ("a silver ball drops in a dark scene", "? circle down on black"),
    ("a large violet cube doing somersaults against a midnight backdrop", "purple square ? large on navy"),
    ("an orange disk going to the right on a chocolate background", "orange circle right on ?"),
    ("a smal green star climbs, whiet background", "green star up on ?"),
    # Orders and sentences of their own.
    ("against a beige backdrop a ruby wedge expands", "red triangle growing on beige"),
    ("now a tangerine block appears, sliding to the left, in a bright scene", "orange square left on white"),
    ("I'd like an azure asterisk that falls in a dark scene", "blue star down on black"),
    ("in a grey scene a lime dot jumps", "green circle bouncing on gray"),
    ("moving to the right: a cobalt disk, on a white background", "blue circle right on white"),
    ("slowly rising, a lemon star. Background: black", "yellow star up slow on black"),
    ("Quickly! A violet star falls! Midnight background!", "purple star down fast on navy"),
    ("dark background. pink triangle. still.", "pink triangle still on black"),
    ("white background | green star | moving left", "green star left on white"),
    ("huge orange disc, at rest, beige background", "orange circle still large on beige"),
    ("little teal wedge, descending gently, over sand", "cyan triangle down small slow on beige"),
    ("red,square,moving,down,black,background", "red square down on black"),
    ("cyan-square-moving-up-on-a-white-background", "cyan square up on white"),
    ("rEd CiRcLe gRoWiNg On WhItE", "red circle growing on white"),
    # Words around it.
    ("Please, please: one tiny scarlet dot that falls -- slowly!", "red circle down small slow on ?"),
    ("masterpiece, best quality, 8k, a pink box bouncing, dark background, trending", "pink square bouncing on black"),
    ("the the the red square is the thing that shrinks, very very nice", "red square shrinking on ?"),
    ("what if a tiny green triangle were just hopping along on a navy background?",
     "green triangle bouncing small on navy"),
    ("Once upon a time there was a blue box, falling, falling, on a cream background", "blue square down on beige"),
    ("🔴 scarlet ball ➜ shrinking ➜ snowy background 🎈", "red circle shrinking on white"),
    # Two things, and a camera that moves.
    ("a ruby ball heading rightwards and an emerald box drifting upwards, midnight background",
     "red circle right and green square up on navy"),
    ("An unbelievably shiny pink cube resting beside an extremely dull orange ball bouncing, dark background",
     "pink square still and orange circle bouncing on black"),
    ("two friends: a golden disc that falls and a cobalt star that rises, gray background",
     "yellow circle down and blue star up on gray"),
    ("Zoom in on a lemon disc, black background.", "yellow circle ? on black, zoom in"),
    ("the camera pulls back, a lilac star, grey background", "purple star ? on gray, zoom out"),
    ("green star on a white background, camera panning leftwards", "green star ? on white, pan left"),
)  # fmt: skip
# Words that say nothing, none of them in the vocabulary.
CHATTER = (
    "cinematic", "gorgeous", "dreamy", "tonight", "actually", "whimsical", "4k", "quality", "somewhere", "basically",
    "wonderful", "handmade", "really", "mysterious", "professional", "shiny", "honestly", "epic", "quite", "delicate",
    "render", "vintage", "again", "charming", "detailed", "perhaps", "ancient", "friendly", "unreal", "minimalist",
)  # fmt: skip
MISSPELT = ("colour", "shape", "motion", "background", "size")


def _read_thing(text: str) -> tuple[Thing, set[str]]:
    """The thing and the fields that are said of it; what is not said is as good as anything."""
    colour, shape, motion, *rest = text.split()
    given = {"colour": colour, "shape": shape, "motion": motion}
    for word in rest:
        given["size" if word in SIZES else "speed"] = word
    said = {field: value for field, value in given.items() if value != "?"}
    return Thing(**{"colour": "red", "shape": "circle", "motion": "still", **said}), set(said)


def read_spec(spec: str) -> tuple[Scene, frozenset[str]]:
    """The scene that the second half of a hand-made prompt describes, and the fields that are said."""
    spec, _, camera = spec.partition(", ")
    things, _, background = spec.partition(" on ")
    read = [_read_thing(text) for text in things.split(" and ")]
    said = {"count"} | {
        f"second {field}" if place else field for place, (_, named) in enumerate(read) for field in named
    }
    said |= ({"background"} if background != "?" else set()) | ({"camera"} if camera else set())
    scene = Scene(tuple(thing for thing, _ in read), background.replace("?", "white"), camera or "fixed")
    return scene, frozenset(said)


def _garbled(scene: Scene, index: int, wordings: Wordings) -> tuple[Scene, Caption]:
    """A caption with a misspelt word, with one to four unknown ones, or with both, by turns; some in capitals."""
    thing = scene.things[0]
    misspelt = MISSPELT[index // 3 % len(MISSPELT)] if index % 3 != 1 else None
    if misspelt == "size" and thing.size == "medium":
        misspelt = "colour"
    if misspelt == "motion":
        scene = replace(scene, things=(replace(thing, speed="medium"),))
    caption = wordings.caption(scene, (DRAWN, HELD_OUT)[index % 2], misspelt)
    words = caption.text.split()
    for extra in range(1 + index // 3 % 4 if index % 3 else 0):
        words.insert((5 * index + 7 * extra) % (len(words) + 1), wordings.turn(CHATTER))
    text = " ".join(words)
    dressed = (text, text.capitalize() + ".", text.upper(), text + "!!")[index % 4]
    return scene, Caption(dressed, caption.said)


def free_prompts(scenes: Sequence[Scene], seed: int) -> list[tuple[Scene, Caption]]:
    """The hand-made prompts, then one garbled caption for each of `scenes` of one thing."""
    found = []
    for text, spec in HAND_MADE:
        scene, said = read_spec(spec)
        found.append((scene, Caption(text, said)))
    wordings = Wordings(seed)
    return found + [_garbled(scene, index, wordings) for index, scene in enumerate(mixed(scenes, seed))]

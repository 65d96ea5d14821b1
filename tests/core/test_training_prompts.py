"""The evaluation's prompts: the list is what its maker makes, even, held out where it says so, and fits the encoder."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

import pytest

from t2v_core.text import WordTokenizer
from t2v_core.text.tokenizer import UNKNOWN
from t2v_core.training.clips import captions
from t2v_core.training.clips.captions import DRAWN, HELD_OUT, plain_caption, vocabulary
from t2v_core.training.clips.scenes import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    FRAMES,
    LONGER,
    MOTIONS,
    PACED,
    SEEN_THINGS,
    SIZES,
    SPEEDS,
    Scene,
    Thing,
)
from t2v_core.training.clips.shapes import SHAPES
from t2v_core.training.evaluation.free_prompts import CHATTER, HAND_MADE, read_spec
from t2v_core.training.evaluation.prompts import FIRST_SEED, PROMPTS_PATH, SETS, Prompt, load_prompts, write_prompts
from t2v_core.training.evaluation.wordings import Wordings, evenly, misspell
from t2v_core.training.text import LENGTH

SETS_OF_PROMPTS = load_prompts()
EVERY = [prompt for prompts in SETS_OF_PROMPTS.values() for prompt in prompts]


def values(name: str, attribute: str) -> Counter:
    """How often each value is asked for in a set."""
    scenes = [prompt.scene for prompt in SETS_OF_PROMPTS[name]]
    if attribute in ("background", "camera"):
        return Counter(getattr(scene, attribute) for scene in scenes)
    return Counter(getattr(thing, attribute) for scene in scenes for thing in scene.things)


def test_the_file_is_what_its_maker_makes(tmp_path):
    assert write_prompts(tmp_path / "prompts.json").read_bytes() == PROMPTS_PATH.read_bytes()


def test_the_sets_have_their_sizes_and_the_seeds_count_up():
    assert {name: len(prompts) for name, prompts in SETS_OF_PROMPTS.items()} == SETS
    assert [prompt.seed for prompt in EVERY] == list(range(FIRST_SEED, FIRST_SEED + len(EVERY)))
    assert {prompt.frames for prompt in EVERY if prompt.set != "longer"} == {FRAMES}
    assert {prompt.frames for prompt in SETS_OF_PROMPTS["longer"]} == {LONGER}
    assert len({prompt.text for prompt in EVERY if prompt.set != "longer"}) == len(EVERY) - SETS["longer"]


def test_held_out_prompts_ask_for_what_is_never_drawn_in_words_never_drawn():
    for prompt in SETS_OF_PROMPTS["held out"]:
        assert prompt.scene.held_out and len(prompt.scene.things) == 1 and prompt.scene.camera == "fixed"
        assert any(
            prompt.text.startswith(start) or f" {start}" in prompt.text for start in ("please make", "i would", "now a")
        )
    for field in fields(captions.Wording):
        assert not set(getattr(HELD_OUT, field.name)) & set(getattr(DRAWN, field.name))


def test_the_other_sets_ask_for_what_is_drawn_but_for_60_of_two_things():
    held_out = {name: sum(p.scene.held_out for p in prompts) for name, prompts in SETS_OF_PROMPTS.items()}
    assert held_out == {"held out": 400, "seen": 0, "free": 0, "two": 60, "camera": 0, "longer": 0}
    assert all(prompt.text == plain_caption(prompt.scene) for prompt in SETS_OF_PROMPTS["seen"])


def test_no_prompt_asks_for_what_is_large_and_fast():
    """There is no room for it, so it is not drawn either."""
    assert ("large", "fast") not in {(thing.size, thing.speed) for prompt in EVERY for thing in prompt.scene.things}


@pytest.mark.parametrize(
    ("name", "attribute", "table", "least"),
    [
        ("held out", "colour", COLOURS, 40),
        ("held out", "shape", SHAPES, 95),
        ("held out", "motion", MOTIONS, 40),
        ("held out", "background", BACKGROUNDS, 80),
        ("held out", "size", SIZES, 130),
        ("seen", "colour", COLOURS, 12),
        ("seen", "shape", SHAPES, 25),
        ("seen", "motion", MOTIONS, 11),
        ("seen", "background", BACKGROUNDS, 20),
        ("seen", "size", SIZES, 33),
        ("free", "colour", COLOURS, 9),
        ("free", "shape", SHAPES, 20),
        ("free", "motion", MOTIONS, 6),
        ("free", "background", BACKGROUNDS, 12),
        ("two", "colour", COLOURS, 45),
        ("two", "shape", SHAPES, 95),
        ("two", "motion", MOTIONS, 40),
        ("two", "background", BACKGROUNDS, 40),
        ("camera", "camera", CAMERAS[1:], 14),
        ("camera", "colour", COLOURS, 10),
        ("camera", "shape", SHAPES, 20),
        ("camera", "background", BACKGROUNDS, 16),
        ("longer", "colour", COLOURS, 8),
        ("longer", "motion", MOTIONS, 5),
    ],
)
def test_every_value_comes_often_enough(name, attribute, table, least):
    counts = values(name, attribute)
    assert set(table) <= set(counts) and min(counts[value] for value in table) >= least, counts


@pytest.mark.parametrize("name", ["held out", "seen"])
def test_paces_come_in_thirds_where_there_are_any(name):
    things = [prompt.scene.things[0] for prompt in SETS_OF_PROMPTS[name]]
    paces = Counter(thing.speed for thing in things if thing.motion in PACED)
    assert min(paces[speed] for speed in SPEEDS) > 0.28 * sum(paces.values()), paces


def test_longer_prompts_are_of_all_kinds():
    kinds = Counter((len(p.scene.things), p.scene.camera != "fixed") for p in SETS_OF_PROMPTS["longer"])
    assert kinds == {(1, False): 30, (2, False): 20, (1, True): 10}


def test_prompts_for_two_say_the_right_one_first_now_and_then():
    reversed_order = sum(
        " and on the left " in p.text or "to the right of" in p.text or p.text.endswith("on the left")
        for p in SETS_OF_PROMPTS["two"]
    )
    assert reversed_order >= 15


def test_every_prompt_fits_one_chunk():
    tokenizer = WordTokenizer(vocabulary())
    assert max(len(tokenizer.words(prompt.text)) for prompt in EVERY) <= LENGTH - 2


def test_what_is_said_is_in_words_that_are_known():
    """Each prompt with everything said has its words in the tables; chatter is unknown to the tokenizer."""
    tokenizer = WordTokenizer(vocabulary())
    assert {tokenizer.words(word)[0] for word in CHATTER} == {UNKNOWN}
    tables = {"colour": captions.COLOUR_WORDS, "shape": captions.SHAPE_WORDS, "size": captions.SIZE_WORDS,
              "speed": captions.SPEED_WORDS}  # fmt: skip
    for prompt in EVERY:
        words = prompt.text.lower().replace("-", " ").replace(",", " ")
        for field, table in tables.items():
            options = table.get(getattr(prompt.scene.things[0], field), ())
            if field in prompt.said:
                assert any(option in words for option in options), (prompt.text, field)
        if "background" in prompt.said:
            assert any(word in words for word in captions.BACKGROUND_WORDS[prompt.scene.background]), prompt.text


def test_only_what_is_said_is_judged():
    red = Thing("red", "circle", "right")
    one = Prompt("x", "", Scene((red,), "white"), frozenset({"colour", "background"}), 16, 0)
    assert one.judged == {"count", "colour", "background"}
    said = frozenset({"colour", "second shape", "second motion", "camera"})
    two = Prompt("x", "", Scene((red, red), "white"), said, 16, 0)
    assert two.judged == {"count", "left colour", "right shape", "right motion", "camera"}


def test_a_hand_made_prompt_means_what_stands_beside_it():
    scene, said = read_spec("? square ? large fast on navy, zoom in")
    assert scene == Scene((Thing("red", "square", "still", "large", "fast"),), "navy", "zoom in")
    assert said == {"count", "shape", "size", "speed", "background", "camera"}
    scene, said = read_spec("red circle right and green star up on ?")
    assert scene.things[1] == Thing("green", "star", "up") and "background" not in said and "second motion" in said
    for _, spec in HAND_MADE:
        scene, said = read_spec(spec)
        assert scene.camera in CAMERAS and scene.background in BACKGROUNDS
        for thing in scene.things:
            assert thing.colour in COLOURS and thing.shape in SHAPES and thing.motion in MOTIONS
            assert thing.size in SIZES and thing.speed in SPEEDS


def test_a_misspelt_word_is_unknown_and_not_said():
    known = frozenset(vocabulary())
    for word in known:
        if len(set(word)) > 1:
            assert misspell(word, known, 3) not in known
    scene = Scene((Thing("blue", "star", "right", speed="slow"),), "white")
    for field in ("colour", "shape", "motion", "background"):
        for seed in range(20):
            caption = Wordings(seed).caption(scene, DRAWN, field)
            assert field not in caption.said and WordTokenizer(vocabulary()).words(caption.text).count(UNKNOWN) == 1
    assert "speed" not in Wordings(0).caption(scene, DRAWN, "motion").said


def test_words_come_by_turns():
    wordings, options = Wordings(0), ("a", "b", "c")
    assert Counter(wordings.turn(options) for _ in range(30)) == {"a": 10, "b": 10, "c": 10}


def test_an_even_choice_uses_every_value_alike():
    chosen = evenly(SEEN_THINGS, 40, lambda thing: [thing.colour, thing.shape], 0)
    assert set(Counter(thing.colour for thing in chosen).values()) == {5}
    assert set(Counter(thing.shape for thing in chosen).values()) == {10}
    assert len(set(chosen)) == 40

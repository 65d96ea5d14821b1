"""parse_emphasis against what ComfyUI's own parser gave for the same prompts (0.3.64), figure by figure."""

import math
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2v_core.text import parse_emphasis
from t2v_core.text.emphasis import remove_embeddings

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
SEGMENTS = [
    ("", []),
    ("red square", [("red square", 1.0)]),
    ("a (red) square", [("a ", 1.0), ("red", 1.1), (" square", 1.0)]),
    ("a (red:1.3) square", [("a ", 1.0), ("red", 1.3), (" square", 1.0)]),
    ("(a (red:1.3) square)", [("a ", 1.1), ("red", 1.3), (" square", 1.1)]),
    ("((a) b:1.5)", [("a", 1.6500000000000001), (" b", 1.5)]),
    ("((red))", [("red", 1.2100000000000002)]),
    ("(((red)))", [("red", 1.3310000000000004)]),
    ("[red]", [("[red]", 1.0)]),
    ("(été 日本:1.2)", [("été 日本", 1.2)]),
    ("(a\nb:1.2)\nc", [("a\nb", 1.2), ("\nc", 1.0)]),
]
ESCAPES = [
    (r"\(red\)", [("(red)", 1.0)]),
    (r"(a \(red\):1.2)", [("a (red)", 1.2)]),
    (r"\\(red)", [("\\(red)", 1.0)]),
    (r"(red\)", [("(red)", 1.0)]),
    (r"(red:1.2\))", [("red:1.2)", 1.1)]),
    (r"(red\:1.2)", [("red\\", 1.2)]),
    (r"(\(:1.3)", [("(", 1.3)]),
]
NUMBERS = [
    ("(a:b:1.2)", [("a:b", 1.2)]),
    ("(:1.3)", [(":1.3", 1.1)]),
    ("((red):1.3)", [("red", 1.4300000000000002)]),
    ("((a:1.2))", [("a", 1.2)]),
    ("((a:1.2) b:0.5)", [("a", 1.2), (" b", 0.5)]),
    ("(red:)", [("red:", 1.1)]),
    ("(red: )", [("red: ", 1.1)]),
    ("(red: 1.3 )", [("red", 1.3)]),
    ("(red:-0.5)", [("red", -0.5)]),
    ("(red:0)", [("red", 0.0)]),
    ("(red:1_0)", [("red", 10.0)]),
    ("(red:1e1)", [("red", 10.0)]),
    ("(red:.5)", [("red", 0.5)]),
    ("(red:1.3.1)", [("red:1.3.1", 1.1)]),
    ("(red:1,3)", [("red:1,3", 1.1)]),
    ("(red:١)", [("red", 1.0)]),
    ("(red:1e999)", [("red", math.inf)]),
]
UNBALANCED = [
    ("()", []),
    ("(())", []),
    (")", [(")", 1.0)]),
    ("(", [("(", 1.0)]),
    (")(", [(")(", 1.0)]),
    ("(red", [("(red", 1.0)]),
    ("red)", [("red)", 1.0)]),
    ("red) (square)", [("red) (square)", 1.0)]),
    ("a)(b)((c)", [("a)(b)(", 1.0), ("c", 1.1)]),
    ("))((a))", [("))((a))", 1.0)]),
    ("(red:1.2", [("(red:1.2", 1.0)]),
    ("(red:1.2))", [("red", 1.2), (")", 1.0)]),
    ("((red:1.2)", [("(red", 1.2)]),
    ("a (red (square) up", [("a ", 1.0), ("(red (square) up", 1.0)]),
    ("a (red (square)", [("a ", 1.0), ("red ", 1.1), ("(square", 1.1)]),
    ("(a (b (c)", [("a ", 1.1), ("(b (c", 1.1)]),
    ("(a (b (c))", [("a ", 1.1), ("b ", 1.2100000000000002), ("(c", 1.2100000000000002)]),
    ("(a) (b)) (c) (d)", [("a", 1.1), (" ", 1.0), ("b", 1.1), (") (c) (d)", 1.0)]),
]


@pytest.mark.parametrize(("prompt", "expected"), SEGMENTS + ESCAPES + NUMBERS + UNBALANCED)
def test_segments_equal_comfyui(prompt, expected):
    assert parse_emphasis(prompt) == expected


def test_nan_is_handed_on_as_in_comfyui():
    [(words, weight)] = parse_emphasis("(red:nan)")
    assert words == "red" and math.isnan(weight)


PROMPTS = (
    st.lists(st.sampled_from(["(", ")", "\\", ":", "1.2", ":1.3)", "a", " b", "\n", "é"])).map("".join) | st.text()
)


@given(PROMPTS)
@PATIENT
def test_any_text_parses_to_segments_with_text_and_a_number(prompt):
    for words, weight in parse_emphasis(prompt):
        assert words and words in prompt.replace("\\(", "(").replace("\\)", ")")
        assert isinstance(weight, float)


@given(st.text().filter(lambda text: ":" not in text), st.floats(allow_nan=False))
@PATIENT
def test_escaped_text_in_brackets_has_the_weight_written(words, weight):
    words = words.replace("\\", "")
    escaped = words.replace("(", r"\(").replace(")", r"\)")
    assert parse_emphasis(f"({escaped}:{weight!r})") == ([(words, weight)] if words else [(f":{weight!r}", 1.1)])


@given(st.integers(0, 40))
@PATIENT
def test_brackets_alone_multiply_by_one_and_a_tenth_each(depth):
    [(words, weight)] = parse_emphasis("(" * depth + "a" + ")" * depth)
    assert words == "a" and weight == pytest.approx(1.1**depth, rel=1e-12)


@pytest.mark.parametrize(
    "prompt",
    [
        "a" * 100_000,
        "(" * 100_000,
        ")" * 100_000,
        "(" * 50_000 + ")" * 50_000,
        "(" * 66_000 + ")" * 33_000,
        "(a:" * 20_000 + "1)" * 20_000,
        "(a:1.1" * 10_000 + ")" * 20_000,
        "\\(" * 50_000,
        ":" * 100_000,
        "(:" + "1" * 99_997 + ")",
    ],
    ids=lambda prompt: prompt[:4],
)
def test_a_hundred_thousand_characters_take_no_time(prompt):
    began = time.process_time()
    parse_emphasis(prompt)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("segment", "pieces", "names"),
    [
        ("red", ["red"], []),
        ("embedding:cat", [], ["cat"]),
        ("red embedding:cat blue up", ["red", " blue up"], ["cat"]),
        ("red\nembedding:cat, blue", ["red", ", blue"], ["cat,"]),
        ("embedding:,cat", ["t"], [",cat"]),
        ("embedding:cat embedding:dog", [], ["cat", "dog"]),
        ("embedding:", [], [""]),
        ("red,embedding:cat", ["red,embedding:cat"], []),
    ],
)
def test_embeddings_are_taken_out(segment, pieces, names):
    assert remove_embeddings(segment) == (pieces, names)

"""chunk, and the way from a prompt to chunks, against what ComfyUI's own tokenizer class gave (0.3.64)."""

import math
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2v_core.errors import T2VError
from t2v_core.text import PromptEncoder, WordTokenizer, chunk

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
TOKENIZER = WordTokenizer("a red green blue square up down t cat".split())

# prompt, ids of each chunk of 9, weights of the words in each chunk
SHORT = [
    ("", [[1, 2, 0, 0, 0, 0, 0, 0, 0]], [[]]),
    ("red square", [[1, 5, 8, 2, 0, 0, 0, 0, 0]], [[1, 1]]),
    ("a red square, going UP!", [[1, 4, 5, 8, 3, 9, 2, 0, 0]], [[1, 1, 1, 1, 1]]),
    ("a (red square:1.5) down (up)", [[1, 4, 5, 8, 10, 9, 2, 0, 0]], [[1, 1.5, 1.5, 1, 1.1]]),
    ("red green blue red green blue (square)", [[1, 5, 6, 7, 5, 6, 7, 8, 2]], [[1, 1, 1, 1, 1, 1, 1.1]]),
]
LONG = [
    ("a b c d e f g h", [[1, 4, 3, 3, 3, 3, 3, 3, 2], [1, 3, 2, 0, 0, 0, 0, 0, 0]], [[1] * 7, [1]]),
    (
        "a b c d e f (red green:1.2)",
        [[1, 4, 3, 3, 3, 3, 3, 2, 0], [1, 5, 6, 2, 0, 0, 0, 0, 0]],
        [[1] * 6, [1.2, 1.2]],
    ),
    ("a b c d e f g (red:1.2)", [[1, 4, 3, 3, 3, 3, 3, 3, 2], [1, 5, 2, 0, 0, 0, 0, 0, 0]], [[1] * 7, [1.2]]),
    (
        "a b c d e f g h i (red:1.2) up",
        [[1, 4, 3, 3, 3, 3, 3, 3, 2], [1, 3, 3, 5, 9, 2, 0, 0, 0]],
        [[1] * 7, [1, 1, 1.2, 1]],
    ),
    (
        "a red green blue up (a a a a a a a a a a:1.2)",
        [[1, 4, 5, 6, 7, 9, 4, 4, 2], [1, 4, 4, 4, 4, 4, 4, 4, 2], [1, 4, 2, 0, 0, 0, 0, 0, 0]],
        [[1, 1, 1, 1, 1, 1.2, 1.2], [1.2] * 7, [1.2]],
    ),
    (
        "(a b c d:0) (e f g) h",
        [[1, 4, 3, 3, 3, 3, 3, 3, 2], [1, 3, 2, 0, 0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 1.1, 1.1, 1.1], [1]],
    ),
]
EMBEDDINGS = [
    ("embedding:cat", [[1, 2, 0, 0, 0, 0, 0, 0, 0]], [[]]),
    ("embedding:cat red square", [[1, 5, 8, 2, 0, 0, 0, 0, 0]], [[1, 1]]),
    ("red embedding:cat, square", [[1, 5, 8, 2, 0, 0, 0, 0, 0]], [[1, 1]]),
    ("red\nembedding:,cat up", [[1, 5, 11, 9, 2, 0, 0, 0, 0]], [[1, 1, 1]]),
    ("a,embedding:cat", [[1, 4, 3, 12, 2, 0, 0, 0, 0]], [[1, 1, 1]]),
    (r"red\(embedding:cat", [[1, 5, 3, 12, 2, 0, 0, 0, 0]], [[1, 1, 1]]),
    ("(red embedding:cat green:1.5)", [[1, 5, 6, 2, 0, 0, 0, 0, 0]], [[1.5, 1.5]]),
    ("(embedding:up:1.5) red", [[1, 5, 2, 0, 0, 0, 0, 0, 0]], [[1]]),
    ("Embedding:up", [[1, 3, 9, 2, 0, 0, 0, 0, 0]], [[1, 1]]),
    ("red  embedding: up down", [[1, 5, 10, 2, 0, 0, 0, 0, 0]], [[1, 1]]),
    (
        "a b c d e f embedding:x, red green",
        [[1, 4, 3, 3, 3, 3, 3, 2, 0], [1, 5, 6, 2, 0, 0, 0, 0, 0]],
        [[1] * 6, [1, 1]],
    ),
]


def chunks_of(prompt, length):
    return PromptEncoder(None, TOKENIZER, length).chunks(prompt)  # chunks need no network


@pytest.mark.parametrize(("prompt", "ids", "weights"), SHORT + LONG + EMBEDDINGS)
def test_chunks_equal_comfyui(prompt, ids, weights):
    chunks = chunks_of(prompt, 9)
    assert [[index for index, _ in pairs] for pairs in chunks] == ids
    assert [[weight for index, weight in pairs if index > 2] for pairs in chunks] == weights
    assert all(weight == 1 for pairs in chunks for index, weight in pairs if index <= 2)


def test_an_ignored_embedding_is_logged_once_for_a_prompt(caplog):
    chunks_of("embedding:cat red embedding:dog", 24)
    assert [record.getMessage() for record in caplog.records] == [
        "this model has no embeddings: ignored 2, the first named 'cat'"
    ]


WEIGHTED = st.tuples(st.integers(3, 99), st.floats(-2, 2))


@given(st.lists(st.lists(WEIGHTED, max_size=40), max_size=12), st.integers(9, 30))
@PATIENT
def test_no_word_is_lost_and_a_short_segment_is_never_broken(segments, length):
    chunks = chunk(segments, length, start=1, end=2, pad=0)
    bodies = []
    for pairs in chunks:
        assert len(pairs) == length and pairs[0] == (1, 1.0)
        stop = pairs.index((2, 1.0))
        assert set(pairs[stop + 1 :]) <= {(0, 1.0)}
        bodies.append(pairs[1:stop])
    assert sum(bodies, []) == sum(segments, [])
    assert len(chunks) == 1 or all(bodies)

    borders, position = set(), 0
    for body in bodies[:-1]:
        position += len(body)
        borders.add(position)
    position = 0
    for segment in segments:
        if len(segment) < 8:
            assert borders.isdisjoint(range(position + 1, position + len(segment)))
        position += len(segment)


@given(st.text(alphabet="ab1 .:()\\\n,'é", max_size=400))
@PATIENT
def test_any_prompt_gives_whole_chunks_with_finite_weights(prompt):
    for pairs in chunks_of(prompt, 24):
        assert len(pairs) == 24
        assert all(0 <= index < TOKENIZER.size and math.isfinite(weight) for index, weight in pairs)


@pytest.mark.parametrize("prompt", ["a" * 100_000, "a " * 50_000, "(a)" * 33_333, " embedding:a" * 8_333])
def test_a_hundred_thousand_characters_take_no_time(prompt):
    began = time.process_time()
    chunks = chunks_of(prompt, 24)
    assert time.process_time() - began < 2
    assert len(chunks) == max(1, -(-len(TOKENIZER.words(prompt.replace("embedding:a", ""))) // 22))


@pytest.mark.parametrize("length", [-1, 0, 2, 8])
def test_a_length_that_no_short_segment_fits_is_refused(length):
    with pytest.raises(T2VError, match=f"length {length} is too short; 9 is the least"):
        chunk([], length, start=1, end=2, pad=0)
    with pytest.raises(T2VError, match="too short"):
        PromptEncoder(None, TOKENIZER, length)

"""WordTokenizer: words to ids."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2v_core.errors import T2VError
from t2v_core.text import WordTokenizer
from t2v_core.text.tokenizer import END, PAD, START, UNKNOWN

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
TOKENIZER = WordTokenizer(["a", "red", "square", "dont", "2"])


def test_the_special_ids_come_first():
    assert (PAD, START, END, UNKNOWN) == (0, 1, 2, 3)
    assert dict(TOKENIZER.ids) == {"a": 4, "red": 5, "square": 6, "dont": 7, "2": 8}
    assert TOKENIZER.size == 9


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("  \n\t,.!", []),
        ("A red Square, 2!", [4, 5, 6, 8]),
        ("red-square_a", [5, 6, 4]),
        ("don't DON’T dont", [7, 7, 7]),
        ("a zebra", [4, 3]),
        ("redsquare", [3]),
        ("日本 red", [5]),
        ("\ud800red\0a", [5, 4]),
    ],
)
def test_words(text, ids):
    assert TOKENIZER.words(text) == ids


@given(st.text())
@PATIENT
def test_any_text_gives_word_ids(text):
    assert all(UNKNOWN <= index < TOKENIZER.size for index in TOKENIZER.words(text))


@pytest.mark.parametrize("entry", ["", "Red", "red square", "don't", "é", "<pad>", "red\n", 7, None])
def test_a_vocabulary_entry_that_is_no_word_is_refused(entry):
    with pytest.raises(T2VError, match="is not a word"):
        WordTokenizer(["a", entry])


def test_a_word_listed_twice_is_refused():
    with pytest.raises(T2VError, match="'red' is listed twice"):
        WordTokenizer(["a", "red", "blue", "red"])

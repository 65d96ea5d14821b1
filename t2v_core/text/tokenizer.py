"""Words to ids: what an encoder asks of a tokenizer, and that of the bundled text encoder."""

import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import Protocol

from ..errors import T2VError

PAD, START, END, UNKNOWN = range(4)
_WORD = re.compile(r"[a-z0-9]+")
_DROP_APOSTROPHES = str.maketrans("", "", "'\N{RIGHT SINGLE QUOTATION MARK}")


class Tokenizer(Protocol):
    """What `PromptEncoder` asks of a tokenizer. start, end, pad: the ids around the words of a chunk."""

    start: int
    end: int
    pad: int

    def words(self, text: str) -> list[int]:
        """The ids of a text, without start and end."""

    def word(self, index: int) -> str:
        """The text of an id, for messages."""


class WordTokenizer:
    """One id a word. A word is a run of `a-z0-9` after lower-casing; `don't` is `dont`; all else only separates words.

    vocabulary: the words, each once, in the order of their ids; the first gets id 4, after PAD, START, END and UNKNOWN.
    Raises T2VError for an entry that could never be met in a text, or that comes twice.

    `ids` is the mapping from word to id, read-only; `size` the number of ids, the four special ones included.
    """

    start, end, pad = START, END, PAD

    def __init__(self, vocabulary: Sequence[str]):
        for word in vocabulary:
            if not isinstance(word, str) or not _WORD.fullmatch(word):
                raise T2VError(f"vocabulary: {word!r} is not a word; a word is letters a-z and digits, in lower case")
        ids = {word: index for index, word in enumerate(vocabulary, start=UNKNOWN + 1)}
        if len(ids) < len(vocabulary):
            twice = next(word for index, word in enumerate(vocabulary, start=UNKNOWN + 1) if ids[word] != index)
            raise T2VError(f"vocabulary: {twice!r} is listed twice; each word must come once")
        self.ids = MappingProxyType(ids)
        self.size = UNKNOWN + 1 + len(ids)
        self._words = {index: word for word, index in ids.items()}

    def words(self, text: str) -> list[int]:
        """The ids of the words of `text`, without START and END; UNKNOWN for a word that is not in the vocabulary."""
        return [self.ids.get(word, UNKNOWN) for word in _WORD.findall(text.lower().translate(_DROP_APOSTROPHES))]

    def word(self, index: int) -> str:
        """The word of an id; `?` for UNKNOWN, nothing for the other special ids."""
        return self._words.get(index, "?" if index == UNKNOWN else "")

"""Prompts in words: the sentences, synonyms and phrases of `captions` by turns, and a word misspelt where asked for."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import torch

from ..clips.captions import (
    BACKGROUND_WORDS,
    CAMERA_PHRASES,
    COLOUR_WORDS,
    MOTION_PHRASES,
    SHAPE_WORDS,
    SIZE_WORDS,
    SPEED_WORDS,
    Caption,
    Wording,
    vocabulary,
)
from ..clips.scenes import Scene, Thing

Option = TypeVar("Option", bound=Hashable)


def mixed(options: Iterable[Option], seed: int) -> list[Option]:
    """The options in an order that looks random and is the same for ever."""
    generator = random.Random(seed)
    return sorted(options, key=lambda option: generator.random())


def evenly(options: Sequence[Option], count: int, values: Callable[[Option], Iterable[Hashable]],
           seed: int) -> list[Option]:  # fmt: skip
    """`count` of the options, each time the one whose `values` were had least often so far."""
    options = mixed(options, seed)
    having = [tuple(values(option)) for option in options]
    columns = {value: place for place, value in enumerate(dict.fromkeys(value for each in having for value in each))}
    table = torch.zeros(len(options), len(columns), dtype=torch.float64)
    places = [(row, columns[value]) for row, each in enumerate(having) for value in each]
    table[tuple(torch.tensor(places).T)] = 1
    cost = torch.arange(len(options), dtype=torch.float64) / len(options)  # of those alike the first
    chosen = []
    for _ in range(count):
        best = int(cost.argmin())
        cost += table @ table[best]
        cost[best] += 1
        chosen.append(options[best])
    return chosen


def misspell(word: str, known: frozenset[str], start: int) -> str:
    """The word with two letters swapped, one doubled or one left out: a word that is not known.

    start: which of these is tried first. Every word of two different letters or more has such a spelling.
    """
    spellings = []
    for at in range(1, len(word)):
        before, here, after = word[: at - 1], word[at - 1 : at + 1], word[at + 1 :]
        spellings += [before + here[::-1] + after, before + here + here[1] + after, before + here[0] + after]
    turned = spellings[start % len(spellings) :] + spellings[: start % len(spellings)]
    return next(each for each in turned if each != word and each not in known)


def _short(phrases: tuple[str, ...]) -> tuple[str, ...]:
    """Those of one word, or else of two: with the last word lost, they say nothing ("moving rihgt")."""
    return tuple(each for each in phrases if " " not in each) or tuple(each for each in phrases if each.count(" ") == 1)


class Wordings:
    """Captions whose words are walked through, each time in another order, so that none comes much more often."""

    def __init__(self, seed: int):
        self._seed = seed
        self._known = frozenset(vocabulary())
        self._left: dict[tuple[str, ...], list[str]] = {}
        self._shuffles = self._misspelt = 0

    def turn(self, options: tuple[str, ...]) -> str:
        """One of these options that has not come since all have."""
        if not self._left.get(options):
            self._shuffles += 1
            self._left[options] = mixed(options, 10_000 * self._seed + self._shuffles)
        return self._left[options].pop()

    def caption(self, scene: Scene, wording: Wording, misspelt: str | None = None) -> Caption:
        """The scene in one of the sentences of `wording`, with all that sets it apart from others said.

        misspelt: the field that a misspelt word stands for; then that is not said. A misspelt motion has no pace.
        """
        said, texts = {"count", "background"}, []
        for place, thing in enumerate(scene.things):
            text, fields = self._thing(thing, scene.camera != "fixed", misspelt if place == 0 else None)
            texts.append(text)
            said |= {f"second {field}" if place else field for field in fields}
        text = self.turn(wording.two if len(texts) == 2 else wording.one).format(a=texts[0], b=texts[-1])
        ground = self.turn(BACKGROUND_WORDS[scene.background])
        if misspelt == "background":
            said.discard("background")
            ground = self._spelt_wrong(ground)
        text = self.turn(wording.ground).format(s=text, g=ground)
        if scene.camera != "fixed":
            said.add("camera")
            text = self.turn(wording.camera).format(s=text, c=self.turn(CAMERA_PHRASES[scene.camera]))
        return Caption(text, frozenset(said))

    def _thing(self, thing: Thing, filmed: bool, misspelt: str | None) -> tuple[str, set[str]]:
        """One thing in words and the fields that they say."""
        said = set()

        def word(field: str, table: dict[str, tuple[str, ...]]) -> str:
            options = table[getattr(thing, field)]
            if field == misspelt:
                return self._spelt_wrong(self.turn(_short(options)))
            said.add(field)
            return self.turn(options)

        parts = [] if thing.size == "medium" else [word("size", SIZE_WORDS)]
        parts += [word("colour", COLOUR_WORDS), word("shape", SHAPE_WORDS)]
        parts.insert(0, "an" if parts[0][0] in "aeiou" else "a")
        if not filmed:
            parts.append(word("motion", MOTION_PHRASES))
            if thing.speed != "medium" and misspelt != "motion":
                parts.append(word("speed", SPEED_WORDS))
        return " ".join(parts), said

    def _spelt_wrong(self, phrase: str) -> str:
        """The phrase with its last word misspelt."""
        self._misspelt += 1
        *before, word = phrase.split()
        return " ".join([*before, misspell(word, self._known, 7 * self._misspelt)])

"""Prompt schedules: which texts, blended how, each frame is conditioned on."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from .blends import Blend, named_blend
from .dialects import DIALECTS, Traits, choose_dialect
from .entries import KEY, PLAIN_END, PLAIN_KEY, Body, Entry, skip_blank
from .evaluate import Clip, select_frames
from .keys import Key, Knot, Place, place_keys, warn_decimals
from .lexer import SMART_QUOTES, Lexer
from .source import NODE_LIMIT, Problem, Slip, Source
from .texts import NOTHING, Text, parse_text

_QUOTE = f"[\"'{SMART_QUOTES}]"
_ENTRY = rf"{KEY}\s*{_QUOTE}"
_STARTS_KEYED = re.compile(rf"{_ENTRY}|{_QUOTE}\s*[-+]?[0-9.:%s]+\s*{_QUOTE}\s*(?::|=|{_QUOTE})|:[-\d.\s]+=\s*\"", re.X)
_STARTS_LIKE_KEY = re.compile(KEY, re.X)
_LATER_ENTRY = re.compile(rf"[,\n]\s*{_ENTRY}", re.X)
_PLAIN = re.compile(rf'{PLAIN_KEY}"(?P<words>[^"\\`]*)"{PLAIN_END}')
_BRACE = re.compile(rf"\{{\s*(?:\}}|\Z|{_QUOTE}|{KEY})", re.X)


class PromptFrame(NamedTuple):
    """A frame's conditioning: `weight` is the share of `after`; `slerp` the way on the sphere, else a straight line."""

    before: str
    after: str
    weight: float
    slerp: bool


@dataclass(frozen=True, eq=False)
class TextTrack:
    """The texts of one polarity over frames: each text once in `texts`, in order of first use.

    `before` and `after` int64 `[f]` are indices into it, `weight` float64 `[f]` is the share of `after`, `slerp` bool
    `[f]`. A frame with one text has the same index twice and weight 0. Weights are in 0..1, but for Bezier curves that
    overshoot.
    """

    texts: tuple[str, ...]
    before: np.ndarray
    after: np.ndarray
    weight: np.ndarray
    slerp: np.ndarray

    def __len__(self) -> int:
        return len(self.before)

    def __getitem__(self, row: int) -> PromptFrame:
        before, after = self.texts[self.before[row]], self.texts[self.after[row]]
        return PromptFrame(before, after, float(self.weight[row]), bool(self.slerp[row]))


class PromptTrack(NamedTuple):
    """What a prompt schedule says for some frames; `keys` int64 `[f]` is the entry each frame's text is from."""

    positive: TextTrack
    negative: TextTrack
    keys: np.ndarray


class Prompt(NamedTuple):
    """The value of an entry: what is wanted and what is not."""

    positive: Text
    negative: Text


@dataclass(frozen=True)
class PromptSchedule:
    """A parsed prompt schedule. `entries` are as written; `before` and `behind` are put around each of them.

    `blend` leads from key to key where an entry names none. `dialect` is the name of the one it is read in, for the
    `reason` given; `warnings` came up in reading.
    """

    text: str
    entries: tuple[Entry[Prompt], ...]
    before: Prompt
    behind: Prompt
    blend: Blend
    dialect: str
    reason: str
    warnings: tuple[Problem, ...] = field(default=(), compare=False)

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys, in the order written."""
        return tuple(entry.key for entry in self.entries)

    def evaluate(
        self,
        num_frames: int,
        fps: float = 8.0,
        *,
        seed: float = 0,
        frames=None,
        variables: Mapping[str, object] | None = None,
        decimals: int = 3,
    ) -> PromptTrack:
        """The texts at each frame of a clip, with their weights.

        `frames` picks some of the clip's frames, by index from 0, in any order; what one of them gets does not depend
        on which others are asked for (the numbering in `texts` does). `seed` is `s`; `variables` has a number, or one a
        frame, for each name the schedule was parsed with; maths in a text is rounded to `decimals` (0 to 15).

        Errors: ScheduleError where no key lies in the clip, or maths is not finite; T2VError for num_frames, fps,
        frames or variables that cannot be.
        """
        if not 0 <= decimals <= 15:
            raise ValueError(f"decimals is {decimals}; it lies between 0 and 15")
        clip = Clip(num_frames, fps, seed, variables)
        wanted = select_frames(frames, num_frames)
        source, knots = self._place(clip)
        starts = np.array([knot.frame for knot in knots])
        segments = np.searchsorted(starts, wanted, "right") - 1
        early, segments = segments < 0, np.maximum(segments, 0)
        weights, slerp = self._weights(knots, starts, wanted, segments)
        weights[early] = 0.0
        index = np.array([knot.index for knot in knots])
        now, then = index[segments], index[np.minimum(segments + 1, len(knots) - 1)]
        maker = _Writer(self, clip, decimals, source)
        tracks = [maker.track(wanted, now, then, weights, slerp, half) for half in ("positive", "negative")]
        source.raise_errors()
        return PromptTrack(*tracks, now)

    def check(self, num_frames: int, fps: float = 8.0, *, seed: float = 0) -> tuple[Problem, ...]:
        """All warnings there are for such a clip: those of reading, and keys that are outside it or meet.

        Raises what `evaluate` does for keys.
        """
        source, _ = self._place(Clip(num_frames, fps, seed))
        return self.warnings + tuple(source.warnings)

    def _place(self, clip: Clip) -> tuple[Source, list[Knot]]:
        source = Source(self.text, limit=4 * len(self.text) + 4)
        return source, place_keys(self.keys, clip, DIALECTS[self.dialect], True, source)

    def _weights(self, knots: list[Knot], starts, frames, segments) -> tuple[np.ndarray, np.ndarray]:
        weights, slerp = np.zeros(len(frames)), np.zeros(len(frames), bool)
        by_blend: dict[Blend, list[int]] = {}
        for segment, knot in enumerate(knots[:-1]):
            blend = self.entries[knot.index].blend or self.blend
            if not knot.held and blend.curve != "hold":
                by_blend.setdefault(blend, []).append(segment)
        for blend, group in by_blend.items():
            mine = np.flatnonzero(np.isin(segments, group))
            start, stop = starts[segments[mine]], starts[segments[mine] + 1]
            weights[mine] = blend.weights((frames[mine] - start) / (stop - start))
            slerp[mine] = blend.slerp
        return weights, slerp


class _Writer:
    """Writes the texts of some frames, each distinct one once."""

    def __init__(self, schedule: PromptSchedule, clip: Clip, decimals: int, source: Source):
        self.schedule, self.clip, self.decimals, self.source = schedule, clip, decimals, source
        self.joiner = DIALECTS[schedule.dialect].joiner

    def track(self, frames, now, then, weights, slerp, half: str) -> TextTrack:
        numbers: dict[str, int] = {}
        before = self.numbers_of(frames, now, half, numbers)
        after, moving = before.copy(), weights != 0
        after[moving] = self.numbers_of(frames[moving], then[moving], half, numbers)
        same = before == after
        return TextTrack(tuple(numbers), before, after, np.where(same, 0.0, weights), slerp & ~same)

    def numbers_of(self, frames: np.ndarray, entries: np.ndarray, half: str, numbers: dict[str, int]) -> np.ndarray:
        """The index in `numbers` of the text that each frame's entry has there; new texts are added."""
        found = np.zeros(len(frames), np.int64)
        order = np.argsort(entries, kind="stable")
        edges = np.flatnonzero(np.diff(entries[order])) + 1
        for mine in np.split(order, edges) if len(order) else ():
            text = self.whole(int(entries[mine[0]]), half)
            constant = text.constant
            if constant is not None:
                found[mine] = numbers.setdefault(constant, len(numbers))
                continue
            written = text.at(frames[mine], self.clip, self.decimals, self.source)
            found[mine] = [numbers.setdefault(words, len(numbers)) for words in written]
        return found

    def whole(self, index: int, half: str) -> Text:
        schedule = self.schedule
        parts = [getattr(prompt, half) for prompt in (schedule.before, schedule.entries[index].value, schedule.behind)]
        whole = Text()
        for part in parts:
            if part.parts:
                whole = whole + Text((self.joiner,)) + part if whole.parts else part
        return whole


def parse_prompts(
    text: str,
    *,
    dialect: str = "auto",
    blend: str | None = None,
    pre_text: str = "",
    app_text: str = "",
    variables: Collection[str] = (),
    limit: int = NODE_LIMIT,
) -> PromptSchedule:
    """Parse a prompt schedule such as `{"0": "a red circle", "30": "a blue circle --neg blurry"}`, or a plain prompt.

    `dialect` is auto, deforum, fizz or ade. `blend` leads from key to key where none is written: hold, linear,
    smoothstep, ease_in, ease_out, ease_in_out or slerp; None leaves it to the dialect. `pre_text` and `app_text` are
    put before and behind every prompt and may have maths and --neg too. `variables` are names that `evaluate` will be
    given values for. `limit` is the largest size in bytes.

    Raises ScheduleError with all mistakes found.
    """
    source = Source(text, limit=limit)
    around = [Source(pre_text, "pre_text", limit), Source(app_text, "app_text", limit)]
    before, behind = (Prompt(*parse_text(part, 0, len(part.text), False, variables)) for part in around)
    source.errors += around[0].errors + around[1].errors
    start = skip_blank(text)
    if _is_keyed(source, start):
        read = partial(_read_prompt, source=source, names=variables)
        body = Body(source, read, _ENTRY, True, _PLAIN, _plain, variables).read()
        entries, traits = tuple(body.entries), body.traits()
    else:
        prompt = Prompt(*parse_text(source, 0, len(text), False, variables))
        entries, traits = (Entry(Key(Place("frame")), prompt),), Traits(True, False)
        source.raise_errors()
    chosen, reason = choose_dialect(dialect, traits)
    warn_decimals([entry.key for entry in entries], chosen, source)
    return PromptSchedule(
        text,
        entries,
        before,
        behind,
        named_blend(blend or chosen.prompt_blend),
        chosen.name,
        reason,
        tuple(source.warnings),
    )


def _is_keyed(source: Source, start: int) -> bool:
    """Whether the text has keys; a plain prompt that begins as if it had is warned of."""
    text = source.text
    if text.startswith("{", start):
        return _BRACE.match(text, start) is not None
    if _STARTS_KEYED.match(text, start):
        return True
    if not _STARTS_LIKE_KEY.match(text, start):
        return False
    if _LATER_ENTRY.search(text, start):
        return True
    source.warn(start, "this looks like a key, but no text in quotes follows: all of it is one prompt")
    return False


def _plain(found: re.Match[str]) -> tuple[Prompt, int] | None:
    words = found["words"]
    if "--neg" in words:
        return None
    return Prompt(Text((words,) if words else ()), NOTHING), found.start("words") - 1


def _read_prompt(lexer: Lexer, source: Source, names: Collection[str]) -> Prompt:
    if lexer.kind == "string":
        prompt = Prompt(*parse_text(source, lexer.start + 1, lexer.stop_at - 1, True, names))
        lexer.advance()
        return prompt
    if lexer.kind == "open":
        raise Slip(lexer.start, "closing quote missing", "a quote inside a text is written \\" + lexer.text[0])
    if lexer.kind == "other" and lexer.text in SMART_QUOTES:
        raise Slip(lexer.start, f"expected a text in quotes, found {lexer.describe()}", 'typographic quotes: write "')
    raise Slip(lexer.start, f"expected a text in quotes, found {lexer.describe()}")

"""Value schedules: a number, or a name such as a sampler's, for each frame."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import isfinite

import numpy as np

from .blends import HOLD, LINEAR, Blend
from .dialects import DIALECTS, Traits, choose_dialect
from .entries import KEY, PLAIN_END, PLAIN_KEY, Body, Entry, skip_blank
from .evaluate import Clip, compute, select_frames
from .expressions import Expression, parse_expression
from .keys import SEPARATOR, Key, Knot, Place, place_keys, warn_decimals
from .lexer import NUMBER, Lexer
from .source import NODE_LIMIT, Problem, Slip, Source
from .texts import decode

_KEYED = re.compile(rf"\{{|(?:[\"'][^\"'\n]{{0,80}}[\"']|[^\"'?,{{}}@\n]{{0,80}})\s*{SEPARATOR}")
_QUOTED = re.compile(r"[(\s]*[\"']")
_NUMERIC = re.compile(rf"\s*[-+]?{NUMBER}\s*")
_PLAIN = re.compile(rf"{PLAIN_KEY}(?:\(\s*(?P<enclosed>[-+]?{NUMBER})\s*\)|(?P<number>[-+]?{NUMBER})){PLAIN_END}")


@dataclass(frozen=True)
class ValueSchedule:
    """A parsed value schedule. `kind` is number or text; an entry's value is a float or an Expression, or a str.

    `dialect` is the name of the one it is read in, for the `reason` given; `warnings` came up in reading.
    """

    text: str
    kind: str
    entries: tuple[Entry, ...]
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
    ):
        """The value at each frame of a clip: float64 `[f]`, or a list of str for a schedule of texts.

        `frames` picks some of the clip's frames, by index from 0, in any order; what one of them gets does not depend
        on which others are asked for. `seed` is `s`. `variables` has a number, or one a frame, for each name that the
        schedule was parsed with. Costs time linear in keys and frames.

        Errors: ScheduleError where no key lies in the clip, or a value at some frame is not a finite number; T2VError
        for num_frames, fps, frames or variables that cannot be.
        """
        clip = Clip(num_frames, fps, seed, variables)
        wanted = select_frames(frames, num_frames)
        source = Source(self.text, limit=4 * len(self.text) + 4)
        knots = place_keys(self.keys, clip, DIALECTS[self.dialect], False, source)
        starts = np.array([knot.frame for knot in knots])
        segments = np.maximum(np.searchsorted(starts, wanted, "right") - 1, 0)
        if self.kind == "text":
            return [self.entries[knots[segment].index].value for segment in segments]
        return _Numbers(self.entries, knots, starts, clip, source).at(wanted, segments)

    def check(self, num_frames: int, fps: float = 8.0, *, seed: float = 0) -> tuple[Problem, ...]:
        """All warnings there are for such a clip: those of reading, and keys that are outside it or meet.

        Raises what `evaluate` does for keys.
        """
        source = Source(self.text, limit=4 * len(self.text) + 4)
        place_keys(self.keys, Clip(num_frames, fps, seed), DIALECTS[self.dialect], False, source)
        return self.warnings + tuple(source.warnings)


class _Numbers:
    """Computes the segments between knots: those from number to number all at once, the others one by one."""

    def __init__(self, entries: tuple[Entry, ...], knots: list[Knot], starts: np.ndarray, clip: Clip, source: Source):
        self.entries, self.knots, self.starts, self.clip, self.source = entries, knots, starts, clip, source
        values = [entries[knot.index].value for knot in knots]
        self.constants = np.array([np.nan if isinstance(value, Expression) else value for value in values])
        self.blends = [self.blend(i) for i in range(len(knots))]
        self.mistakes: dict[int, str] = {}  # by segment, one each

    def value(self, segment: int) -> Expression:
        return self.entries[self.knots[segment].index].value

    def blend(self, segment: int) -> Blend:
        """What leads from this knot to the next. An expression holds by default, that is, it is computed anew."""
        if self.knots[segment].held or segment + 1 == len(self.knots):
            return HOLD
        entry = self.entries[self.knots[segment].index]
        return entry.blend or (HOLD if isinstance(entry.value, Expression) else LINEAR)

    def at(self, frames: np.ndarray, segments: np.ndarray) -> np.ndarray:
        early = frames < self.starts[0]  # before the first knot, what it begins with
        moments = np.where(early, self.starts[0], frames)
        values, blending = self.constants[segments], np.zeros(len(frames), bool)
        order = np.argsort(segments, kind="stable")
        marks = np.searchsorted(segments[order], np.arange(len(self.knots) + 1))
        by_blend: dict[Blend, list[np.ndarray]] = {}
        for segment in np.flatnonzero(np.diff(marks)):
            mine = order[marks[segment] : marks[segment + 1]]
            if np.isnan(self.constants[segment]):
                values[mine] = compute(self.value(segment), self.clip, moments[mine])
            if self.blends[segment] != HOLD:
                by_blend.setdefault(self.blends[segment], []).append(mine)
        self.note(values, frames, segments)  # a blend makes nan of inf
        for blend, groups in by_blend.items():
            mine = np.concatenate(groups)
            mine = mine[~early[mine]]
            blending[mine] = True
            self.mix(values, mine, frames[mine], segments[mine], blend)
        self.note(values, frames, segments)
        self.raise_mistakes()
        return values

    def mix(self, values: np.ndarray, mine: np.ndarray, frames: np.ndarray, segments: np.ndarray, blend: Blend) -> None:
        """Lead the values towards what the next knot begins with."""
        start, stop = self.starts[segments], self.starts[segments + 1]
        targets = self.constants.copy()
        for segment in np.unique(segments) + 1:
            if np.isnan(targets[segment]):
                [targets[segment]] = compute(self.value(segment), self.clip, self.starts[segment : segment + 1])
            if not isfinite(targets[segment]):  # it is the next knot's mistake, not that of the one which leads there
                self.mistake(segment, self.starts[segment], targets[segment])
                targets[segment] = 0.0
        with np.errstate(all="ignore"):
            weights = blend.weights((frames - start) / (stop - start))
            values[mine] += weights * (targets[segments + 1] - values[mine])

    def note(self, values: np.ndarray, frames: np.ndarray, segments: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(values))
        for segment in np.unique(segments[bad]):
            first = bad[segments[bad] == segment][0]
            self.mistake(segment, frames[first], values[first])

    def mistake(self, segment: int, frame: int, value: float) -> None:
        self.mistakes.setdefault(segment, f"this is not a finite number at frame {frame}: {value}")

    def raise_mistakes(self) -> None:
        for segment, message in sorted(self.mistakes.items()):
            self.source.error(self.entries[self.knots[segment].index].at, message)
        self.source.raise_errors()


def parse_values(
    text: str,
    *,
    dialect: str = "auto",
    kind: str = "auto",
    variables: Collection[str] = (),
    limit: int = NODE_LIMIT,
) -> ValueSchedule:
    """Parse a value schedule such as `0:(1.0), 30:(1.0+0.2*sin(2*pi*t/30))`, or a bare number or expression.

    `dialect` is auto, deforum, fizz or ade. `kind` is number, text, or auto: text if some value in quotes is no number.
    `variables` are names that `evaluate` will be given values for. `limit` is the largest size in bytes.

    Raises ScheduleError with all mistakes found.
    """
    source = Source(text, limit=limit)
    start = skip_blank(text)
    keyed = _KEYED.match(text, start) is not None
    if keyed:
        read = partial(_read_value, source=source, names=variables)
        body = Body(source, read, KEY, False, _PLAIN, _plain, variables).read()
        entries, traits = body.entries, body.traits()
    else:
        entries, traits = [_read_bare(source, start, variables)], Traits(False, False)
        source.raise_errors()
    kind, entries = _one_kind(entries, kind, source, variables)
    chosen, reason = choose_dialect(dialect, traits)
    warn_decimals([entry.key for entry in entries], chosen, source)
    return ValueSchedule(text, kind, tuple(entries), chosen.name, reason, tuple(source.warnings))


def _plain(found: re.Match[str]) -> tuple[float, int] | None:
    group = "enclosed" if found["enclosed"] else "number"
    value = float(found[group])
    return (value, found.start(group)) if isfinite(value) else None


def _read_value(lexer: Lexer, source: Source, names: Collection[str]) -> float | Expression | str:
    """A number, an expression, or a text in quotes with or without brackets."""
    if lexer.kind == "end" or lexer.text in (",", "}"):
        raise Slip(lexer.start, f"expected a value, found {lexer.describe()}")
    if not _QUOTED.match(lexer.source, lexer.start):
        expression = parse_expression(lexer, source, names)
        number = expression.number
        return expression if number is None else number
    open_brackets = []
    while lexer.text == "(":
        open_brackets.append(lexer.start)
        lexer.advance()
    if lexer.kind == "open":
        raise Slip(lexer.start, "closing quote missing")
    value = decode(lexer.source, lexer.start + 1, lexer.stop_at - 1, source)
    lexer.advance()
    while open_brackets:
        if lexer.text != ")":
            message = f"expected `)` after the text, found {lexer.describe()}"
            raise Slip(lexer.start, message, 'a quote inside a text is written \\"')
        open_brackets.pop()
        lexer.advance()
    return value


def _read_bare(source: Source, start: int, names: Collection[str]) -> Entry:
    lexer = Lexer(source.text, start)
    at = lexer.start
    value = None
    try:
        if lexer.kind == "end":
            raise Slip(at, "expected a value, found nothing", "for example: 0:(1.0), 30:(2.0)")
        value = _read_value(lexer, source, names)
        if lexer.kind != "end":
            hint = "values at several frames have keys: 0:(1.0), 30:(2.0)" if lexer.text in (",", "@") else ""
            hint = hint or ("is a `*` missing?" if lexer.kind in ("name", "number") or lexer.text == "(" else "")
            raise Slip(lexer.start, f"expected an operator or the end, found {lexer.describe()}", hint)
    except Slip as slip:
        source.error(slip.position, slip.message, slip.hint)
    return Entry(Key(Place("frame"), at=at), value, None, at)


def _one_kind(entries: list[Entry], kind: str, source: Source, names) -> tuple[str, list[Entry]]:
    """Numbers in quotes are numbers in a schedule of numbers; a schedule of texts has nothing but texts in quotes."""
    if kind not in ("auto", "number", "text"):
        raise ValueError(f"kind is {kind!r}; known are auto, number, text")
    texts = [entry for entry in entries if isinstance(entry.value, str)]
    if kind == "auto":
        kind = "number" if all(_NUMERIC.fullmatch(entry.value) for entry in texts) else "text"
    if kind == "text":
        for entry in entries:
            if not isinstance(entry.value, str):
                source.error(entry.at, "expected a text in quotes, as the other values are", 'for example: ("euler")')
            elif entry.blend not in (None, HOLD):
                source.error(entry.at, "a text holds until the next key: it has no other blend")
        source.raise_errors()
        return kind, entries
    if not texts:
        return kind, entries
    entries = [_as_number(entry, source) for entry in entries]
    source.raise_errors()
    return kind, entries


def _as_number(entry: Entry, source: Source) -> Entry:
    """The entry with its value in quotes as a number; a mistake if it is none."""
    if not isinstance(entry.value, str):
        return entry
    if not _NUMERIC.fullmatch(entry.value):
        source.error(entry.at, "expected a number or an expression, found a text in quotes", "take the quotes off")
    elif not isfinite(value := float(entry.value)):
        source.error(entry.at, "this number is too large", "numbers reach to 1.7e308")
    else:
        return Entry(entry.key, value, entry.blend, entry.at)
    return entry

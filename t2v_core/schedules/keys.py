"""Keys: where in a clip a value holds. Read without knowing the clip, placed once its length is known."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from .dialects import Dialect
from .evaluate import Clip, compute
from .expressions import Expression, parse_expression
from .lexer import NUMBER, SMART_QUOTES, Lexer
from .source import Slip, Source

SEPARATOR = r"(?::|(?<![<>!=])=(?!=))"
_LITERAL = re.compile(rf"(?P<sign>[-+]?)(?P<number>{NUMBER})(?P<unit>[%s]?)(?=\s*(?:\Z|:|=(?!=)))")
_RANGE_AHEAD = re.compile(rf"(?:[-+]?{NUMBER}[%s]?)?\s*:\s*(?:[-+]?{NUMBER}[%s]?)?\s*=(?!=)")
_FAR = 2.0**40  # frames are cut to this: no clip is as long


@dataclass(frozen=True)
class Place:
    """One frame, as written. `kind` is frame, decimal (a whole number written with a point), fraction,
    percentage, seconds or expression; `value` is its number, and `from_end` tells that it counts back from the end."""

    kind: str
    value: float = 0.0
    from_end: bool = False
    expression: Expression | None = None

    def frame(self, clip: Clip, dialect: Dialect, prompts: bool, stop: bool = False) -> float:
        """The frame it is in `clip`, perhaps outside; nan or inf if an expression is. `stop` is the end of a range."""
        if self.kind == "expression":
            max_f = clip.num_frames - (not (prompts and dialect.counted_max_f))
            [value] = compute(self.expression, clip, np.zeros(1, np.int64), max_f)
            return float(np.trunc(value + np.copysign(1e-9, value)))
        if self.kind in ("fraction", "percentage") or (
            self.kind == "decimal" and dialect.fractions and self.value <= 1
        ):
            last = clip.num_frames - (not stop)
            return float(min(np.floor(self.value * clip.num_frames + 1e-9), last))
        value = np.floor(self.value * clip.fps + 0.5) if self.kind == "seconds" else self.value
        return clip.num_frames - value if self.from_end else value


@dataclass(frozen=True)
class Key:
    """`place`, or the range from there up to `stop`, which is not in it; `hold` keeps its value up to the next key.

    `at` is its index in the text, and no part of its identity.
    """

    place: Place
    stop: Place | None = None
    hold: bool = False
    at: int = field(default=0, compare=False)

    @property
    def ade_form(self) -> str:
        """What of this key only AnimateDiff-Evolved has, in words; empty for nothing."""
        if self.stop:
            return "ranges such as 0:8"
        if self.hold:
            return "holds such as 8:"
        if self.place.kind == "frame" and self.place.from_end:
            return "keys counted from the end such as -1"
        return "fractions such as 0.5" if self.place.kind == "fraction" else ""


def parse_key(lexer: Lexer, source: Source, names=()) -> Key:
    """Read the key at `lexer` and leave it at the separator behind; a key in quotes may be a range or a hold."""
    start = lexer.start
    if lexer.kind == "string":
        inner = Lexer(lexer.source, start + 1, lexer.stop_at - 1)
        key = _parse_range(inner, source, start, names)
        if inner.kind != "end":
            raise Slip(inner.start, f"expected the end of the key, found {inner.describe()}")
        lexer.advance()
        return key
    if lexer.kind == "open":
        raise Slip(start, "closing quote missing after this key" if ":" in lexer.text else "closing quote missing")
    if lexer.kind == "other" and lexer.text in SMART_QUOTES:
        raise Slip(start, f"expected a key, found {lexer.describe()}", 'typographic quotes: write "')
    if _RANGE_AHEAD.match(lexer.source, start):
        return _parse_range(lexer, source, start, names)
    if lexer.kind == "end" or (lexer.kind == "sign" and lexer.text not in ("(", "-", "+", "~")):
        hint = "one comma too many?" if lexer.text == "," else ""
        raise Slip(start, f"expected a key such as 0, found {lexer.describe()}", hint)
    return Key(_parse_place(lexer, source, names), at=start)


def _parse_range(lexer: Lexer, source: Source, at: int, names) -> Key:
    if lexer.text == ":":
        raise Slip(lexer.start, "a range begins with its first frame", "write 0:8 for the first eight frames")
    if lexer.kind == "end":
        raise Slip(lexer.start, "expected a key such as 0, found nothing between the quotes")
    place = _parse_place(lexer, source, names)
    if lexer.text != ":":
        return Key(place, at=at)
    lexer.advance()
    if lexer.kind == "end" or lexer.text == "=":
        return Key(place, hold=True, at=at)
    return Key(place, _parse_place(lexer, source, names), at=at)


def _parse_place(lexer: Lexer, source: Source, names) -> Place:
    start = lexer.start
    found = _LITERAL.match(lexer.source, start, lexer.stop)
    if found:
        lexer.move_to(found.end())
        return _literal(found["sign"] == "-", found["number"], found["unit"], start)
    expression = parse_expression(lexer, source, names)
    for kind, value, _ in expression.operations:
        if kind == "name" and value in ("t", "sec"):
            source.error(expression.at, f"a key has no `{value}`: it is one frame", "max_f, fps and numbers are known")
            break
    number = expression.number
    if number is not None and number == np.trunc(number):
        return Place("frame", abs(number), number < 0)
    return Place("expression", expression=expression)


def _literal(negative: bool, number: str, unit: str, start: int) -> Place:
    value = float(number)
    if unit == "s":
        return Place("seconds", value, negative and value > 0)
    if unit == "%":
        if negative or value > 100:
            raise Slip(start, "key out of range: a percentage lies between 0% and 100%")
        return Place("percentage", value / 100.0)
    if number.isdigit():
        return Place("frame", value, negative and value > 0)
    if negative and value != 0:
        raise Slip(start, "key out of range: a fraction of the clip lies between 0.0 and 1.0", "-1 is the last frame")
    if value == np.floor(value):
        return Place("decimal", value)
    if value > 1:
        raise Slip(start, "a key is a whole frame, or a fraction of the clip below 1", f"seconds are written {number}s")
    return Place("fraction", value)


@dataclass(frozen=True)
class Knot:
    """At `frame` the key with this `index` begins to hold; `held` overrides its blend."""

    frame: int
    index: int
    held: bool


def place_keys(keys: list[Key], clip: Clip, dialect: Dialect, prompts: bool, source: Source) -> list[Knot]:
    """The keys in the order of frames, ranges as two knots; one beyond the clip is kept last where the dialect has it.

    Keys outside are warned of in `source`. No key inside, or a key that is not finite, is a ScheduleError.
    """
    knots: dict[int, Knot] = {}
    beyond: list[Knot] = []
    ranges: list[tuple[int, int, int]] = []
    frame_of = partial(Place.frame, clip=clip, dialect=dialect, prompts=prompts)
    for index, key in enumerate(keys):
        first, stop = _finite(frame_of(key.place), key, source), None
        if key.stop is not None:
            stop = _finite(frame_of(key.stop, stop=True), key, source)
            first, stop = _order(first, stop, key, source)
            ranges.append((first, stop, index))
        if first >= clip.num_frames:
            beyond.append(Knot(first, index, False))
            continue
        if first < 0:
            source.warn(key.at, f"this key is frame {first}, before the first frame: it is ignored")
            continue
        for knot in _knots(index, key, first, stop):
            if knot.frame in knots and knots[knot.frame].index != index:
                source.warn(key.at, f"another key is frame {knot.frame} too: the last one written counts")
            if knot.frame < clip.num_frames:
                knots[knot.frame] = knot
    source.raise_errors()
    if not knots:
        source.error(keys[0].at, f"no key lies in the clip, which has frames 0 to {clip.num_frames - 1}")
        source.raise_errors()
    _warn_covered(ranges, knots, keys, source)
    return [knots[frame] for frame in sorted(knots)] + _ends(beyond, keys, clip, dialect, prompts, source)


def _knots(index: int, key: Key, first: int, stop: int | None) -> list[Knot]:
    if stop is None or stop - first == 1:
        return [Knot(first, index, key.hold)]
    return [Knot(first, index, True), Knot(stop - 1, index, False)]


def _finite(frame: float, key: Key, source: Source) -> int:
    if not np.isfinite(frame):
        source.error(key.at, f"this key is not a finite number: {frame}")
        return 0
    return int(max(-_FAR, min(_FAR, frame)))


def _order(first: int, stop: int, key: Key, source: Source) -> tuple[int, int]:
    if stop < first:
        source.warn(key.at, f"this range runs backwards, from {first} to {stop}: its ends are exchanged")
        first, stop = stop, first
    return (max(0, first) if stop > 0 else first), max(stop, first + 1)


def _warn_covered(ranges, knots: dict[int, Knot], keys: list[Key], source: Source) -> None:
    if not ranges:
        return
    frames = np.array(sorted(knots))
    for first, stop, index in ranges:
        for frame in frames[np.searchsorted(frames, first) : np.searchsorted(frames, stop)][:3]:
            if knots[int(frame)].index != index:
                other = keys[knots[int(frame)].index]
                source.warn(other.at, f"this key, frame {frame}, lies in the range of another, {first}:{stop}")
                break


def _ends(beyond: list[Knot], keys, clip: Clip, dialect: Dialect, prompts: bool, source: Source) -> list[Knot]:
    """The knot past the end that the dialect keeps, if any; the others are warned of."""
    keeps = dialect.prompts_beyond if prompts else dialect.values_beyond
    beyond.sort(key=lambda knot: (knot.frame, -knot.index))
    for position, knot in enumerate(beyond):
        past = f"this key is frame {knot.frame}, past the last frame, {clip.num_frames - 1}"
        if position or not keeps:
            source.warn(keys[knot.index].at, f"{past}: it is ignored")
        elif knot.frame > clip.num_frames:
            source.warn(keys[knot.index].at, f"{past}: the clip ends on the way to it")
    return beyond[:1] if keeps else []


def warn_decimals(keys: list[Key], dialect: Dialect, source: Source) -> None:
    """Say so where the key 1.0 is frame 1 and not the end."""
    for key in keys:
        if key.place.kind == "decimal" and key.place.value == 1 and not dialect.fractions:
            source.warn(key.at, "1.0 is frame 1 here, not the end of the clip", "write 100% for the end")

"""The texts of prompt schedules: escapes, maths between backticks, `--neg`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from .evaluate import Clip, compute
from .expressions import Expression, parse_expression
from .lexer import Lexer
from .source import Slip, Source

_PIECE = re.compile(r"[^\\`]+|\\u[0-9a-fA-F]{4}|\\.|`|\\", re.DOTALL)
_ESCAPES = {'\\"': '"', "\\'": "'", "\\\\": "\\", "\\/": "/", "\\n": "\n", "\\r": "\r", "\\t": "\t"}
_ESCAPES |= {"\\b": "\b", "\\f": "\f", "\\`": "`"}
_NEGATIVE = re.compile(r"--neg(?![\w-])")

Part = str | Expression


@dataclass(frozen=True)
class Text:
    """A text of words and maths, in order: `parts` is str and Expression. Without Expression it is the same always."""

    parts: tuple[Part, ...] = ()

    @property
    def constant(self) -> str | None:
        """The text, or None if there is maths in it."""
        return None if any(isinstance(part, Expression) for part in self.parts) else "".join(self.parts)

    def __add__(self, other: Text) -> Text:
        return Text(self.parts + other.parts)

    def strip(self) -> Text:
        """Without white space at its ends."""
        parts = list(self.parts)
        for end, method in ((0, str.lstrip), (-1, str.rstrip)):
            while parts and isinstance(parts[end], str):
                parts[end] = method(parts[end])
                if parts[end]:
                    break
                parts.pop(end)
        return Text(tuple(parts))

    def at(self, frames: np.ndarray, clip: Clip, decimals: int, source: Source) -> list[str]:
        """The text at each of `frames`, numbers rounded to `decimals`; a number that is not finite is noted there."""
        columns = []
        for part in self.parts:
            if isinstance(part, str):
                columns.append([part] * len(frames))
                continue
            values = compute(part, clip, frames)
            if (bad := np.flatnonzero(~np.isfinite(values))).size:
                frame, value = frames[bad[0]], values[bad[0]]
                source.error(part.at, f"this is not a finite number at frame {frame}: {value}")
                values = np.zeros(len(frames))
            columns.append([write_number(value, decimals) for value in values.tolist()])
        return ["".join(row) for row in zip(*columns, strict=True)] if columns else [""] * len(frames)


NOTHING = Text()


def write_number(value: float, decimals: int) -> str:
    """Rounded half to even, without trailing zeros, exponents or a minus before zero: 0.5, 1, -2.25."""
    written = f"{value:.{decimals}f}"
    if "." in written:
        written = written.rstrip("0").rstrip(".")
    return "0" if written == "-0" else written


def decode(text: str, start: int, stop: int, source: Source) -> str:
    """The characters between two quotes, JSON's escapes read; other backslashes stay, as does the character after."""
    raw = text[start:stop]
    if "\\" not in raw:
        return raw
    read = "".join(_escape(piece) for piece in _PIECE.findall(raw))
    return _join_surrogates(read, start, source)


def _escape(piece: str) -> str:
    if piece.startswith("\\u") and len(piece) == 6:
        return chr(int(piece[2:], 16))
    return _ESCAPES.get(piece, piece)


def _join_surrogates(text: str, at: int, source: Source) -> str:
    """JSON writes characters beyond U+FFFF as two escapes."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        source.error(at, "half of a surrogate pair: characters beyond \\uffff are written as two escapes, or directly")
        return ""


def parse_text(source: Source, start: int, stop: int, quoted: bool, names: Collection[str]) -> tuple[Text, Text]:
    r"""The positive and the negative text that stand in `start..stop` of `source`.

    `quoted`: JSON's escapes are read. Else all characters stand for themselves, but \` is a backtick in either.
    """
    halves: list[list[Part]] = [[]]
    position = start
    while position < stop:
        found = _PIECE.match(source.text, position, stop)
        piece, position = found[0], found.end()
        if piece == "`":
            position = _maths(source, found.start(), stop, names, halves[-1])
        elif piece[0] != "\\":
            _words(source, found.start(), piece, halves)
        else:
            _append(halves[-1], _escape(piece) if quoted or piece == "\\`" else piece)
    texts = [Text(_joined(half, start, source)) for half in halves]
    if len(texts) == 1:
        return texts[0], NOTHING
    return texts[0].strip(), texts[1].strip()


def _words(source: Source, at: int, piece: str, halves: list[list[Part]]) -> None:
    """Add plain characters, cut at `--neg`."""
    done = 0
    for cut in _NEGATIVE.finditer(piece):
        _append(halves[-1], piece[done : cut.start()])
        done = cut.end()
        if len(halves) == 2:
            source.error(at + cut.start(), "a second --neg in one text", "one --neg, and behind it everything unwanted")
        else:
            halves.append([])
    _append(halves[-1], piece[done:])


def _append(parts: list[Part], words: str) -> None:
    if words:
        parts.append(words)


def _joined(parts: list[Part], at: int, source: Source) -> tuple[Part, ...]:
    """Neighbouring words made one."""
    joined: list[Part] = []
    words: list[str] = []
    for part in [*parts, None]:
        if isinstance(part, str):
            words.append(part)
            continue
        if words:
            run = "".join(words)
            joined.append(_join_surrogates(run, at, source) if not run.isascii() else run)
            words = []
        if part is not None:
            joined.append(part)
    return tuple(joined)


def _maths(source: Source, start: int, stop: int, names: Collection[str], parts: list[Part]) -> int:
    """Read the maths whose first backtick is at `start`; the index behind its last one."""
    end = source.text.find("`", start + 1, stop)
    if end < 0:
        source.error(start, "this backtick is never closed", "a backtick that is no maths is written \\`")
        return stop
    lexer = Lexer(source.text, start + 1, end)
    try:
        parts.append(parse_expression(lexer, source, names))
        if lexer.kind != "end":
            hint = "is a `*` missing?" if lexer.kind in ("name", "number") or lexer.text == "(" else ""
            raise Slip(lexer.start, f"expected an operator or the closing backtick, found {lexer.describe()}", hint)
    except Slip as slip:
        source.error(slip.position, slip.message, slip.hint)
    return end + 1

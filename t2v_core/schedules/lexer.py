"""The tokens of schedules and expressions. Strings stay raw here; `texts.py` reads their escapes."""

from __future__ import annotations

import re

NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
SMART_QUOTES = "“”„‟‘’‚‛«»″′＂＇"

_TOKEN = re.compile(
    rf"""\s*(?:\#[^\n]*\s*)*(?:
    (?P<number>{NUMBER})
    |(?P<name>[^\W\d]\w*)
    |(?P<string>"[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*')
    |(?P<sign>\*\*|//|/\*|==|!=|<=|>=|&&|\|\||[-+*/%<>=!&|^~?:,()\[\]{{}}@;])
    |(?P<open>["'][^\n]*)
    |(?P<end>\Z)
    |(?P<other>.)
    )""",
    re.VERBOSE | re.DOTALL,
)


_KINDS = ("", *_TOKEN.groupindex)  # the groups in order are the kinds


class Lexer:
    """One token at a time, from `position` up to `stop`, over blanks and `# comments`.

    The token at hand: `kind` is number, name, string (with its quotes), sign, open (a quote that is never closed, to
    the end of its line), other (a character with no meaning here) or end; `text`, `start` and `stop_at` are its own.
    `after` is where the token before it ended.
    """

    def __init__(self, text: str, position: int = 0, stop: int | None = None):
        self.source = text
        self.stop = len(text) if stop is None else stop
        self.stop_at = position
        self.move_to(position)

    def move_to(self, position: int) -> None:
        """Read the token at `position`."""
        self.after = self.stop_at
        found = _TOKEN.match(self.source, position, self.stop)
        group = found.lastindex
        self.kind = _KINDS[group]
        self.start, self.stop_at = found.span(group)
        self.text = found[group]

    def advance(self) -> None:
        """Go on to the next token."""
        self.move_to(self.stop_at)

    def describe(self) -> str:
        """The token at hand as messages name it."""
        if self.kind == "end":
            return "the end of the text" if self.stop == len(self.source) else "the end"
        text = self.text if len(self.text) <= 24 else self.text[:23] + "…"
        return text if self.kind in ("string", "open") else f"`{text}`"

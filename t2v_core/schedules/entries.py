"""The body of a schedule: `key: value @blend` with commas between, braces around or not; for numbers and for texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .blends import Blend, parse_blend
from .dialects import Traits
from .keys import SEPARATOR, Key, Place, parse_key
from .lexer import SMART_QUOTES, Lexer
from .source import Slip, Source

Value = TypeVar("Value")

_BLANK = re.compile(r"\s*(?:#[^\n]*\s*)*")
_QUOTES = f"\"'{SMART_QUOTES}"
_IN_KEY = rf"[^,?@{{}}\n{_QUOTES}]"
# A key with its separator: in quotes, or beginning as keys do. Bounded, so that looking for one stays linear.
KEY = rf"""(?:[{_QUOTES}]\s*[-+(:]*(?:[0-9.]|max_f){_IN_KEY}{{0,60}}[{_QUOTES}]\s*{SEPARATOR}
    |[-+(]*(?:[0-9.]|max_f){_IN_KEY}{{0,60}}?{SEPARATOR})"""
PLAIN_KEY = r'(?:"(?P<quoted>[0-9]{1,9})"|(?P<bare>[0-9]{1,9}))\s*:\s*'
_PLAIN_KEY = re.compile(PLAIN_KEY + r"(?![-+]?[0-9.]*[%s]?\s*=(?!=))")  # but `0:8 =` and `8: =`, which are ranges
PLAIN_END = r"\s*(?:,\s*|(?=\})|\Z)"


@dataclass(frozen=True)
class Entry(Generic[Value]):
    """A key, its value, and the blend to the next key if one is written. `at` is the index of the value in the text."""

    key: Key
    value: Value
    blend: Blend | None = None
    at: int = field(default=0, compare=False)


def skip_blank(text: str, position: int = 0) -> int:
    """The index of the first character that is no blank, comment or byte order mark."""
    return _BLANK.match(text, position + text.startswith("\ufeff", position)).end()


def _plain_key(found: re.Match[str]) -> Key:
    return Key(Place("frame", float(found["quoted"] or found["bare"])), None, False, found.start())


class Body(Generic[Value]):
    """Reads the entries of `source`; all mistakes are noted there, those after which it cannot go on included.

    `read_value(lexer)` reads a value. `ahead` matches a key and what must follow it, and finds the next entry after a
    mistake. `texts`: whether @slerp is allowed, and a new line separates entries as a comma does where the next key has
    no quotes. `plain` matches a whole entry of the most usual kind, PLAIN_KEY and PLAIN_END included, and `plain_value`
    makes its value and the value's index of the match, or None if it is no such entry after all.
    """

    def __init__(
        self,
        source: Source,
        read_value: Callable[[Lexer], Value],
        ahead: str,
        texts: bool,
        plain: re.Pattern[str],
        plain_value: Callable[[re.Match[str]], tuple[Value, int] | None],
        names=(),
    ):
        self.source, self.read_value, self.texts, self.names = source, read_value, texts, names
        self.plain, self.plain_value = plain, plain_value
        self.ahead = re.compile(rf"\s*{ahead}", re.VERBOSE)
        self.next_entry = re.compile(rf"[,{{\n](?=\s*{ahead})", re.VERBOSE)
        self.entries: list[Entry[Value]] = []
        self.ade_form = ""
        self.lexer = Lexer(source.text, skip_blank(source.text))
        self.braces = self.lexer.text == "{"

    def read(self) -> Body[Value]:
        """Read everything; raises ScheduleError if there was any mistake, two keys the same and no key included."""
        if self.braces:
            self.lexer.advance()
        going = True
        while going:
            self.plain_entries()
            try:
                if self.lexer.kind == "end" or self.lexer.text == "}":
                    self.finish()
                    break
                self.entry()
                going = self.separator()
            except Slip as slip:
                self.source.error(slip.position, slip.message, slip.hint)
                going = self.skip(max(slip.position, self.lexer.start))
        self.check_keys()
        self.source.raise_errors()
        return self

    def traits(self) -> Traits:
        """What the text shows of the program it was written for."""
        return Traits(self.texts, True, self.braces, self.ade_form)

    def plain_entries(self) -> None:
        """Entries such as `30: (1.5),` or `"30": "a red circle",`, one match each: nearly all of a long text."""
        text, position = self.source.text, self.lexer.start
        while found := self.plain.match(text, position):
            made = self.plain_value(found)
            if made is None:
                break  # to the reader of all kinds
            self.entries.append(Entry(_plain_key(found), made[0], None, made[1]))
            position = found.end()
        if position != self.lexer.start:
            self.lexer.move_to(position)

    def entry(self) -> None:
        lexer = self.lexer
        found = _PLAIN_KEY.match(self.source.text, lexer.start)
        if found:
            key = _plain_key(found)
            lexer.move_to(found.end())
        else:
            key = self.key()
        at, value = lexer.start, self.read_value(lexer)
        mark = lexer.start
        blend = parse_blend(lexer, self.texts)
        if blend and key.hold:
            raise Slip(mark, "a key such as 8: holds; it has no other blend", "write the key without its colon")
        self.entries.append(Entry(key, value, blend, at))

    def key(self) -> Key:
        """Read a key of any kind and what separates it from its value."""
        lexer = self.lexer
        key = parse_key(lexer, self.source, self.names)
        if lexer.text not in (":", "="):
            hint = "equality is not a separator" if lexer.text == "==" else ""
            raise Slip(lexer.start, f"expected `:` after the key, found {lexer.describe()}", hint)
        if lexer.text == "=" and not self.ade_form:
            self.ade_form = "entries with `=`"
        self.ade_form = key.ade_form or self.ade_form
        lexer.advance()
        return key

    def separator(self) -> bool:
        """Go over what stands between two entries; False where the body ends."""
        lexer = self.lexer
        if lexer.text == ",":
            lexer.advance()
            return True
        if lexer.kind == "end" or lexer.text == "}":
            self.finish()
            return False
        found, glued = lexer.describe(), lexer.start == lexer.after
        previous = self.source.text[lexer.after - 1]
        if previous in "\"'" and glued:
            hint = "is a closing quote missing before? A quote inside a text is written \\" + previous
            raise Slip(lexer.start, f"expected `,` after the closing quote, found {found}", hint)
        if not self.ahead.match(self.source.text, lexer.start):
            raise self.unexpected()
        fresh = "\n" in self.source.text[lexer.after : lexer.start]
        if not (self.texts and fresh and lexer.kind != "string"):
            self.source.error(lexer.start, f"expected `,` before the next key, found {found}", "a comma is missing")
        return True

    def unexpected(self) -> Slip:
        lexer, hint = self.lexer, ""
        if lexer.text == ")":
            return Slip(lexer.start, "this bracket was never opened", "one `)` too many, or a `(` missing before it")
        if lexer.kind in ("name", "number") or lexer.text == "(":
            hint = "is a `*` missing?" if not self.texts else ""
        elif lexer.kind == "other" and lexer.text in SMART_QUOTES:
            hint = 'typographic quotes: write "'
        elif lexer.kind == "open":
            hint = "closing quote missing"
        elif lexer.text in (";", "=", "^", "&&", "||", ":", "/*"):
            hint = {
                ";": "entries are separated by commas",
                "=": "equality is written ==",
                "^": "powers are written **: x**2",
                "&&": "write: and",
                "||": "write: or",
                ":": 'a range stands in quotes: "0:8", or before `=`',
            }.get(lexer.text, "a comment is written: # to the end of the line")
        return Slip(lexer.start, f"expected `,`, `@` or the end, found {lexer.describe()}", hint)

    def finish(self) -> None:
        """Check the end of the body."""
        lexer = self.lexer
        if lexer.kind == "end":
            if self.braces:
                self.source.error(lexer.start, "expected `}`, found the end of the text", "`{` has no `}`")
            return
        if not self.braces:
            raise Slip(lexer.start, "this brace was never opened", "one `}` too many, or a `{` missing at the start")
        lexer.advance()
        if lexer.text == ",":
            lexer.advance()
        if lexer.kind != "end":
            self.source.error(lexer.start, f"expected the end after `}}`, found {lexer.describe()}")

    def skip(self, position: int) -> bool:
        """Go to the next entry from `position` on; False if there is none."""
        found = self.next_entry.search(self.source.text, position)
        if found:
            self.lexer.move_to(found.end())
        return found is not None

    def check_keys(self) -> None:
        seen: set[Key | float] = set()
        for entry in self.entries:
            key, place = entry.key, entry.key.place
            plain = place.kind == "frame" and not (place.from_end or key.hold or key.stop)
            identity = place.value if plain else key  # the number is much faster, and nearly all keys are plain
            if identity in seen:
                self.source.error(key.at, "this key stands here twice", "each frame has one value")
            seen.add(identity)
        if not self.entries and not self.source.errors:
            self.source.error(self.lexer.start, "expected a key such as 0, found none", 'for example: "0": ...')

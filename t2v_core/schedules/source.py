"""Texts with positions, and the problems found in them: line, column, the line itself, a caret, what would be right."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from dataclasses import dataclass

from ..errors import ScheduleError

NODE_LIMIT = 256 * 1024  # bytes of UTF-8: what a node's text box takes
FILE_LIMIT = 16 * 1024 * 1024  # bytes of UTF-8: what a file may hold
MAX_PROBLEMS = 20  # reading stops there: a text with more is not a schedule

_SHOWN_WIDTH = 96  # columns of a line that are shown around the caret
_TAB = "    "


@dataclass(frozen=True)
class Problem:
    """One mistake, or one warning, at one place in a text.

    `line` and `column` count from 1, the column in characters; `text` is that line as written. `message` says what was
    found and what was expected; `hint` is how the usual slip of this kind is mended, or empty. `where` names the text
    if it is not the schedule itself.
    """

    line: int
    column: int
    text: str
    message: str
    hint: str = ""
    where: str = ""
    warning: bool = False

    def __str__(self) -> str:
        place = f"{self.where}, " if self.where else ""
        kind = "warning: " if self.warning else ""
        shown, caret = show_line(self.text, self.column)
        lines = [f"{place}line {self.line}, column {self.column}: {kind}{self.message}", f"  {shown}", f"  {caret}"]
        return "\n".join(lines + ([f"  hint: {self.hint}"] if self.hint else []))


def show_line(text: str, column: int) -> tuple[str, str]:
    """The line for the screen and the caret below it: tabs as blanks, wide characters counted twice, long lines cut."""
    cells = [_cell(character) for character in text[max(0, column - 1 - _SHOWN_WIDTH) : column - 1 + _SHOWN_WIDTH]]
    dropped = max(0, column - 1 - _SHOWN_WIDTH)
    caret = min(column - 1 - dropped, len(cells))
    start, left = caret, _SHOWN_WIDTH * 2 // 3
    while start > 0 and left >= cells[start - 1][1]:
        start -= 1
        left -= cells[start][1]
    stop, left = caret, _SHOWN_WIDTH // 3 + left
    while stop < len(cells) and left >= cells[stop][1]:
        left -= cells[stop][1]
        stop += 1
    before = "…" if start + dropped > 0 else ""
    after = "…" if stop + dropped < len(text) else ""
    indent = len(before) + sum(width for _, width in cells[start:caret])
    return before + "".join(shown for shown, _ in cells[start:stop]) + after, " " * indent + "^"


def _cell(character: str) -> tuple[str, int]:
    """What is shown for a character, and how many columns of a terminal it takes."""
    if character == "\t":
        return _TAB, len(_TAB)
    category = unicodedata.category(character)
    if category in ("Mn", "Me"):  # combining: drawn over the character before
        return character, 0
    if category[0] == "C" or category in ("Zl", "Zp"):  # controls and their like would upset the line
        return "\N{REPLACEMENT CHARACTER}", 1
    return character, 2 if unicodedata.east_asian_width(character) in "WF" else 1


class Source:
    """A text, the problems found in it so far, and the places they are at.

    `where` names it in messages. Construction checks the size in bytes of UTF-8 against `limit`, and that the text can
    be written as UTF-8 at all; either is a ScheduleError.
    """

    def __init__(self, text: str, where: str = "", limit: int = NODE_LIMIT):
        self.text = text
        self.where = where
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []
        self._starts: list[int] | None = None
        if len(text) > limit:  # before anything that costs time
            self._refuse_size(limit)
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise ScheduleError(
                [self.problem(error.start, "this character is half of a surrogate pair, which no file can hold")]
            ) from None
        if size > limit:
            self._refuse_size(limit)

    def _refuse_size(self, limit: int) -> None:
        size = f"the text is longer than {limit:,} bytes; at most that much is read"
        raise ScheduleError([Problem(1, 1, self.text[:200].split("\n")[0], size, where=self.where)])

    def problem(self, position: int, message: str, hint: str = "", warning: bool = False) -> Problem:
        """The problem at the character with index `position`; the text's length stands for its end."""
        if self._starts is None:
            self._starts = [0]
            while found := self.text.find("\n", self._starts[-1]) + 1:
                self._starts.append(found)
        line = bisect_right(self._starts, position) - 1
        start = self._starts[line]
        stop = self._starts[line + 1] - 1 if line + 1 < len(self._starts) else len(self.text)
        shown = self.text[start:stop].removesuffix("\r")
        return Problem(line + 1, position - start + 1, shown, message, hint, self.where, warning)

    def error(self, position: int, message: str, hint: str = "") -> None:
        """Note a mistake and go on; raises ScheduleError once there are too many to go on."""
        self.errors.append(self.problem(position, message, hint))
        if len(self.errors) >= MAX_PROBLEMS:
            self.raise_errors()

    def warn(self, position: int, message: str, hint: str = "") -> None:
        """Note something that is allowed but may not be what was meant."""
        if len(self.warnings) < MAX_PROBLEMS:
            self.warnings.append(self.problem(position, message, hint, warning=True))

    def raise_errors(self) -> None:
        """Raise ScheduleError if mistakes were noted."""
        if self.errors:
            raise ScheduleError(sorted(self.errors, key=lambda problem: (problem.line, problem.column)))


class Slip(Exception):
    """A mistake after which the entry at hand cannot be read on; the reader of entries looks for the next one."""

    def __init__(self, position: int, message: str, hint: str = ""):
        super().__init__(message)
        self.position, self.message, self.hint = position, message, hint

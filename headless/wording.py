"""How values from a workflow file are shown in messages: one short line, whatever the file holds."""

from __future__ import annotations

import json
from typing import Any

LONGEST = 80  # characters of a value in a message
MOST = 24  # entries of a list in a message


def plain(text: str) -> str:
    """The text with line breaks, terminal escapes and lone surrogates written as escapes, so that it stays one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def plain_lines(text: str) -> str:
    """`plain`, line by line: for messages of our own that point into a text with a caret below."""
    return "\n".join(map(plain, text.split("\n")))


def short(text: str) -> str:
    """`plain`, with the middle left out where it is long."""
    return plain(text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}")


def shown(value: Any) -> str:
    """A value as JSON writes it, in one short line."""
    return short(json.dumps(value, ensure_ascii=False))


def listed(options: list) -> str:
    """'a, b, c', cut after a screenful."""
    more = f" and {len(options) - MOST} more" if len(options) > MOST else ""
    return ", ".join(short(str(option)) for option in options[:MOST]) + more

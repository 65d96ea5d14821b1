"""The prompt syntax of ComfyUI: emphasis with brackets, escaped brackets, and `embedding:name`.

Malformed prompts are as common as good ones, and a workflow must mean the same in both hosts; so what ComfyUI makes of
unbalanced brackets holds here too. It is spelled out at each rule below.
"""

import re

_ACTIVE_BRACKET = re.compile(r"(?<!\\)([()])")
_ESCAPED_BRACKET = re.compile(r"\\([()])")
_EMBEDDING = "embedding:"
_BEFORE_EMBEDDING = re.compile(rf"[ \n]{_EMBEDDING}")
_EMPHASIS = 1.1


def parse_emphasis(text: str) -> list[tuple[str, float]]:
    r"""Split a prompt into `(text, weight)` segments, in reading order; no segment is empty.

    `(words)` multiplies the weight around it by 1.1; `(words:1.3)` sets it to 1.3 whatever is around; brackets nest;
    `\(` and `\)` are plain brackets. The number is whatever `float` accepts, so the weight may be negative, `inf` or
    `nan`. A colon that is the first character in its brackets, or that no number follows, is plain text.

    Unbalanced brackets: a `)` too many is plain text, and makes the next `(` plain too. A `(` that is never closed is
    plain text, with all that follows it, unless the prompt ends in `)`: then that last bracket closes it.

    Takes time linear in the length, at any depth of nesting.
    """
    pieces = [piece for piece in _ACTIVE_BRACKET.split(text) if piece]  # "(", ")", and the text between
    closers = _match_brackets(pieces)
    segments: list[tuple[str, float]] = []

    def emit(start: int, stop: int, weight: float) -> None:
        if start < stop:
            segments.append((_ESCAPED_BRACKET.sub(r"\1", "".join(pieces[start:stop])), weight))

    spans = [(0, len(pieces), 1.0)]  # still to read, the leftmost on top
    while spans:
        start, stop, weight = spans.pop()
        opener = next((i for i in range(start, stop) if i in closers), stop)
        emit(start, opener, weight)
        if opener == stop:
            continue
        if closers[opener] < stop:
            spans.append((closers[opener] + 1, stop, weight))
            spans.append(_enter_brackets(pieces, opener + 1, closers[opener], weight))
        elif pieces[stop - 1] == ")":
            spans.append(_enter_brackets(pieces, opener + 1, stop - 1, weight))
        else:
            emit(opener, stop, weight)
    return segments


def _match_brackets(pieces: list[str]) -> dict[int, int]:
    """For each `(` that opens emphasis: the index of its `)`, or `len(pieces)` where it is never closed."""
    closers: dict[int, int] = {}
    waiting: list[int] = []
    surplus = 0  # of ")": each makes one later "(" plain
    for index, piece in enumerate(pieces):
        if piece == "(" and surplus:
            surplus -= 1
        elif piece == "(":
            waiting.append(index)
        elif piece == ")" and waiting:
            closers[waiting.pop()] = index
        elif piece == ")":
            surplus += 1
    return closers | dict.fromkeys(waiting, len(pieces))


def _enter_brackets(pieces: list[str], start: int, stop: int, weight: float) -> tuple[int, int, float]:
    """The span `start..stop` inside a pair of brackets, and its weight; a `:number` at its end is cut off `pieces`."""
    last = pieces[stop - 1] if start < stop else ""
    colon = last.rfind(":")
    if colon > 0 or (colon == 0 and stop - 1 > start):
        try:
            number = float(last[colon + 1 :])
        except ValueError:
            return start, stop, weight * _EMPHASIS
        pieces[stop - 1] = last[:colon]
        return start, stop if colon else stop - 1, number
    return start, stop, weight * _EMPHASIS


def remove_embeddings(text: str) -> tuple[list[str], list[str]]:
    """Take `embedding:name` out of a segment: `(pieces of text left, names taken out)`.

    Textual inversion embeddings belong to one text encoder, and ours has none; so every name is one that ComfyUI does
    not find. It drops the name and keeps the words after it as a piece of their own. The identifier counts at the start
    of the segment and after a space or a line feed.

    A name ends at white space. From a name that begins or ends in commas ComfyUI drops as many leading characters as
    the name has without them, and keeps the others as text: `cat,` leaves `,`, and `,cat` leaves `t`.
    """
    before, *found = _BEFORE_EMBEDDING.split(text)
    if before.startswith(_EMBEDDING):
        before, found = "", [before.removeprefix(_EMBEDDING), *found]
    pieces, names = [before], []
    for item in found:
        name, *words = item.split() or [""]
        names.append(name)
        pieces.append(" ".join([name[len(name.strip(",")) :], *words]))
    return [piece for piece in pieces if piece], names

"""Long prompts: a list of ids of any length as chunks of the one length that a text encoder reads."""

from collections.abc import Iterable, Sequence

from ..errors import T2VError

WeightedId = tuple[int, float]

# A segment up to this long moves to the next chunk as a whole; a longer one is broken at the border. ComfyUI's figure.
_KEPT_WHOLE = 7
MIN_LENGTH = _KEPT_WHOLE + 2  # with start and end


def chunk(
    weighted_word_ids: Iterable[Sequence[WeightedId]], length: int, start: int, end: int, pad: int
) -> list[list[WeightedId]]:
    """Lay segments of weighted ids into chunks, as ComfyUI does; at least one chunk, each of `length` pairs.

    weighted_word_ids: one sequence of `(id, weight)` for each segment of the prompt (`parse_emphasis`). The segments
        matter, because a short one is never broken.
    length: pairs in a chunk, 9 or more; T2VError else, for a short segment would not fit.
    start, end, pad: the ids around the words, with weight 1. A chunk is start, words, end, then pad up to `length`.
    """
    if length < MIN_LENGTH:
        raise T2VError(f"chunk: length {length} is too short; {MIN_LENGTH} is the least")
    bodies: list[list[WeightedId]] = [[]]
    for segment in weighted_word_ids:
        units = [segment] if len(segment) <= _KEPT_WHOLE else [[pair] for pair in segment]
        for unit in units:
            if len(bodies[-1]) + len(unit) > length - 2:
                bodies.append([])
            bodies[-1].extend(unit)
    return [[(start, 1.0), *body, (end, 1.0)] + [(pad, 1.0)] * (length - 2 - len(body)) for body in bodies]

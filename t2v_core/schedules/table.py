"""What a schedule says, as lines of text: what it is, its warnings, and a row for each frame."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np

from ..errors import ScheduleError
from .dialects import DIALECTS
from .entries import KEY, skip_blank
from .evaluate import Clip
from .keys import Knot, place_keys
from .lexer import SMART_QUOTES
from .prompts import PromptSchedule, TextTrack, parse_prompts
from .source import NODE_LIMIT, Source
from .values import ValueSchedule, parse_values

KINDS = ("auto", "prompts", "values")

_QUOTE = f"[\"'{SMART_QUOTES}]"
_QUOTED = re.compile(rf"(?:{KEY})\s*{_QUOTE}", re.X)
_KEYED = re.compile(rf"(?:{KEY})", re.X)

Schedule = PromptSchedule | ValueSchedule


def read_schedule(text: str, kind: str = "auto", dialect: str = "auto", limit: int = NODE_LIMIT) -> Schedule:
    """The schedule of prompts or of values that the text is. `kind` is one of KINDS, else a ValueError.

    For auto, texts in quotes behind keys are prompts, unless all are numbers; anything else behind keys is a value,
    `("Euler a")` in brackets too. Without keys, what can be read as a value is one, and the rest is a prompt.

    Raises ScheduleError with all mistakes found.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; known are {', '.join(KINDS)}")
    if kind == "prompts":
        return parse_prompts(text, dialect=dialect, limit=limit)
    if kind == "values":
        return parse_values(text, dialect=dialect, limit=limit)
    Source(text, limit=limit)  # its size, before anything is looked for
    start = skip_blank(text)
    start = skip_blank(text, start + text.startswith("{", start))
    if not _QUOTED.match(text, start) and _KEYED.match(text, start):
        return parse_values(text, dialect=dialect, limit=limit)
    try:
        values = parse_values(text, dialect=dialect, limit=limit)
    except ScheduleError:
        values = None
    return values if values and values.kind == "number" else parse_prompts(text, dialect=dialect, limit=limit)


def knots_of(schedule: Schedule, num_frames: int, fps: float) -> list[Knot]:
    """Where its keys lie in such a clip, in the order of frames; see `place_keys`."""
    source = Source(schedule.text, limit=4 * len(schedule.text) + 4)
    prompts = isinstance(schedule, PromptSchedule)
    return place_keys(schedule.keys, Clip(num_frames, fps), DIALECTS[schedule.dialect], prompts, source)


def key_frames(knots: list[Knot], num_frames: int) -> list[tuple[int, int]]:
    """(frame, index of the entry) where the keys in the clip begin: the second knot of a range is none."""
    found: list[tuple[int, int]] = []
    for knot in knots:
        if knot.frame < num_frames and not (found and found[-1][1] == knot.index):
            found.append((knot.frame, knot.index))
    return found


def whole_numbers(values: np.ndarray) -> list[int]:
    """The nearest whole number to each; a half goes away from zero, 0.5 to 1 and -0.5 to -1."""
    cut = np.trunc(values)
    return [int(each) for each in cut + np.copysign(np.abs(values - cut) >= 0.5, values)]


def summary(schedule: Schedule, num_frames: int, fps: float, warnings: bool = True) -> str:
    """What kind of schedule it is, for which clip, its dialect and why, its blend, and its warnings unless not wanted.

    Raises what its `evaluate` does for keys.
    """
    found = schedule.check(num_frames, fps) if warnings else ()
    kind = "prompts" if isinstance(schedule, PromptSchedule) else "values"
    kind = "texts" if kind == "values" and schedule.kind == "text" else kind
    keys = f"{len(schedule.entries)} key{'s' * (len(schedule.entries) != 1)}"
    lines = [f"{kind}: {keys}, {num_frames} frames at {fps:g} fps, {num_frames / fps:g} s"]
    lines.append(f"dialect: {schedule.dialect} ({schedule.reason})")
    if kind == "prompts":
        lines.append(f"blend: {'slerp' if schedule.blend.slerp else schedule.blend.curve}, where a key names none")
    return "\n".join([*lines, *map(str, found)])


def table(schedule: Schedule, num_frames: int, fps: float, every: int = 1) -> Iterator[str]:
    """Lines of text: a head, then a row for every `every`-th frame from frame 0; `*` stands where a key begins.

    A row of prompts names the texts P1, P2 ... N1 ... which are listed above, with their shares. A row of values has
    the value and the nearest whole number. Raises what its `evaluate` does, before the first line.
    """
    frames = np.arange(0, num_frames, every)
    starts = {frame for frame, _ in key_frames(knots_of(schedule, num_frames, fps), num_frames)}
    if isinstance(schedule, PromptSchedule):
        legend, head, cells = _prompt_cells(schedule, num_frames, fps, frames)
    else:
        legend, head, cells = _value_cells(schedule, num_frames, fps, frames)
    return _lines(legend, head, cells, frames, fps, starts)


def _lines(legend, head: str, cells, frames: np.ndarray, fps: float, starts: set[int]) -> Iterator[str]:
    wide = max(5, len(str(frames[-1])))
    long = max(7, len(f"{frames[-1] / fps:.3f}"))
    yield from legend
    yield f"{'frame':>{wide}}  {'seconds':>{long}}  key  {head}"
    for frame, cell in zip(frames.tolist(), cells, strict=True):
        mark = "*" if frame in starts else " "
        yield f"{frame:>{wide}}  {frame / fps:>{long}.3f}   {mark}   {cell}"


def _prompt_cells(schedule: PromptSchedule, num_frames: int, fps: float, frames: np.ndarray):
    track = schedule.evaluate(num_frames, fps, frames=frames)
    shown = [("positive", "P", track.positive)]
    if track.negative.texts != ("",):
        shown.append(("negative", "N", track.negative))
    legend = [
        f"{letter}{number} {json.dumps(text, ensure_ascii=False)}"
        for _, letter, polarity in shown
        for number, text in enumerate(polarity.texts, 1)
    ]
    width = max(len(cell) for cell in ("positive", *_mixtures(track.positive, "P")))
    head = "  ".join(f"{name:<{width}}" for name, _, _ in shown).rstrip()
    columns = [_mixtures(polarity, letter) for _, letter, polarity in shown]
    cells = ("  ".join(f"{cell:<{width}}" for cell in row).rstrip() for row in zip(*columns, strict=True))
    return [*legend, ""], head, cells


def _mixtures(track: TextTrack, letter: str) -> Iterator[str]:
    """`P1`, or the shares of two texts: `P1 0.750 + P2 0.250`, with `~` for the way on the sphere."""
    rows = (track.before.tolist(), track.after.tolist(), track.weight.tolist(), track.slerp.tolist())
    for before, after, weight, slerp in zip(*rows, strict=True):
        if weight == 0:
            yield f"{letter}{before + 1}"
        else:
            sign = "~" if slerp else "+"
            yield f"{letter}{before + 1} {1 - weight:.3f} {sign} {letter}{after + 1} {weight:.3f}"


def _value_cells(schedule: ValueSchedule, num_frames: int, fps: float, frames: np.ndarray):
    values = schedule.evaluate(num_frames, fps, frames=frames)
    if schedule.kind == "text":
        return [], "value", (json.dumps(value, ensure_ascii=False) for value in values)
    pairs = zip(values.tolist(), whole_numbers(values), strict=True)
    return [], f"{'value':>18}  {'int':>10}", (f"{value:>18.12g}  {whole:>10}" for value, whole in pairs)

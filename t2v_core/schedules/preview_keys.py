"""What all previews have in common: their size, the rows of keys above the plot, and outlines."""

from __future__ import annotations

import math

import numpy as np

from .blends import HOLD, LINEAR, Blend
from .drawing import GRID, LABEL, MUTED, SMALL, TEXT, Canvas, Timeline, text_width
from .expressions import Expression
from .keys import Knot
from .prompts import PromptSchedule
from .table import Schedule, key_frames

WIDTH, HEIGHT = 640, 360
MARGIN = 14
HEAD, FOOT = 46, 50  # the rows of keys above the plot, and of frames and seconds below it
LINE = LABEL + 4
MOST_MARKS = 60  # keys beyond which there are no marks and dots, only some of their frames
_LEAST_NAMED = 30  # pixels between two keys from which the blend between them may have room for its name


def blend_of(schedule: Schedule, knot: Knot) -> tuple[Blend, str]:
    """What leads from a knot to the next, and its name."""
    entry = schedule.entries[knot.index]
    if knot.held:
        return HOLD, "hold"
    if isinstance(schedule, PromptSchedule):
        blend = entry.blend or schedule.blend
    elif schedule.kind == "text":
        return HOLD, "hold"
    elif isinstance(entry.value, Expression):
        return entry.blend or HOLD, f"expression, {entry.blend.curve}" if entry.blend else "expression"
    else:
        blend = entry.blend or LINEAR
    return blend, " ".join((["slerp"] if blend.slerp else []) + [blend.curve] * (blend != Blend(slerp=True)))


def draw_keys(canvas: Canvas, schedule: Schedule, knots: list[Knot], line: Timeline, bottom: float) -> None:
    """The rows above the plot, and a line down through it at each key."""
    keys = key_frames(knots, line.num_frames)
    places = sorted({round(line.x(frame), 1) for frame, _ in keys})
    for x in places if len(places) <= MOST_MARKS else ():
        canvas.line([(x, HEAD - 6), (x, bottom)], GRID)
        canvas.polygon([(x - 5, HEAD - 9), (x + 5, HEAD - 9), (x, HEAD)], TEXT)
    end = -math.inf
    for number, (frame, _) in enumerate(keys):
        if line.x(frame) < end:
            continue
        words = f"key {frame}" if number == 0 else str(frame)
        width = text_width(words, SMALL)
        start = min(max(line.left - 4, line.x(frame) - width / 2), line.right + 8 - width)
        if start > end + 8:
            canvas.text((start, 3), words)
            end = start + width
    ends = [knot.frame for knot in knots[1:]] + [line.num_frames]
    for knot, stop in zip(knots, ends, strict=True):
        left, right = line.x(knot.frame), line.x(min(stop, line.num_frames))
        if right - left > _LEAST_NAMED and knot is not knots[-1]:
            words = blend_of(schedule, knot)[1]
            if text_width(words, SMALL) <= right - left - 14:
                canvas.text(((left + right) / 2, HEAD - 25), words, MUTED, anchor="ma")


def corners(values: list[float], stepped: np.ndarray) -> list[tuple[float, float]]:
    """(column, value) along an outline that stays level over the columns that are stepped."""
    found: list[tuple[float, float]] = []
    for column, value in enumerate(values):
        found.append((column, value))
        if stepped[column]:
            found.append((column + 1, value))
    return found

"""The preview of a schedule of numbers: its curve, its keys, its expressions."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from PIL import Image

from .drawing import BACKGROUND, COLOURS, GRID, PANEL, SMALL, TEXT, Canvas, Timeline, fit, nice_step, text_width
from .expressions import Expression
from .keys import Knot
from .preview_keys import FOOT, HEAD, HEIGHT, LINE, MARGIN, MOST_MARKS, WIDTH, blend_of, corners, draw_keys
from .table import key_frames
from .values import ValueSchedule

_NUMBER, _EXPRESSION = COLOURS[0], COLOURS[1]


def draw_curve(
    schedule: ValueSchedule, knots: list[Knot], values: np.ndarray, num_frames: int, fps: float
) -> Image.Image:
    """The picture of a schedule with these values `[f]`; `knots` are its own in this clip."""
    canvas = Canvas(WIDTH, HEIGHT)
    any_maths = any(isinstance(entry.value, Expression) for entry in schedule.entries)
    top, bottom = HEAD + (LINE if any_maths else 0) + 8, HEIGHT - FOOT - 10
    ticks, low, high, scale = _value_ticks(values)
    widest = max(text_width(words, SMALL) for _, words in ticks)
    line = Timeline(num_frames, fps, MARGIN + widest + 10, WIDTH - MARGIN)

    values = values * scale

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    canvas.box(line.left, HEAD, line.right, HEIGHT - FOOT, PANEL)
    for tick, words in ticks:
        canvas.line([(line.left - 4, y(tick)), (line.right, y(tick))], GRID)
        canvas.text((line.left - 8, y(tick)), words, TEXT, anchor="rm")
    draw_keys(canvas, schedule, knots, line, HEIGHT - FOOT)
    if line.columns < num_frames:
        _draw_ranges(canvas, schedule, knots, values, line, y)
    else:
        _draw_segments(canvas, schedule, knots, values, line, y)
    _draw_dots(canvas, schedule, knots, values, line, y)
    _draw_maths(canvas, schedule, knots, line)
    line.draw_axis(canvas, HEIGHT - FOOT)
    return canvas.finish()


def _value_ticks(values: np.ndarray) -> tuple[list[tuple[float, str]], float, float, float]:
    """(value, words) of the ticks, the least and the greatest value that is drawn, and what all three are scaled by.

    The way across the whole range of a float64 is more than a float64 can hold, so huge values are made smaller.
    """
    scale = 1.0 if np.abs(values).max() < 1e300 else 2.0**-20
    low, high = float(values.min()) * scale, float(values.max()) * scale
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, 1e-290):
        around = size / 4 or 1.0
        low, high = low - max(around, 1e-280), high + max(around, 1e-280)
    step = nice_step(high - low, 5)
    ticks = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(tick, f"{tick / scale:.6g}") for tick in ticks if math.isfinite(tick / scale)], low, high, scale


def _of_expression(schedule: ValueSchedule, knot: Knot) -> bool:
    return isinstance(schedule.entries[knot.index].value, Expression)


def _draw_segments(canvas: Canvas, schedule: ValueSchedule, knots: list[Knot], values, line: Timeline, y) -> None:
    """The curve from key to key, in the colour of what makes it."""
    stops = [min(knot.frame, line.num_frames) for knot in knots[1:]] + [line.num_frames]
    start = 0
    for knot, stop in zip(knots, stops, strict=True):
        if start == line.num_frames:
            break  # the knot past the end
        maths, held = _of_expression(schedule, knot), blend_of(schedule, knot)[0].curve == "hold"
        stepped = np.zeros(stop - start, bool)
        stepped[: max(0, knot.frame - start)] = True
        stepped[-1] |= held or stop == line.num_frames
        outline = corners(values[start:stop].tolist(), stepped)
        outline += [(stop - start, float(values[stop]))] if stop < line.num_frames else []
        points = [(line.x(start + frame), y(value)) for frame, value in outline]
        canvas.line(points, _EXPRESSION if maths else _NUMBER, 2.5)
        start = stop


def _draw_ranges(canvas: Canvas, schedule: ValueSchedule, knots: list[Knot], values, line: Timeline, y) -> None:
    """For each pixel a line over all the values of its frames, up to the first value of the next pixel."""
    firsts = np.searchsorted(line.column(np.arange(line.num_frames)), np.arange(line.columns))
    following = values[np.append(firsts[1:], line.num_frames - 1)]
    low = np.minimum(np.minimum.reduceat(values, firsts), following)
    high = np.maximum(np.maximum.reduceat(values, firsts), following)
    segments = np.searchsorted([knot.frame for knot in knots], firsts, "right") - 1
    for column, segment in enumerate(np.maximum(segments, 0)):
        colour = _EXPRESSION if _of_expression(schedule, knots[segment]) else _NUMBER
        left, right = line.of_column(column), line.of_column(column + 1)
        canvas.box(left, y(high[column]) - 1, right, y(low[column]) + 1, colour)


def _draw_dots(canvas: Canvas, schedule: ValueSchedule, knots: list[Knot], values, line: Timeline, y) -> None:
    keys = key_frames(knots, line.num_frames)
    if len(keys) > MOST_MARKS:
        return
    for frame, index in keys:
        ring = isinstance(schedule.entries[index].value, Expression)
        colour = _EXPRESSION if ring else _NUMBER
        canvas.dot((line.x(frame), y(values[frame])), 5.5, BACKGROUND if ring else colour, colour)


def _draw_maths(canvas: Canvas, schedule: ValueSchedule, knots: list[Knot], line: Timeline) -> None:
    """What each expression says, above its stretch of the curve, where there is room."""
    keys = key_frames(knots, line.num_frames)
    for (frame, index), (stop, _) in pairwise([*keys, (line.num_frames, -1)]):
        room = line.x(stop) - line.x(frame) - 12
        if isinstance(schedule.entries[index].value, Expression) and room > 60:
            [words] = fit(_source(schedule, index), SMALL, room)
            canvas.text((line.x(frame) + 7, HEAD + 4), words, _EXPRESSION)


def _source(schedule: ValueSchedule, index: int) -> str:
    """The expression as written, up to its mark or the next entry."""
    entries = schedule.entries
    stop = min((entry.key.at for entry in entries if entry.key.at > entries[index].at), default=len(schedule.text))
    return schedule.text[entries[index].at : stop].split("@")[0].strip().rstrip(",}").strip()

"""Pictures of schedules: what each text weighs and each number is, over frames, before anything is sampled.

A dark ground, as ComfyUI's, 640 pixels wide and at least 360 high. Above the plot are the keys with their frames and
what leads from one to the next; below it frames and seconds.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image

from .drawing import COLOURS, LABEL, OTHERS, PANEL, TEXT, Canvas, Colour, Timeline, fit, mix, text_width
from .expressions import Expression
from .keys import Knot
from .preview_curve import draw_curve
from .preview_keys import FOOT, HEAD, HEIGHT, LINE, MARGIN, WIDTH, blend_of, corners, draw_keys
from .prompts import PromptSchedule
from .table import Schedule, key_frames, knots_of
from .texts import Text

MAX_BANDS = 12  # more texts than that share the last band


def preview(schedule: Schedule, num_frames: int, fps: float = 8.0) -> Image.Image:
    """The schedule over a clip as an RGB picture. Raises what its `evaluate` does.

    Prompts and names have a band for each distinct one with its share of each frame, those of `--neg` below; maths in a
    prompt is shown as written. Numbers have a curve: dots where a number is set, rings where an expression begins.
    Where frames are more than pixels, a band shows the mean of a pixel's frames and a curve their whole range.
    """
    knots = knots_of(schedule, num_frames, fps)
    if isinstance(schedule, PromptSchedule):
        track = schedule.evaluate(num_frames, fps)
        wanted = [_text_of(schedule, index, "positive") for index in range(len(schedule.entries))]
        unwanted = [_text_of(schedule, index, "negative") for index in range(len(schedule.entries))]
        groups = [("", wanted, track.positive.weight), ("not: ", unwanted, track.negative.weight)]
        return _bands(schedule, knots, groups, num_frames, fps)
    if schedule.kind == "text":
        names = [entry.value or "(empty)" for entry in schedule.entries]
        return _bands(schedule, knots, [("", names, np.zeros(num_frames))], num_frames, fps)
    return draw_curve(schedule, knots, schedule.evaluate(num_frames, fps), num_frames, fps)


def _text_of(schedule: PromptSchedule, index: int, half: str) -> str:
    """What an entry says, as written; where it says nothing itself, what is put around it. Empty for nothing."""
    own = getattr(schedule.entries[index].value, half)
    around = [getattr(each, half) for each in (schedule.before, schedule.behind)]
    words = _written(own, schedule.text) or " ".join(filter(None, (_written(text, "") for text in around)))
    return words or ("(empty)" if half == "positive" else "")


def _written(text: Text, source: str) -> str:
    """The text with its maths as it stands in `source`, or three dots for that."""
    words = []
    for part in text.parts:
        if isinstance(part, Expression):
            part = "`" + (source[part.at : source.find("`", part.at)] if source else "...") + "`"
        words.append(part)
    return "".join(words)


def _shares(knots: list[Knot], band: np.ndarray, weight: np.ndarray, bands: int, line: Timeline) -> np.ndarray:
    """`[bands, columns]`: the mean share of each band; `band` is that of each entry, -1 for none."""
    frames = np.arange(line.num_frames)
    starts = np.array([knot.frame for knot in knots])
    segment = np.maximum(np.searchsorted(starts, frames, "right") - 1, 0)
    of_knot = band[[knot.index for knot in knots]]
    now, then = of_knot[segment], of_knot[np.minimum(segment + 1, len(knots) - 1)]
    column, size = line.column(frames), line.columns
    total = np.zeros((bands + 1) * size)  # the last row is for those that have no band
    for its, share in ((now, 1 - weight), (then, weight)):
        total += np.bincount(np.where(its < 0, bands, its) * size + column, share, len(total))
    return total.reshape(bands + 1, size)[:bands] / np.bincount(column)


class _Band(NamedTuple):
    label: str
    colour: Colour
    shares: np.ndarray


def _bands(schedule: Schedule, knots: list[Knot], groups, num_frames: int, fps: float) -> Image.Image:
    line = Timeline(num_frames, fps, MARGIN, WIDTH - MARGIN)
    used = dict.fromkeys(index for _, index in key_frames(knots, num_frames))
    used.update(dict.fromkeys(knot.index for knot in knots))  # one past the end too, where it is blended towards
    wanted = [len({words for words in (texts[index] for index in used) if words}) for _, texts, _ in groups]
    room = [min(wanted[0], max(MAX_BANDS - 4, MAX_BANDS - sum(wanted[1:])))]
    room += [min(count, MAX_BANDS - room[0]) for count in wanted[1:]]
    bands: list[_Band] = []
    for (prefix, texts, weight), most in zip(groups, room, strict=True):
        bands += _group(prefix, [texts[index] for index in used], most, len(bands), (list(used), knots, weight, line))
    height = max(HEIGHT, HEAD + FOOT + len(bands) * (LINE + 30))
    canvas = Canvas(WIDTH, height)
    tall = (height - HEAD - FOOT) / len(bands)
    low = min(0.0, *(float(band.shares.min()) for band in bands))
    high = max(1.0, *(float(band.shares.max()) for band in bands))
    bottom = height - FOOT
    stepped = _stepped(schedule, knots, line)
    tops = [HEAD + tall * number for number in range(len(bands))]
    for top in tops:
        canvas.box(line.left, top, line.right, top + tall - 4, PANEL)
    draw_keys(canvas, schedule, knots, line, bottom)
    for band, top in zip(bands, tops, strict=True):
        _draw_band(canvas, band, (top, top + tall - 4), (low, high), line, stepped)
    line.draw_axis(canvas, bottom)
    return canvas.finish()


def _group(prefix: str, texts: list[str], most: int, drawn: int, place) -> list[_Band]:
    """The bands of one polarity; `texts` are those of the entries in use, in the order of frames."""
    indices, knots, weight, line = place
    numbers: dict[str, int] = {}
    for words in texts:
        if words:
            numbers.setdefault(words, len(numbers))
    count = len(numbers)
    band = np.full(max(indices) + 1, -1)
    for index, words in zip(indices, texts, strict=True):
        if words:
            band[index] = min(numbers[words], most - 1)
    shares = _shares(knots, band, weight, most, line)
    labels = [prefix + words for words in numbers][: most - (count > most)]
    labels += [f"{prefix}{count - most + 1} more texts"] * (count > most)
    colours = [COLOURS[(drawn + number) % len(COLOURS)] for number in range(len(labels))]
    if count > most:
        colours[-1] = OTHERS
    return [_Band(*each) for each in zip(labels, colours, shares, strict=True)]


def _stepped(schedule: Schedule, knots: list[Knot], line: Timeline) -> np.ndarray:
    """For each column, whether its value stays as it is up to the next one and does not slope towards it."""
    stepped = np.ones(line.columns, bool)
    if line.columns < line.num_frames:
        return stepped
    for knot, following in pairwise(knots):
        if blend_of(schedule, knot)[0].curve != "hold":
            stepped[knot.frame : following.frame] = False
    stepped[-1] = True
    return stepped


def _draw_band(canvas: Canvas, band: _Band, span, limits, line: Timeline, stepped: np.ndarray) -> None:
    (top, bottom), (low, high) = span, limits
    lines = fit(band.label, LABEL, line.right - line.left - 30, max(1, int((bottom - top - 40) // LINE)))
    canvas.box(line.left + 6, top + 6, line.left + 16, top + 16, band.colour)
    for number, words in enumerate(lines):
        left, upper = line.left + 22, top + 1 + number * LINE
        canvas.box(left - 3, upper, left + text_width(words, LABEL) + 3, upper + LINE - 1, PANEL)  # no key line behind
        canvas.text((left, upper), words, TEXT, LABEL)
    roof, floor = top + LINE * len(lines) + 5, bottom - 1

    def y(share: float) -> float:
        return floor - (floor - roof) * (share - low) / (high - low)

    points = [(line.of_column(column), y(value)) for column, value in corners(band.shares.tolist(), stepped)]
    canvas.polygon([(line.left, y(0)), *points, (line.right, y(0))], mix(band.colour, PANEL, 0.45))
    canvas.line(points, band.colour, 2)

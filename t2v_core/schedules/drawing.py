"""What the previews of schedules are drawn with: a smooth canvas, texts that fit, and an axis of frames and seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACKGROUND, PANEL, GRID = (24, 25, 30), (36, 38, 45), (74, 78, 90)
TEXT, MUTED = (238, 240, 244), (176, 181, 192)
# The palette of Okabe and Ito (Color Universal Design, 2008), which people tell apart whatever their colour vision,
# without its black and its dark blue: the ground is dark.
COLOURS = ((86, 180, 233), (230, 159, 0), (0, 178, 130), (240, 228, 66), (222, 104, 30), (214, 137, 182))
OTHERS = (150, 154, 165)
LABEL, SMALL = 18, 16  # font sizes: half of it, in a node 320 pixels wide, can still be read

_SCALE = 2  # drawn at twice the size and reduced, so that edges are smooth
_LONGEST = 400  # characters of a text that are measured
_ELLIPSIS = "..."
_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000, 36000, 86400)

Point = tuple[float, float]
Colour = tuple[int, int, int]


@cache
def _font(size: int):
    return ImageFont.load_default(size)


def text_width(words: str, size: int) -> float:
    """How many pixels of the picture the words take in a line."""
    return _font(size * _SCALE).getlength(words) / _SCALE


def fit(words: str, size: int, width: float, lines: int = 1) -> list[str]:
    """The words in at most `lines` lines of `width` pixels, broken at blanks, cut with dots where they are too long."""
    waiting = "".join(c if c.isprintable() else " " for c in words[:_LONGEST]).split()
    cut = len(words) > _LONGEST
    done: list[str] = []
    while waiting and len(done) < lines:
        line = waiting.pop(0)
        while waiting and text_width(f"{line} {waiting[0]}", size) <= width:
            line += " " + waiting.pop(0)
        done.append(line)
    done = [_shortened(line, size, width) for line in done]
    if done and (waiting or cut) and not done[-1].endswith(_ELLIPSIS):
        done[-1] = _shortened(done[-1] + _ELLIPSIS, size, width)
    return done


def _shortened(line: str, size: int, width: float) -> str:
    if text_width(line, size) <= width:
        return line
    line = line.removesuffix(_ELLIPSIS)
    while line and text_width(line + _ELLIPSIS, size) > width:
        line = line[:-1]
    return line.rstrip() + _ELLIPSIS


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """`share` of `colour`, the rest of `other`."""
    return tuple(round(share * a + (1 - share) * b) for a, b in zip(colour, other, strict=True))


class Canvas:
    """A picture to draw on, in pixels from its upper left corner."""

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGB", (width * _SCALE, height * _SCALE), BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)

    def finish(self) -> Image.Image:
        """The picture, RGB."""
        return self.image.reduce(_SCALE)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        corners = [round(each * _SCALE) for each in (left, top, right, bottom)]
        self.draw.rectangle((corners[0], corners[1], corners[2] - 1, corners[3] - 1), fill)

    def line(self, points: Sequence[Point], colour: Colour, width: float = 1) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self.draw.line(scaled, colour, max(1, round(width * _SCALE)), joint="curve")

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self.draw.polygon([(x * _SCALE, y * _SCALE) for x, y in points], fill)

    def dot(self, at: Point, radius: float, fill: Colour, outline: Colour) -> None:
        (x, y), radius = at, radius * _SCALE
        corners = (x * _SCALE - radius, y * _SCALE - radius, x * _SCALE + radius, y * _SCALE + radius)
        self.draw.ellipse(corners, fill, outline, 2 * _SCALE)

    def text(self, at: Point, words: str, colour: Colour = TEXT, size: int = SMALL, anchor: str = "la") -> None:
        """`anchor` says which point of the words is `at`, as in Pillow: l, m, r and then a (top), m, s (baseline)."""
        self.draw.text((at[0] * _SCALE, at[1] * _SCALE), words, colour, _font(size * _SCALE), anchor)


def nice_step(span: float, most: float) -> float:
    """1, 2 or 5 times a power of ten: the smallest that goes into `span` at most `most` times."""
    least = max(span / most, 1e-300)
    power = 10.0 ** math.floor(math.log10(least))
    return next((power * factor for factor in (1, 2, 5) if power * factor >= least * (1 - 1e-9)), power * 10)


class Timeline:
    """Where frames lie between `left` and `right`: frame f fills the stretch from x(f) to x(f + 1)."""

    def __init__(self, num_frames: int, fps: float, left: float, right: float):
        self.num_frames, self.fps, self.left, self.right = num_frames, fps, left, right

    @property
    def columns(self) -> int:
        """How many places can be told apart: frames, or pixels where those are fewer."""
        return min(self.num_frames, int(self.right - self.left))

    def x(self, frame: float) -> float:
        return self.left + (self.right - self.left) * frame / self.num_frames

    def column(self, frames: np.ndarray) -> np.ndarray:
        """The column of each frame."""
        return frames * self.columns // self.num_frames

    def of_column(self, column: float) -> float:
        """Where a column begins."""
        return self.left + (self.right - self.left) * column / self.columns

    def draw_axis(self, canvas: Canvas, top: float) -> None:
        """Two rows of ticks and numbers below `top`: frames, then seconds."""
        canvas.line([(self.left, top), (self.right, top)], MUTED)
        room = (self.right - self.left) / 70
        step = max(1, round(nice_step(self.num_frames, room)))
        frames = [(frame, f"{frame}" if frame else "frame 0") for frame in range(0, self.num_frames, step)]
        self._draw_row(canvas, top, frames)
        step = self._seconds_step(room)
        count = math.ceil(self.num_frames / self.fps / step - 1e-9)
        seconds = [(number * step * self.fps, _time(number * step, step)) for number in range(count)]
        self._draw_row(canvas, top + 20, seconds, MUTED, 0)

    def _seconds_step(self, most: float) -> float:
        span = self.num_frames / self.fps
        if span / most > 1:
            fitting = [step for step in _SECONDS if span / step <= most]
            return fitting[0] if fitting else _SECONDS[-1] * max(1, round(nice_step(span / _SECONDS[-1], most)))
        return nice_step(span, most)

    def _draw_row(self, canvas: Canvas, top: float, ticks, colour: Colour = TEXT, tick: float = 5) -> None:
        end = -math.inf
        for frame, words in ticks:
            x, width = self.x(frame), text_width(words, SMALL)
            start = x if frame == 0 else x - width / 2
            if tick:
                canvas.line([(x, top), (x, top + tick)], MUTED)
            if start > end and start + width <= self.right + 10:
                canvas.text((start, top + 6), words, colour)
                end = start + width + 8


def _time(seconds: float, step: float) -> str:
    if step < 1:
        return f"{seconds:.{math.ceil(-math.log10(step) - 1e-9)}f} s" if step > 1e-6 else f"{seconds:.3g} s"
    if step < 60 and seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

"""Line plots of training logs."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT = 760, 260  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 24, 34  # around its axes; the legend stands on the right
INK, GRID = (40, 40, 40), (225, 225, 225)
COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (255, 127, 14), (148, 103, 189), (23, 190, 207), (140, 86, 75),
           (227, 119, 194), (90, 90, 90), (188, 189, 34), (0, 60, 120), (255, 187, 120), (152, 223, 138))  # fmt: skip
LOGARITHMIC = ("loss", "norm")

Line = list[tuple[float, float]]


def plot_csv(path: Path) -> Image.Image:
    """A log, of columns step, seconds and figures, as lines over the steps: of one with a loss a panel a figure, else
    all in one. Loss and norm have a logarithmic axis."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else ()) if name not in ("step", "seconds")]
    lines = {name: [(float(row["step"]), float(row[name])) for row in rows] for name in names}
    groups = [[name] for name in names] if "loss" in names else [names]
    picture = Image.new("RGB", (WIDTH, HEIGHT * len(groups)), "white")
    for place, group in enumerate(groups):
        scale = _Log() if group[0:1] and group[0] in LOGARITHMIC else _Linear()
        panel = _panel(path.stem, {name: lines[name] for name in group}, scale)
        picture.paste(panel, (0, HEIGHT * place))
    return picture


class _Linear:
    """An axis on which equal steps are equal differences."""

    name = ""

    def place(self, value: float) -> float:
        """Where the value is, in units of the axis."""
        return value

    def holds(self, value: float) -> bool:
        """Whether the value has a place."""
        return math.isfinite(value)

    def ticks(self, low: float, high: float) -> list[float]:
        """At most seven round values from `low` to `high`."""
        rough = (high - low) / 6
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


class _Log(_Linear):
    """An axis on which equal steps are equal ratios."""

    name = ", logarithmic"

    def place(self, value: float) -> float:
        return math.log10(value)

    def holds(self, value: float) -> bool:
        return math.isfinite(value) and value > 0

    def ticks(self, low: float, high: float) -> list[float]:
        """1, 2 and 5 of each power of ten; of a very wide range the powers alone."""
        factors = (1, 2, 5) if high / low < 1e4 else (1,)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [f * 10.0**power for power in powers for f in factors if low * 0.999 <= f * 10.0**power <= high * 1.001]


@dataclass(frozen=True)
class _Axis:
    """One side of a panel: values from low to high on pixels from first to last."""

    scale: _Linear
    low: float
    high: float
    first: int
    last: int

    def pixel(self, value: float) -> float:
        start, end = self.scale.place(self.low), self.scale.place(self.high)
        return self.first + (self.scale.place(value) - start) / (end - start) * (self.last - self.first)


def _axis(values: Sequence[float], scale: _Linear, first: int, last: int) -> _Axis:
    """An axis that holds the values; of a single one, some room round it."""
    low, high = min(values), max(values)
    if low == high:
        low, high = (low * 0.9, high * 1.1) if low > 0 else (low - 1, high + 1)
    return _Axis(scale, low, high, first, last)


def _panel(title: str, lines: dict[str, Line], scale: _Linear) -> Image.Image:
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    kept = {name: [point for point in line if scale.holds(point[1])] for name, line in lines.items()}
    points = [point for line in kept.values() for point in line]
    pen.text((LEFT, 6), f"{title}{scale.name}" if points else f"{title}: no rows yet", fill=INK)
    if not points:
        return picture
    across = _axis([x for x, _ in points], _Linear(), LEFT, WIDTH - RIGHT)
    upwards = _axis([y for _, y in points], scale, HEIGHT - BOTTOM, TOP)
    _draw_axes(pen, across, upwards)
    for place, (name, line) in enumerate(kept.items()):
        colour, y = COLOURS[place % len(COLOURS)], TOP + 4 + 16 * place
        pixels = [(across.pixel(step), upwards.pixel(value)) for step, value in line]
        pen.line(pixels, fill=colour, width=2)
        if pixels:  # a line of one point would not be seen
            pen.ellipse((pixels[-1][0] - 2, pixels[-1][1] - 2, pixels[-1][0] + 2, pixels[-1][1] + 2), fill=colour)
        pen.line((WIDTH - RIGHT + 14, y + 6, WIDTH - RIGHT + 32, y + 6), fill=colour, width=3)
        pen.text((WIDTH - RIGHT + 38, y), name, fill=INK)
    return picture


def _draw_axes(pen: ImageDraw.ImageDraw, across: _Axis, upwards: _Axis) -> None:
    for value in upwards.scale.ticks(upwards.low, upwards.high):
        y, label = upwards.pixel(value), f"{value:.4g}"
        pen.line((across.first, y, across.last, y), fill=GRID)
        pen.text((across.first - 6 - pen.textlength(label), y - 6), label, fill=INK)
    for value in across.scale.ticks(across.low, across.high):
        x, label = across.pixel(value), f"{value:g}"
        pen.line((x, upwards.first, x, upwards.first + 4), fill=INK)
        pen.text((x - pen.textlength(label) / 2, upwards.first + 6), label, fill=INK)
    pen.text((across.last - pen.textlength("step"), upwards.first + 19), "step", fill=INK)
    pen.rectangle((across.first, upwards.last, across.last, upwards.first), outline=INK)

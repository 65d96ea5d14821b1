"""A plan of windows as a picture and in words: which frames they hold, what each counts, and what they cost.

The picture is drawn as those of schedules are, on the same width of frames, so that one can be put below the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..schedules.drawing import COLOURS, LABEL, PANEL, TEXT, Canvas, Timeline, fit, mix
from ..schedules.preview_keys import FOOT, HEIGHT, LINE, MARGIN, WIDTH
from .context_windows import ContextWindows, Windows

MOST_LANES = 24  # rows of bars; of a plan that overlaps more, the others are left out
LANE, GAP = 34, 3  # pixels: the highest a row of bars becomes, and what is between two
FAINT = 0.12  # of a bar's colour, where the window counts nothing
BARS = COLOURS[0], COLOURS[1]


def preview(
    modifier: ContextWindows, num_frames: int, fps: float = 8.0, above: Tensor | None = None, left: float = 1.0
) -> Image.Image:
    """The windows of a clip as an RGB picture, 640 wide: a bar for each, the brighter the more a frame counts in it.

    left: 0..1, where in the denoising: a plan that shifts is another one there. above: a picture `[h, w, 3]` in 0..1 to
    put on top at the same width, as a schedule's. Windows that overlap lie below each other; where frames are more than
    pixels, a bar shows the mean of a pixel's frames. A clip of one window is one bar.
    """
    windows = modifier.at(num_frames, left)
    line = Timeline(num_frames, fps, MARGIN, WIDTH - MARGIN)
    lanes, shares, parity, missing = _lanes(windows, line)
    title = headline(modifier, num_frames) + (f"; {missing} of them are not drawn" if missing else "")
    words = fit(title, LABEL, line.right - line.left, 2)
    top = 8 + LINE * len(words) + 6
    tall = min(LANE, max(10, (HEIGHT - FOOT - top) // lanes - GAP))
    bottom = top + lanes * (tall + GAP)
    canvas = Canvas(WIDTH, bottom + FOOT)
    for number, its in enumerate(words):
        canvas.text((line.left, 8 + number * LINE), its, TEXT, LABEL)
    for lane in range(lanes):
        _draw_lane(canvas, shares[lane], parity[lane], line, top + lane * (tall + GAP), tall)
    line.draw_axis(canvas, bottom)
    return canvas.finish() if above is None else _stacked(above, canvas.finish())


def _stacked(pixels: Tensor, below: Image.Image) -> Image.Image:
    above = Image.fromarray((pixels.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy())
    above = above.resize((WIDTH, max(1, round(above.height * WIDTH / above.width))))
    both = Image.new("RGB", (WIDTH, above.height + below.height))
    both.paste(above, (0, 0))
    both.paste(below, (0, above.height))
    return both


def headline(modifier: ContextWindows, num_frames: int) -> str:
    """The plan in one line."""
    if not modifier.applies(num_frames):
        return f"{num_frames} frames: one window of up to {modifier.length}, so nothing is cut"
    windows = modifier.at(num_frames, 1.0)
    return (
        f"{modifier.plan}, {modifier.fuse}: {len(windows.frames)} windows of {modifier.length} frames, "
        f"each frame {windows.work:.2f} times"
    )


def described(modifier: ContextWindows, num_frames: int, memory: tuple[int, int] | None = None) -> str:
    """The plan in words, a fact a line.

    memory: bytes that one window and the whole clip take at once beside the weights, where they are known.
    """
    windows = modifier.at(num_frames, 1.0)
    starts = [frames[0] for frames in windows.frames]
    listed = ", ".join(map(str, starts[:20])) + (f", ... {starts[-1]}" if len(starts) > 20 else "")
    lines = [
        headline(modifier, num_frames),
        f"where: {modifier.where}",
        f"frames: {num_frames}",
        f"windows: {len(starts)} of {windows.length} frames, from frame {listed}",
        f"work: {windows.work:.2f} times that of the frames without windows"
        + (", for what attends over time; hardly more than 1 in all" if modifier.where == "attention" else ""),
    ]
    if modifier.applies(num_frames) and modifier.at(num_frames, 0.5).frames != windows.frames:
        lines.append("the windows move while the noise falls; these are the first step's")
    if memory is not None:
        one, whole = (f"{size / 2**30:.2f} GiB" for size in memory)
        lines.append(f"memory: {one} for a window, {whole} for all frames at once, beside the weights")
    return "\n".join(lines)


def _lanes(windows: Windows, line: Timeline) -> tuple[int, np.ndarray, np.ndarray, int]:
    """How many rows of bars; what each pixel column of each shows (0..1, -1 for nothing), and in which of two colours;
    how many windows have no row."""
    lane_of = np.array(list(_places(windows, line.num_frames)))
    kept = lane_of < MOST_LANES
    lanes = int(lane_of[kept].max()) + 1
    columns = line.column(windows.indices.numpy()[kept])
    place = (lane_of[kept][:, None] * line.columns + columns).ravel()
    shape = lanes, line.columns
    count = np.bincount(place, minlength=lanes * line.columns).reshape(shape)
    total = np.bincount(place, windows.weights.numpy()[kept].ravel(), lanes * line.columns).reshape(shape)
    parity = np.zeros(lanes * line.columns, int)
    parity[place] = np.repeat(np.flatnonzero(kept) % 2, columns.shape[1])
    shares = np.where(count > 0, total / np.maximum(count, 1), -1.0)
    return lanes, shares, parity.reshape(shape), int((~kept).sum())


def _places(windows: Windows, num_frames: int) -> Iterator[int]:
    """The row in which each window lies: the first that is free from its first frame to its last.

    Windows of other steps have rows of their own.
    """
    ends: dict[int, tuple[int, int]] = {}  # of each row in use, its first window's start and its last one's end
    rows, step_before = 0, None
    for frames in windows.frames:
        step = (frames[1] - frames[0]) % num_frames if len(frames) > 1 else 1
        start, end = frames[0], frames[0] + step * (len(frames) - 1)
        if step != step_before:
            ends, step_before = {}, step
        # One that passes the clip's end goes on at its beginning, where the row's first window may be.
        fitting = (row for row, (first, last) in ends.items() if last < start and end - num_frames < first)
        row = next(fitting, rows)
        rows = max(rows, row + 1)
        ends[row] = (ends.get(row, (start, end))[0], end)
        yield row


def _draw_lane(canvas: Canvas, shares: np.ndarray, parity: np.ndarray, line: Timeline, top: float, tall: float) -> None:
    """A row of bars, drawn run by run of columns that look alike."""
    canvas.box(line.left, top, line.right, top + tall, PANEL)
    steps = np.round(shares * 64).astype(int) * 2 + parity
    edges = np.flatnonzero(np.diff(steps)) + 1
    for start, stop in zip([0, *edges], [*edges, len(steps)], strict=True):
        if shares[start] >= 0:
            strength = FAINT + (1 - FAINT) * min(math.sqrt(shares[start]), 1.0)
            colour = mix(BARS[parity[start]], PANEL, strength)
            canvas.box(line.of_column(start), top, line.of_column(stop), top + tall, colour)

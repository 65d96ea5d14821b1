"""Which frames the windows of a plan hold. A new plan is one function and one row of `PLANS`.

Every function is `(frames, length, overlap, stride, offset) -> rows` for a clip of more `frames` than `length`. Each
frame is in a window, and every window has `length` different frames. Strides are those of AnimateDiff's contexts (Guo
et al., arXiv 2307.04725, whose published code windows longer clips): windows of neighbours, then of every 2nd frame, of
every 4th and so on, which tie together what is further apart than a window is long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """Windows of one kind, in order of time.

    starts: their first frames, rising; windows that pass the clip's end go on at its beginning. step: how many frames a
    window goes on from each of its frames to the next.
    """

    starts: tuple[int, ...]
    step: int = 1


@dataclass(frozen=True)
class Plan:
    """A row of `PLANS`.

    rows: the function, see above. shifts: whether it heeds `offset`, 0 .. length - overlap - 1. loops: whether the
    last frame is followed by the first.
    """

    rows: Callable[[int, int, int, int, int], list[Row]]
    shifts: bool = False
    loops: bool = False


def static(frames: int, length: int, overlap: int, stride: int, offset: int) -> list[Row]:
    """A window every length - overlap frames; the last is moved back, so that it ends with the clip."""
    return [Row(_every(length - overlap, frames, length))]


def uniform(frames: int, length: int, overlap: int, stride: int, offset: int) -> list[Row]:
    """Static windows of every 1st, 2nd, 4th, ... frame, `stride` rows of them, as long as they fit into the clip."""
    steps = [step for step in _steps(stride, frames) if (length - 1) * step < frames]
    return [Row(_every(length * step - overlap, frames, (length - 1) * step + 1), step) for step in steps]


def looped(frames: int, length: int, overlap: int, stride: int, offset: int) -> list[Row]:
    """The same on a ring: as many windows as a window every length * step - overlap frames takes, at even distances.

    None of them is moved, so no place of the ring differs from another: with n windows a row, the plan is unchanged
    when the clip is turned by frames / n frames, if that is a whole number, and by frames / gcd(frames, n) in any case.
    """
    rows = []
    for step in (step for step in _steps(stride, frames) if length * step <= frames):
        number = -(-frames // (length * step - overlap))
        rows.append(Row(tuple(index * frames // number for index in range(number)), step))
    return rows


def batched(frames: int, length: int, overlap: int, stride: int, offset: int) -> list[Row]:
    """Windows side by side, whatever the overlap; the last is moved back."""
    return [Row(_every(length, frames, length))]


def shifted(frames: int, length: int, overlap: int, stride: int, offset: int) -> list[Row]:
    """Static windows that begin `offset` frames later, between one at the clip's beginning and one at its end."""
    hop = length - overlap
    return [Row((0, *range(offset or hop, frames - length, hop), frames - length))]


def _steps(stride: int, frames: int) -> list[int]:
    """1, 2, 4, ... of `stride` rows, but none longer than the clip."""
    return [2**row for row in range(min(stride, frames.bit_length()))]


def _every(hop: int, frames: int, span: int) -> tuple[int, ...]:
    """The starts of windows that span `span` frames, every `hop` frames and at the end."""
    return (*range(0, frames - span, hop), frames - span)


PLANS: dict[str, Plan] = {
    "static": Plan(static),
    "uniform": Plan(uniform),
    "looped": Plan(looped, loops=True),
    "batched": Plan(batched),
    "shifted": Plan(shifted, shifts=True),
}

SHIFT = 5**0.5
"""By how many hops the plan `shifted` moves on with each timestep: see `offset`."""


def offset(left: float, hop: int) -> int:
    """By how many frames, 0 .. hop - 1, a plan that shifts is moved where so much noise (0..1) is left.

    A Kronecker sequence over the timestep n, 0..999: the fraction of n sqrt(5), times hop. Its places spread evenly
    for steps at any distance, more so than random ones (for the usual numbers of steps better than multiples of the
    golden ratio, whose distances some numbers of steps meet), and depend on nothing but the noise that is left.
    """
    return int(round(left * 999) * SHIFT % 1.0 * hop)

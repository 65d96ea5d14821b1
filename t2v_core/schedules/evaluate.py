"""What an expression is worth at each of many frames: numpy on blocks of frames, and a stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from ..errors import T2VError
from .expressions import Expression
from .functions import FUNCTIONS

MAX_FRAMES = 10_000_000
_BLOCK = 4096  # frames computed at once: the stack of a long expression stays small

_ARITHMETIC = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "//": np.floor_divide,
    "%": np.mod,
    "**": np.power,
}
_COMPARISONS = {
    "<": np.less,
    ">": np.greater,
    "<=": np.less_equal,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}
_BITS = {"&": np.bitwise_and, "|": np.bitwise_or}


@dataclass(frozen=True)
class Clip:
    """What a schedule is evaluated for: frames 0 .. num_frames - 1 at `fps` frames a second.

    `seed` is `s` in expressions; `variables` are numbers, or lists of one number a frame, under names of their own.
    `max_f` is the last frame here; a dialect may say otherwise for keys.
    """

    num_frames: int
    fps: float = 8.0
    seed: float = 0.0
    variables: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_frames <= MAX_FRAMES:
            raise T2VError(f"num_frames is {self.num_frames}; it must lie between 1 and {MAX_FRAMES:,}")
        if not 0 < self.fps < float("inf"):
            raise T2VError(f"fps is {self.fps}; it must be a number above 0")

    def environment(self, frames: np.ndarray, max_f: float | None = None) -> dict[str, np.ndarray]:
        """The variables at `frames`."""
        t = frames.astype(np.float64)
        known = {"t": t, "sec": t / self.fps, "fps": np.float64(self.fps), "s": np.float64(self.seed)}
        known["max_f"] = np.float64(self.num_frames - 1 if max_f is None else max_f)
        for name, value in (self.variables or {}).items():
            numbers = np.asarray(value, np.float64)
            if numbers.ndim and numbers.shape != (self.num_frames,):
                raise T2VError(f"{name} has shape {numbers.shape}; one number, or {self.num_frames}: one a frame")
            known[name] = numbers[frames] if numbers.ndim else numbers[()]
        return known


def select_frames(frames, num_frames: int) -> np.ndarray:
    """`frames` (None: all of them) as int64 indices, each checked to be in the clip."""
    if frames is None:
        return np.arange(num_frames)
    indices = np.asarray(frames)
    if indices.size and (indices.ndim != 1 or indices.dtype.kind not in "iu"):
        raise T2VError("frames must be a list of whole numbers")
    indices = indices.astype(np.int64).reshape(-1)
    if indices.size and not (0 <= indices.min() and indices.max() < num_frames):
        raise T2VError(f"frames reach from {indices.min()} to {indices.max()}; the clip has 0 to {num_frames - 1}")
    return indices


def compute(expression: Expression, clip: Clip, frames: np.ndarray, max_f: float | None = None) -> np.ndarray:
    """float64 `[len(frames)]`: the expression at each frame. It may hold nan and inf, where mathematics has no value.

    A name that `clip` does not know is a T2VError.
    """
    values = np.empty(len(frames))
    with np.errstate(all="ignore"):
        for start in range(0, len(frames), _BLOCK):
            block = frames[start : start + _BLOCK]
            values[start : start + _BLOCK] = _run(expression, clip.environment(block, max_f))
    return values


def _run(expression: Expression, environment: dict[str, np.ndarray]):
    stack: list = []
    for kind, value, count in expression.operations:
        if kind in ("number", "constant"):
            stack.append(np.float64(value))
        elif kind == "name":
            if value not in environment:
                raise T2VError(f"the schedule uses {value}, which was given no value")
            stack.append(environment[value])
        else:
            operands = stack[-count:]
            del stack[-count:]
            stack.append(_OPERATIONS[kind](value, operands))
    return _numbers(stack.pop())


def _numbers(x):
    """True and false as 1 and 0."""
    return x.astype(np.float64) if x.dtype == np.bool_ else x


def _call(name, operands):
    return FUNCTIONS[name].compute(*map(_numbers, operands))


def _prefix(sign, operands):
    [x] = operands
    if sign == "not":
        return x == 0
    if sign == "~" and x.dtype == np.bool_:
        return ~x
    x = _numbers(x)
    if sign == "~":
        return _whole(x, -x - 1.0)
    return -x if sign == "-" else x


def _binary(sign, operands):
    left, right = operands
    if sign == "and":
        return (left != 0) & (right != 0)
    if sign == "or":
        return (left != 0) | (right != 0)
    if sign in _ARITHMETIC:
        return _ARITHMETIC[sign](_numbers(left), _numbers(right))
    if left.dtype == np.bool_ and right.dtype == np.bool_:
        return _BITS[sign](left, right)
    left, right = _numbers(left), _numbers(right)
    bits = _BITS[sign](*(np.where(np.abs(x) < 2.0**53, x, 0.0).astype(np.int64) for x in (left, right)))
    return _whole(left, _whole(right, bits.astype(np.float64)))


def _whole(x, result):
    """`result`, but nan where x is no whole number below 2^53."""
    return np.where((x == np.floor(x)) & (np.abs(x) < 2.0**53), result, np.nan)


def _compare(signs, operands):
    pairs = zip(signs, operands, operands[1:], strict=False)
    return reduce(np.logical_and, (_COMPARISONS[sign](_numbers(a), _numbers(b)) for sign, a, b in pairs))


def _select(_, operands):
    condition, then, otherwise = operands
    return np.where(condition != 0, _numbers(then), _numbers(otherwise))


def _choose(_, operands):
    then, condition, otherwise = operands
    return _select(None, (condition, then, otherwise))


_OPERATIONS = {
    "call": _call,
    "prefix": _prefix,
    "binary": _binary,
    "compare": _compare,
    "select": _select,
    "choose": _choose,
}

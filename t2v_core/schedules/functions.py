"""The names that expressions know: constants, variables, functions of numbers.

Every function works on float64 numbers or arrays and depends on nothing but its arguments, so a slice of frames has
the values of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np

CONSTANTS = {"pi": np.pi, "tau": 2 * np.pi, "e": np.e}
VARIABLES = ("t", "max_f", "fps", "sec", "s")
WORDS = ("and", "or", "not", "if", "else")

# what people write for a name that is known here under another
ALIASES = {
    "frame": "t",
    "frames": "max_f",
    "num_frames": "max_f",
    "max_frames": "max_f",
    "seconds": "sec",
    "time": "sec",
    "seed": "s",
    "random": "rand",
    "ln": "log",
    "power": "pow",
    "mix": "lerp",
    "clamp": "clip",
    "frac": "fract",
    "iif": "where",
    "avg": "lerp",
}


@dataclass(frozen=True)
class Function:
    """`compute` takes `least` to `most` numbers (None: any number of them); `shape` is how it is written."""

    compute: Callable
    least: int
    most: int | None
    shape: str


def fract(x):
    """x - floor(x), in [0, 1)."""
    return x - np.floor(x)


def pulse(x, width=0.5):
    """1 in the first `width` of each period of length 1, else 0."""
    return np.where(fract(x) < width, 1.0, 0.0)


def triangle(x):
    """Period 1: 0 at whole x, 1 half way between."""
    return 1.0 - np.abs(2.0 * fract(x) - 1.0)


def smoothstep(low, high, x):
    """0 below `low`, 1 above `high`, 3u^2 - 2u^3 between; a step where the two are equal (GLSL leaves that open)."""
    u = np.where(low == high, np.where(x >= low, 1.0, 0.0), np.clip((x - low) / (high - low), 0.0, 1.0))
    return u * u * (3.0 - 2.0 * u)


def beat(t, fps, bpm, phase=0.0):
    """1 on each beat, falling in a straight line to 0 at the next; `phase` delays the beats, in beats.

    The beats passed are t * bpm / (60 fps), in this order: where that is a whole number it comes out whole.
    """
    return 1.0 - fract(t * bpm / (60.0 * fps) - phase)


def rand(seed):
    """A number in [0, 1) that looks random and depends on `seed` alone; `rand(t)` is another one in each frame."""
    return _unit(_mix(_bits(seed)))


def noise(x, seed=0.0):
    """Smooth value noise in [-1, 1): random numbers at whole x, joined by smoothstep; another for another seed."""
    key = _mix(_bits(seed))
    low = np.floor(x)
    u = x - low
    start, stop = (_unit(_mix(_bits(place) ^ key)) for place in (low, low + 1.0))
    return 2.0 * (start + u * u * (3.0 - 2.0 * u) * (stop - start)) - 1.0


def _bits(x) -> np.ndarray:
    """The 64 bits of a float64, with one zero."""
    return (np.asarray(x, np.float64) + 0.0).view(np.uint64)


def _mix(bits: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele, Lea & Flood 2014, figure 15), on the next state of its counter."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _unit(bits: np.ndarray) -> np.ndarray:
    """The upper 53 bits as a number in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _many(compute: Callable) -> Callable:
    return lambda *numbers: reduce(compute, numbers)


def _one(*names: str) -> dict[str, Function]:
    return {name: Function(getattr(np, name), 1, 1, f"{name}(x)") for name in names}


FUNCTIONS = _one("sin", "cos", "tan", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "arcsinh", "arccosh")
FUNCTIONS |= _one("arctanh", "exp", "expm1", "log", "log2", "log10", "log1p", "sqrt", "abs", "floor", "ceil", "trunc")
FUNCTIONS |= _one("sign", "radians", "degrees")
FUNCTIONS |= {
    "asin": Function(np.arcsin, 1, 1, "asin(x)"),
    "acos": Function(np.arccos, 1, 1, "acos(x)"),
    "atan": Function(np.arctan, 1, 1, "atan(x)"),
    "atan2": Function(np.arctan2, 2, 2, "atan2(y, x)"),
    "arctan2": Function(np.arctan2, 2, 2, "arctan2(y, x)"),
    "pow": Function(np.power, 2, 2, "pow(x, y)"),
    "fmod": Function(np.fmod, 2, 2, "fmod(x, y)"),
    "hypot": Function(np.hypot, 2, 2, "hypot(x, y)"),
    "round": Function(np.rint, 1, 1, "round(x)"),
    "fract": Function(fract, 1, 1, "fract(x)"),
    "min": Function(_many(np.minimum), 2, None, "min(a, b, ...)"),
    "max": Function(_many(np.maximum), 2, None, "max(a, b, ...)"),
    "minimum": Function(np.minimum, 2, 2, "minimum(a, b)"),
    "maximum": Function(np.maximum, 2, 2, "maximum(a, b)"),
    "clip": Function(lambda x, low, high: np.minimum(np.maximum(x, low), high), 3, 3, "clip(x, low, high)"),
    "lerp": Function(lambda a, b, w: a + w * (b - a), 3, 3, "lerp(a, b, w)"),
    "where": Function(lambda c, a, b: np.where(c != 0, a, b), 3, 3, "where(condition, a, b)"),
    "step": Function(lambda edge, x: np.where(x >= edge, 1.0, 0.0), 2, 2, "step(edge, x)"),
    "smoothstep": Function(smoothstep, 3, 3, "smoothstep(low, high, x)"),
    "pulse": Function(pulse, 1, 2, "pulse(x[, width])"),
    "square": Function(pulse, 1, 1, "square(x)"),
    "saw": Function(fract, 1, 1, "saw(x)"),
    "triangle": Function(triangle, 1, 1, "triangle(x)"),
    "noise": Function(noise, 1, 2, "noise(x[, seed])"),
    "rand": Function(rand, 1, 1, "rand(seed)"),
    "beat": Function(beat, 1, 2, "beat(bpm[, phase])"),  # the parser puts t and fps before the arguments
}

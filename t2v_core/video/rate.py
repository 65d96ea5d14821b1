"""Frames per second as an exact fraction."""

from __future__ import annotations

import math
from fractions import Fraction
from numbers import Rational, Real

from ..errors import VideoError

LOWEST, HIGHEST = Fraction(1, 100), Fraction(1000)
_MAX_TERM = 1_000_000
"""Files count time in ticks of 1/numerator second, denominator ticks a frame; larger terms overflow players."""
_NTSC = (12, 15, 24, 30, 48, 60, 96, 120, 240)
"""Rates that television slowed by 1000/1001 and that people write rounded: 23.976, 23.98, 29.97, 59.94."""


def frame_rate(fps: float | Fraction) -> Fraction:
    """`fps` as the fraction that was meant, between 0.01 and 1000 frames a second.

    Integers and fractions are taken as they are. A float that is n * 1000/1001 rounded to two, three or more decimals,
    n one of the usual rates, becomes exactly that (23.976 -> 24000/1001); any other the nearest fraction with a
    denominator up to 1000 (12.5 -> 25/2). VideoError for anything else.
    """
    if isinstance(fps, bool) or not isinstance(fps, Real):
        raise VideoError(f"fps is {fps!r}; it must be a number of frames per second, such as 24, 29.97 or a Fraction")
    if not LOWEST <= fps <= HIGHEST:  # NaN is not, either
        raise VideoError(f"fps is {fps}; it must lie between {float(LOWEST)} and {HIGHEST} frames per second")
    rate = Fraction(fps) if isinstance(fps, Rational) else _meant(float(fps))
    if max(rate.numerator, rate.denominator) > _MAX_TERM:
        raise VideoError(f"fps is {rate}; numerator and denominator must not exceed {_MAX_TERM}")
    return rate


def _meant(fps: float) -> Fraction:
    for nominal in _NTSC:
        slowed = Fraction(nominal * 1000, 1001)
        # the tolerance forgives single precision
        if any(math.isclose(fps, round(float(slowed), decimals), rel_tol=1e-6) for decimals in (2, 3, 6)):
            return slowed
    return Fraction(fps).limit_denominator(1000)

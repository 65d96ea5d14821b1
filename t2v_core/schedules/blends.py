"""How one key becomes the next: `@hold`, `@linear`, `@smoothstep`, `@ease_in`, `@bezier(x1, y1, x2, y2)`, `@slerp`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

import numpy as np

from .lexer import Lexer
from .source import Slip

# The timing functions of these names in CSS (W3C, CSS Easing Functions Level 1, section 2.2).
_EASES = {
    "ease_in": (0.42, 0.0, 1.0, 1.0),
    "ease_out": (0.0, 0.0, 0.58, 1.0),
    "ease_in_out": (0.42, 0.0, 0.58, 1.0),
}
CURVES = ("hold", "linear", "smoothstep", *_EASES)
_KNOWN = (*CURVES, "bezier", "slerp")


@dataclass(frozen=True)
class Blend:
    """`curve` is one of CURVES or bezier, then with its `points` x1, y1, x2, y2; `slerp` is for texts alone."""

    curve: str = "linear"
    points: tuple[float, ...] = ()
    slerp: bool = False

    def weights(self, u: np.ndarray) -> np.ndarray:
        """The share of the next key, where `u` in [0, 1) of the way to it is done. A Bezier curve may leave 0..1."""
        if self.curve == "hold":
            return np.zeros_like(u)
        if self.curve == "smoothstep":
            return u * u * (3.0 - 2.0 * u)
        if self.curve == "linear":
            return u
        x1, y1, x2, y2 = self.points or _EASES[self.curve]
        low, high = np.zeros_like(u), np.ones_like(u)
        for _ in range(54):  # the bits of a float64: bisection for the s with x(s) = u
            middle = (low + high) / 2
            below = _cubic(x1, x2, middle) < u
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return _cubic(y1, y2, high)


HOLD, LINEAR = Blend("hold"), Blend("linear")


def _cubic(first: float, second: float, s: np.ndarray) -> np.ndarray:
    """The Bezier polynomial from 0 to 1 with these two inner points."""
    return 3.0 * s * (1.0 - s) ** 2 * first + 3.0 * s**2 * (1.0 - s) * second + s**3


def parse_blend(lexer: Lexer, text: bool) -> Blend | None:
    """Read the marks at `lexer`, if there are any: one curve, and for texts `@slerp` with it or alone."""
    blend, curves = None, 0
    while lexer.text == "@":
        start = lexer.start
        lexer.advance()
        name = lexer.text if lexer.kind == "name" else ""
        if name not in _KNOWN:
            near = difflib.get_close_matches(lexer.text.lower()[:40], _KNOWN, 1)
            hint = f"did you mean @{near[0]}?" if near else ""
            raise Slip(lexer.start, f"expected a blend after `@`, found {lexer.describe()}; {_list()}", hint)
        lexer.advance()
        blend = blend or LINEAR
        if name == "slerp" and (not text or blend.slerp):
            raise Slip(start, "@slerp stands here twice" if text else "@slerp is for texts: numbers have no angle")
        if name == "slerp":
            blend = replace(blend, slerp=True)
            continue
        curves += 1
        if curves > 1:
            raise Slip(start, "a key has one blend to the next key; this is its second")
        blend = replace(blend, curve=name, points=_points(lexer) if name == "bezier" else ())
    if blend and blend.slerp and blend.curve == "hold":
        raise Slip(start, "@hold and @slerp exclude each other: one of them blends")
    return blend


def named_blend(name: str) -> Blend:
    """The blend of this name for a whole schedule: one of CURVES, or slerp. Anything else is a ValueError."""
    if name == "slerp":
        return Blend(slerp=True)
    if name not in CURVES:
        raise ValueError(f"blend is {name!r}; known are {', '.join(CURVES)}, slerp")
    return Blend(name)


def _list() -> str:
    return "known are " + ", ".join(f"@{name}" for name in _KNOWN)


def _points(lexer: Lexer) -> tuple[float, ...]:
    """Four numbers in brackets; the first and the third, which are times, between 0 and 1."""
    form = "@bezier(x1, y1, x2, y2)"
    points: list[float] = []
    for separator in "(,,,":
        if lexer.text != separator:
            raise Slip(lexer.start, f"expected `{separator}` of {form}, found {lexer.describe()}")
        lexer.advance()
        sign = lexer.text if lexer.text in ("-", "+") else ""
        if sign:
            lexer.advance()
        if lexer.kind != "number":
            raise Slip(lexer.start, f"expected a number of {form}, found {lexer.describe()}")
        points.append(float(sign + lexer.text))
        if len(points) % 2 and not 0 <= points[-1] <= 1:
            raise Slip(lexer.start, f"x{len(points) // 2 + 1} of {form} is a time and lies between 0 and 1")
        if not abs(points[-1]) <= 1e6:
            raise Slip(lexer.start, f"y{len(points) // 2} of {form} is beyond a million")
        lexer.advance()
    if lexer.text != ")":
        raise Slip(lexer.start, f"expected `)` of {form}, found {lexer.describe()}")
    lexer.advance()
    return tuple(points)

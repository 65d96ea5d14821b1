"""What moves in a clip, and how: fits of the renderer's motions to a thing's track, of its cameras to the ground."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..clips.scenes import CAMERAS, GROWTH, HOPS, PAN, SPEEDS, SQUARE, TRAVEL, TURNS, ZOOM


def _between(table: dict[str, tuple[float, float]]) -> list[float]:
    """Midway between one speed's range and the next one's."""
    return [(table[a][1] + table[b][0]) / 2 for a, b in zip(SPEEDS, SPEEDS[1:], strict=False)]


GROWN = math.sqrt(GROWTH[1][0] / GROWTH[0][1])  # of the radius, last over first: from here on it is a motion
MOVED = TRAVEL["slow"][0] / 2  # of the centre, likewise
TRAVEL_LIMITS = _between(TRAVEL)
HOP_LIMITS, TURN_LIMITS = (_between({speed: (n, n) for speed, n in table.items()}) for table in (HOPS, TURNS))
# More counts than are drawn: what was generated may lie between.
HOP_COUNTS = torch.arange(HOPS["slow"] - 0.25, HOPS["fast"] + 0.76, 0.25)
TURN_COUNTS = torch.arange(TURNS["slow"] - 0.25, TURNS["fast"] + 0.51, 0.125)
HOP_PHASES = torch.arange(24) / 24
# What is tried of each camera, in units of the least that is drawn: the first stands for a camera as good as fixed.
STRENGTHS = (0.25, 0.75, 1.0, 1.25, 1.5, 1.75)


def _fit(waves: Tensor, track: Tensor) -> tuple[Tensor, Tensor]:
    """Complex factors `[k]` of `waves` `[k, f]` that bring them nearest to `track` `[f]`, both round their means.

    A real factor moves a real wave along x, an imaginary one along y.
    """
    waves, track = waves - waves.mean(dim=1, keepdim=True), track - track.mean()
    return (waves.conj() @ track) / waves.abs().square().sum(dim=1).clamp(min=1e-9), waves


def _miss(factors: Tensor, waves: Tensor, track: Tensor) -> Tensor:
    """Mean distance `[k]` of the waves with these factors from the track."""
    return (track - track.mean() - factors[:, None] * waves).abs().mean(dim=1)


def _pace(value: float, limits: list[float]) -> str:
    return SPEEDS[sum(value > limit for limit in limits)]


def motion_of(x: Tensor, y: Tensor, radius: Tensor, phase: Tensor) -> tuple[str, str]:
    """The motion and speed nearest to a track: centres and radii `[f]` at `phase` `[f]`, 0 at first and 1 at last."""
    slope = float(_fit(phase[None], radius)[0])
    first, last = (max(1e-6, float(radius.mean() + slope * (at - phase.mean()))) for at in (0, 1))
    if max(last / first, first / last) > GROWN:
        return "growing" if last > first else "shrinking", "medium"
    # Without the extremes, where a single frame that went wrong would be.
    if max(float(each.quantile(0.93) - each.quantile(0.07)) for each in (x, y)) < MOVED:
        return "still", "medium"
    track = torch.complex(x, y)
    # Each has its distance from the track first: the least is the one.
    return min(*_straight(track, phase), _bouncing(track, phase), _orbiting(track, phase))[1:]


def _straight(track: Tensor, phase: Tensor) -> list[tuple[float, str, str]]:
    """Along x and along y: distance from the track, motion and speed."""
    factor, waves = _fit(phase[None].to(track.dtype), track)
    fits = []
    for way, names in ((factor.real + 0j, ("left", "right")), (1j * factor.imag, ("up", "down"))):
        travel = float(way.real + way.imag)
        fits.append((float(_miss(way, waves, track)), names[travel > 0], _pace(abs(travel), TRAVEL_LIMITS)))
    return fits


def _bouncing(track: Tensor, phase: Tensor) -> tuple[float, str, str]:
    """Distance of the nearest hops from the track, motion and speed."""
    turns = HOP_COUNTS[:, None, None] * phase + HOP_PHASES[:, None]
    factors, waves = _fit(torch.sin(math.pi * turns).abs().flatten(0, 1).to(track.dtype), track)
    upwards = 1j * factors.imag.clamp(max=0)
    least, best = _miss(upwards, waves, track).min(dim=0)
    return float(least), "bouncing", _pace(float(HOP_COUNTS[best // len(HOP_PHASES)]), HOP_LIMITS)


def _orbiting(track: Tensor, phase: Tensor) -> tuple[float, str, str]:
    """Distance of the nearest circle, either way round, from the track, motion and speed."""
    counts = torch.cat([TURN_COUNTS, -TURN_COUNTS])
    factors, waves = _fit(torch.exp(2j * math.pi * counts[:, None] * phase), track)
    least, best = _miss(factors, waves, track).min(dim=0)
    return float(least), "orbiting", _pace(abs(float(counts[best])), TURN_LIMITS)


def _cameras(frames: int) -> list[tuple[str, Tensor]]:
    """Cameras to compare the ground with: name, and x and y of the world mid-frame and the scale, `[f, 3]`."""
    phase, rest = torch.linspace(0, 1, frames), torch.zeros(frames)
    ways = {
        "pan left": (-phase, rest, rest),
        "pan right": (phase, rest, rest),
        "pan up": (rest, -phase, rest),
        "pan down": (rest, phase, rest),
        "zoom in": (rest, rest, phase),
        "zoom out": (rest, rest, 1 - phase),
    }
    tried = [("fixed", torch.tensor([0.0, 0.0, 1.0]).expand(frames, 3))]
    for name in CAMERAS[1:]:
        least = PAN[0] if name.startswith("pan") else ZOOM[0] - 1
        x, y, zoomed = ways[name]
        for strength in STRENGTHS:
            view = torch.stack([x, y, zoomed], dim=1) * strength * least + torch.tensor([0.0, 0.0, 1.0])
            tried.append(("fixed" if strength == STRENGTHS[0] else name, view))
    return tried


def camera_of(squares: Tensor) -> str:
    """The camera that the ground was filmed by: `squares` `[f, n, n]`, -1 and 1 by turns, 0 where it is hidden.

    A camera explains the squares when their basic wave, followed as it would move it, adds up over all frames.
    """
    frames, size = squares.shape[:2]
    grid = (torch.arange(size) + 0.5) / size - 0.5
    tried = _cameras(frames)
    views = torch.stack([view for _, view in tried])  # k f 3
    places = views[..., :2, None] + grid / views[..., 2:, None]  # k f 2 n
    across, along = torch.exp(-1j * math.pi / SQUARE * places).unbind(dim=2)
    rows = torch.einsum("fyx,kfx->kfy", squares.to(across.dtype), across)
    # Squares are the product of two waves, so they are two diagonal waves.
    sums = [torch.einsum("kfy,kfy->k", rows, each).abs().square() for each in (along, along.conj())]
    return tried[int((sums[0] + sums[1]).argmax())][0]

"""A plan of windows as a `UNet3D` takes it: in its attention over time alone."""

from __future__ import annotations

from ..models.temporal_windows import TemporalWindows
from .context_windows import ContextWindows
from .plans import PLANS


def temporal_windows(windows: ContextWindows, frames: int, left: float) -> TemporalWindows | None:
    """For a clip of so many frames where so much noise is left (0..1); None where the clip is not cut."""
    if not windows.applies(frames):
        return None
    plan = windows.at(frames, left)
    return TemporalWindows.of(plan.indices, plan.weights, PLANS[windows.plan].loops)

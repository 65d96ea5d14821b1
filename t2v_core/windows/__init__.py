"""Windows over frames: a clip longer than the model was made for, denoised a few frames at a time."""

from .apply import MOST_AT_ONCE, Fused, batches
from .attention import temporal_windows
from .context_windows import PLACES, ContextWindows, Windows
from .fuse import FUSES
from .plans import PLANS

__all__ = [
    "FUSES", "MOST_AT_ONCE", "PLACES", "PLANS", "ContextWindows", "Fused", "Windows", "batches", "temporal_windows",
]  # fmt: skip

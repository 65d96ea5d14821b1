"""Windows over frames: a clip longer than the model was made for, denoised a few frames at a time."""

from .context_windows import PLACES, ContextWindows, Windows
from .fuse import FUSES
from .plans import PLANS

__all__ = ["FUSES", "PLACES", "PLANS", "ContextWindows", "Windows"]

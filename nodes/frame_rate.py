"""The frame rate as an input of the model."""

from __future__ import annotations

from ..t2v_core.diffusion import FrameRate
from ..t2v_core.video.rate import HIGHEST, LOWEST
from . import host


class T2VModelFps:
    """A model that is told another frame rate than its own."""

    TITLE = "T2V Model FPS"
    DESCRIPTION = (
        "Tells a model that takes a frame rate, as VideoCrafter2 does, which one to make a clip for, whatever samples "
        "it. Without this node it is the model's own."
    )
    CATEGORY = "T2V/sampling"
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The model with this frame rate.",)
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A model that takes a frame rate: VideoCrafter2."}),
                "fps": (
                    "FLOAT",
                    {
                        "default": 28.0,
                        "min": float(LOWEST),
                        "max": float(HIGHEST),
                        "step": 1.0,
                        "round": 0.001,
                        "tooltip": "Frames per second of the clip that is made: fewer, and more happens from one frame "
                        "to the next. VideoCrafter2 is used with 28. The file's own speed is set in T2V Save Video.",
                    },
                ),
            }
        }

    def patch(self, model, fps):
        return (host.current().patch(model, FrameRate(fps)),)

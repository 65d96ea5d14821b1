"""Clips longer than the model was made for."""

from __future__ import annotations

from ..t2v_core.diffusion import ContextWindows
from ..t2v_core.errors import T2VError
from ..t2v_core.windows import FUSES, PLACES, PLANS
from . import host


class T2VContextWindows:
    """A model that denoises long clips in windows."""

    TITLE = "T2V Context Windows"
    DESCRIPTION = (
        "For clips longer than the model was made for: whatever samples it, it sees a window of frames at a time, and "
        "the windows' results are averaged where they overlap. A clip of one window is made as without."
    )
    CATEGORY = "T2V/sampling"
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The model with these windows.",)
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model to be sampled."}),
                "length": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 1_000_000,
                        "tooltip": "Frames of a window: as many as the model was made for. 0 takes its own number.",
                    },
                ),
                "overlap": (
                    "INT",
                    {
                        "default": 4,
                        "min": 0,
                        "max": 1_000_000,
                        "tooltip": "Frames that a window shares with the next: fewer than length. More make the clip "
                        "more even and take more time. The plan batched has none.",
                    },
                ),
                "stride": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": 20,
                        "tooltip": "Rows of windows, for the plans uniform and looped: 1 is of neighbouring frames, 2 "
                        "also of every 2nd frame, 3 also of every 4th, and so on, which ties far frames together.",
                    },
                ),
                "plan": (
                    list(PLANS),
                    {
                        "default": "static",
                        "tooltip": "Where the windows are: static at even distances, uniform with the rows of stride, "
                        "looped also across the clip's end for a seamless loop, batched side by side, shifted at other "
                        "places in every step.",
                    },
                ),
                "fuse": (
                    list(FUSES),
                    {
                        "default": "pyramid",
                        "tooltip": "How much each frame of a window counts where windows overlap: flat all the same, "
                        "the others more in the window's middle than at its ends.",
                    },
                ),
                "where": (
                    list(PLACES),
                    {
                        "default": "latents",
                        "tooltip": "What is cut: latents denoises each window as a clip of its own, with memory for a "
                        "few windows; attention cuts only what attends over time, with memory for the whole clip.",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, length=None, overlap=None):
        overlap = overlap or 0  # None comes over a link: not known yet, as the model's own length, 0, is not
        try:
            ContextWindows(length or max(1, overlap + 1), overlap)
        except T2VError as error:
            return str(error)
        return True

    def patch(self, model, length, overlap, stride, plan, fuse, where):
        running = host.current()
        windows = ContextWindows(length or _own_length(running, model), overlap, stride, plan, fuse, where)
        return (running.patch(model, windows),)


def _own_length(running: host.Host, model: object) -> int:
    """The number of frames that the model was made for."""
    try:
        return running.native_size(model).num_frames
    except T2VError as error:
        raise T2VError(
            "length: the connected model was made for no number of frames, for it is not of T2V Load Model; give a "
            "number above 0"
        ) from error

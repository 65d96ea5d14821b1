"""Wishes for a video file that a format and a quality in a word do not say."""

from __future__ import annotations

from ..t2v_core.video import PRESETS, VideoOptions
from ..t2v_core.video.formats.options import AUDIO_LENGTHS, DITHERS, HIGHEST_BITRATE, MOST_COPIES, MOST_LOOPS
from .saving import OPTIONS

AUTO = "auto"


class T2VVideoOptions:
    """Exact quality, dither, loops, ping-pong and sound length, for the nodes that write videos."""

    TITLE = "T2V Video Options"
    DESCRIPTION = "Exact quality, dither, loops, ping-pong and the length of the sound, for T2V Save Video and its kin."
    CATEGORY = "T2V/video"
    RETURN_TYPES = (OPTIONS,)
    RETURN_NAMES = ("options",)
    OUTPUT_TOOLTIPS = ("For the input of that name of a node that writes a video.",)
    FUNCTION = "build"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "crf": (
                    "INT",
                    {
                        "default": -1,
                        "min": -1,
                        "max": 63,
                        "tooltip": "Constant rate factor: less is better and larger. -1: as the quality says.",
                    },
                ),
                "bitrate": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": HIGHEST_BITRATE,
                        "step": 0.1,
                        "round": 0.001,
                        "tooltip": "Average bit rate in Mbit/s, in the place of a crf. 0: constant quality.",
                    },
                ),
                "preset": (
                    [AUTO, *PRESETS],
                    {"default": AUTO, "tooltip": "How long the encoder may take: slower is smaller, hardly better."},
                ),
                "dither": (
                    list(DITHERS),
                    {
                        "default": DITHERS[0],
                        "tooltip": "Hides the steps of 8-bit colours. ordered: a fixed pattern; error diffusion: for "
                        "GIF, and what auto means there.",
                    },
                ),
                "loops": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": MOST_LOOPS,
                        "tooltip": "How often the clip plays. 0: for ever in GIF, WebP and APNG, once elsewhere. "
                        f"Formats that cannot say it hold the clip that often, up to {MOST_COPIES}.",
                    },
                ),
                "pingpong": ("BOOLEAN", {"default": False, "tooltip": "Play the clip forward, then backward."}),
                "audio_length": (
                    list(AUDIO_LENGTHS),
                    {
                        "default": AUDIO_LENGTHS[0],
                        "tooltip": "video: the sound is cut, or followed by silence. shortest: what ends first ends "
                        "both. longest: the last frame stays until the sound has ended.",
                    },
                ),
            }
        }

    def build(self, crf, bitrate, preset, dither, loops, pingpong, audio_length):
        return (
            VideoOptions(
                crf=None if crf < 0 else crf,
                bitrate=bitrate or None,
                preset=None if preset == AUTO else preset,
                dither=dither,
                loops=loops,
                pingpong=pingpong,
                audio_length=audio_length,
            ),
        )

"""Turning a prompt into conditioning."""

from __future__ import annotations

from . import host
from .sockets import check_part


class T2VTextEncode:
    """One prompt for the whole clip."""

    TITLE = "T2V Text Encode"
    DESCRIPTION = "Encodes a prompt that holds for every frame of the clip."
    CATEGORY = "T2V/conditioning"
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("conditioning",)
    OUTPUT_TOOLTIPS = ("The encoded prompt, for a sampler's positive or negative input.",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "The text encoder, from a loader."}),
                "text": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "dynamicPrompts": True,
                        "tooltip": "The prompt. (word:1.3) gives a word more weight, (word:0.7) less; "
                        "write \\( and \\) for brackets that are only brackets. It may be empty.",
                    },
                ),
            }
        }

    def encode(self, clip, text):
        check_part(clip, "clip", "text encoder")
        return (host.current().encode(clip, text),)

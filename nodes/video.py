"""From latents to frames, and from frames to a file."""

from __future__ import annotations

import json

from ..t2v_core.errors import T2VError
from ..t2v_core.video import FORMATS, QUALITIES, OutputFolder
from ..t2v_core.video.naming import check_prefix, fill_in
from ..t2v_core.video.rate import HIGHEST, LOWEST
from . import host
from .sockets import check_images, check_part, latents_of


class T2VDecode:
    """VAE decoding, a few frames at a time."""

    TITLE = "T2V Decode"
    DESCRIPTION = "Turns a clip's latents into frames, a few at a time so that long clips fit in memory."
    CATEGORY = "T2V/latent"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    OUTPUT_TOOLTIPS = ("The clip's frames.",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "samples": ("LATENT", {"tooltip": "The clip to decode."}),
                "vae": ("VAE", {"tooltip": "The autoencoder, from a loader."}),
                "frames_per_batch": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 4096,
                        "tooltip": "How many frames are decoded at once. Fewer need less memory; "
                        "0 chooses by the size of the frames.",
                    },
                ),
            }
        }

    def decode(self, samples, vae, frames_per_batch):
        latents = latents_of(samples, "samples")
        check_part(vae, "vae", "autoencoder")
        return (host.current().decode(vae, latents, frames_per_batch),)


class T2VSaveVideo:
    """Frames into a numbered file in the output folder, the workflow inside it."""

    TITLE = "T2V Save Video"
    DESCRIPTION = (
        "Writes the frames as a video into the output folder. The workflow travels in the file: "
        "drop it on ComfyUI's page to get the workflow back."
    )
    CATEGORY = "T2V/video"
    RETURN_TYPES = ()
    RETURN_NAMES = ()
    OUTPUT_TOOLTIPS = ()
    OUTPUT_NODE = True
    FUNCTION = "save"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The frames, in order."}),
                "fps": (
                    "FLOAT",
                    {
                        "default": 8.0,
                        "min": float(LOWEST),
                        "max": float(HIGHEST),
                        "step": 0.01,
                        "round": 0.001,  # or the page turns 23.976 into 23.98
                        "tooltip": "Frames per second. 'bundled' was made at 8.",
                    },
                ),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "t2v",
                        "tooltip": "The start of the file's name; a number follows. Slashes make folders inside the "
                        "output folder; %year%, %month%, %day%, %hour%, %minute%, %second%, %width% and %height% are "
                        "filled in.",
                    },
                ),
                "format": (list(FORMATS), {"default": "h264-mp4", "tooltip": "The kind of video file."}),
                "quality": (list(QUALITIES), {"default": "high", "tooltip": "Higher means a larger file."}),
            },
            "optional": {
                "audio": ("AUDIO", {"tooltip": "Sound for the video, cut or followed by silence to its length."}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix=None):
        if filename_prefix is not None:  # None where it comes over a link
            try:
                check_prefix(filename_prefix)
            except T2VError as error:
                return f"filename_prefix: {error}"  # said before the clip is sampled, not after
        return True

    def save(self, images, fps, filename_prefix, format, quality, audio=None, prompt=None, extra_pnginfo=None):
        check_images(images, "images")
        running = host.current()
        saved = OutputFolder(running.output_folder()).write(
            fill_in(filename_prefix, images.shape[2], images.shape[1]),
            images,
            fps,
            format=format,
            quality=quality,
            metadata=_metadata(prompt, extra_pnginfo) if running.writes_metadata() else None,
            audio=audio,
            on_frame=running.progress(len(images), "Writing"),
        )
        entry = {"filename": saved.filename, "subfolder": saved.subfolder, "type": "output"}
        return {"ui": {"images": [entry], "animated": (True,)}}


def _metadata(prompt: dict | None, extra_pnginfo: dict | None) -> dict[str, str]:
    """The graph under `prompt` and the page's workflow under `workflow`, where ComfyUI's page looks for them."""
    workflow = (extra_pnginfo or {}).get("workflow")
    entries = {"prompt": prompt, "workflow": workflow}
    return {name: json.dumps(value) for name, value in entries.items() if value is not None}

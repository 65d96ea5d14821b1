"""From latents straight to a file, and from frames to a preview."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..t2v_core.errors import T2VError
from ..t2v_core.video import VideoOptions
from . import host, saving
from .latent import PIXELS_PER_LATENT
from .sockets import check_images, check_part, latents_of
from .video import FRAMES_PER_BATCH, LATENTS

BACKWARD = 64  # frames' latents that are turned round at once: they may be mapped from a file larger than the memory
SMALLEST_TILE, LARGEST_TILE = 64, 4096
PREVIEW_FORMAT = "h264-mp4"
PREVIEW_OPTIONS = VideoOptions(crf=20, preset="ultrafast")  # larger than a saved file as good, and there at once


class T2VDecodeAndSave:
    """VAE decoding and encoding a file of it, frame by frame: no IMAGE of the whole clip comes into being."""

    TITLE = "T2V Decode and Save"
    DESCRIPTION = (
        "Writes a clip's latents as a video into the output folder: a few frames are decoded, written and forgotten, "
        "so that a clip may be of any length. The workflow travels in the file."
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
                **LATENTS,
                **saving.inputs(),
                **FRAMES_PER_BATCH,
                "tile_size": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": LARGEST_TILE,
                        "step": 8,
                        "tooltip": f"Side in pixels, from {SMALLEST_TILE}, of the overlapping tiles in which a frame "
                        "is decoded, for frames too large for the memory. 0 decodes whole frames.",
                    },
                ),
            },
            "optional": saving.optional_inputs(),
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix=None, tile_size=None):
        prefix = saving.check_prefix_widget(filename_prefix)
        return prefix if prefix is not True else _tile_error(tile_size) or True

    def save(
        self,
        samples,
        vae,
        fps,
        filename_prefix,
        format,
        quality,
        frames_per_batch,
        tile_size,
        audio=None,
        options=None,
        prompt=None,
        extra_pnginfo=None,
    ):
        latents = latents_of(samples, "samples")
        check_part(vae, "vae", "autoencoder")
        if error := _tile_error(tile_size):
            raise T2VError(error)
        return saving.save(
            _Decoded(vae, latents, frames_per_batch, tile_size),
            len(latents),
            latents.shape[3] * PIXELS_PER_LATENT,
            latents.shape[2] * PIXELS_PER_LATENT,
            fps=fps,
            prefix=filename_prefix,
            format=format,
            quality=quality,
            options=options,
            audio=audio,
            prompt=prompt,
            extra_pnginfo=extra_pnginfo,
        )


class T2VPreviewVideo:
    """Frames into a file in the folder for what is only looked at."""

    TITLE = "T2V Preview Video"
    DESCRIPTION = "Shows the frames as a video and keeps nothing: the file lies in ComfyUI's temporary folder."
    CATEGORY = "T2V/video"
    RETURN_TYPES = ()
    RETURN_NAMES = ()
    OUTPUT_TOOLTIPS = ()
    OUTPUT_NODE = True
    FUNCTION = "preview"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "images": saving.images_input(),
                "fps": saving.inputs()["fps"],
            },
            "optional": {
                "audio": ("AUDIO", {"tooltip": "Sound for the video, cut or followed by silence to its length."}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def preview(self, images, fps, audio=None, prompt=None, extra_pnginfo=None):
        images, fps, audio = saving.parts_of(images, fps, audio)
        check_images(images, "images", alpha=True)
        return saving.save(
            images[..., :3],  # a format that keeps alpha takes long to write
            len(images),
            images.shape[2],
            images.shape[1],
            fps=fps,
            prefix=f"t2v_temp_{uuid.uuid4().hex[:8]}",  # a browser keeps by its name what was here before a restart
            format=PREVIEW_FORMAT,
            quality="medium",
            options=PREVIEW_OPTIONS,
            audio=audio,
            prompt=prompt,
            extra_pnginfo=extra_pnginfo,
            temporary=True,
        )


@dataclass(frozen=True)
class _Decoded:
    """The frames `[H, W, 3]` of latents `[f, c, h, w]`, decoded anew whenever they are read, forward or backward."""

    vae: Any
    latents: Tensor
    frames_per_batch: int
    tile_size: int

    def __iter__(self) -> Iterator[Tensor]:
        return host.current().decode_frames(self.vae, self.latents, self.frames_per_batch, self.tile_size)

    def __reversed__(self) -> Iterator[Tensor]:
        at_once = max(self.frames_per_batch, BACKWARD)
        for end in range(len(self.latents), 0, -at_once):
            backward = self.latents[max(0, end - at_once) : end].flip(0)
            yield from host.current().decode_frames(self.vae, backward, self.frames_per_batch, self.tile_size)


def _tile_error(tile_size: int | None) -> str | None:
    """What is wrong with a tile_size; None if nothing is, or if it comes over a link and is not known yet."""
    if tile_size in (None, 0):
        return None
    if SMALLEST_TILE <= tile_size <= LARGEST_TILE and tile_size % PIXELS_PER_LATENT == 0:
        return None
    return (
        f"tile_size: {tile_size} is no tile; it is 0 for whole frames, or a multiple of {PIXELS_PER_LATENT} from "
        f"{SMALLEST_TILE} to {LARGEST_TILE}"
    )

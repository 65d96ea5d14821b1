"""The empty latent a clip starts from, and a clip's latents made larger."""

from __future__ import annotations

import torch

from ..t2v_core.errors import T2VError
from ..t2v_core.resize import METHODS, resize
from . import host
from .sockets import latents_of

LATENT_CHANNELS = 4
PIXELS_PER_LATENT = 8  # along each side
MAX_SIDE = 8192
MAX_FRAMES = 1_000_000
# 1024 frames of 2048 x 2048: 1 GiB of latents and 48 GiB of decoded frames, more than a typing error should cost.
MAX_PIXELS = 2**32


def size_error(
    width: int | None, height: int | None, num_frames: int | None, frames_from: str = "num_frames"
) -> str | None:
    """What is wrong with the sizes, or None. A size that is not known yet (it comes over a link) is None.

    frames_from: the input that the number of frames is from.
    """
    for name, value, least, most in (
        ("width", width, PIXELS_PER_LATENT, MAX_SIDE),
        ("height", height, PIXELS_PER_LATENT, MAX_SIDE),
        ("num_frames", num_frames, 0, MAX_FRAMES),
    ):
        if value is not None and not least <= value <= most:
            return f"{name}: {value} is outside {least} to {most}"
        if value is not None and name != "num_frames" and value % PIXELS_PER_LATENT:
            return f"{name}: {value} is not a multiple of {PIXELS_PER_LATENT}"
    if None not in (width, height, num_frames) and width * height * num_frames > MAX_PIXELS:
        return (
            f"{frames_from}: {num_frames} frames of {width} x {height} are {width * height * num_frames:,} pixels; "
            f"at most {MAX_PIXELS:,} fit one latent"
        )
    return None


class T2VEmptyLatent:
    """A clip of zeros, which a sampler fills."""

    TITLE = "T2V Empty Latent"
    DESCRIPTION = (
        "An empty clip for a sampler to fill. Its frames are the batch, so ComfyUI's other latent nodes can work on it."
    )
    CATEGORY = "T2V/latent"
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("One clip, its frames along the batch.",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        side = {"default": 96, "min": PIXELS_PER_LATENT, "max": MAX_SIDE, "step": PIXELS_PER_LATENT}
        return {
            "required": {
                "width": ("INT", {**side, "tooltip": "Width in pixels, a multiple of 8. 'bundled' was made for 96."}),
                "height": ("INT", {**side, "tooltip": "Height in pixels, a multiple of 8. 'bundled' was made for 96."}),
                "num_frames": (
                    "INT",
                    {
                        "default": 16,
                        "min": 0,
                        "max": MAX_FRAMES,
                        "tooltip": "Number of frames in the clip. 0 takes the number the connected model was made for.",
                    },
                ),
            },
            "optional": {
                "model": ("MODEL", {"tooltip": "Only asked for its own number of frames, when num_frames is 0."}),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, width=None, height=None, num_frames=None):
        return size_error(width, height, num_frames) or True

    def make(self, width, height, num_frames, model=None):
        if num_frames == 0:
            if model is None:
                raise T2VError("num_frames: 0 means the model's own number of frames; connect a model or give a number")
            num_frames = host.current().native_size(model).num_frames
        if error := size_error(width, height, num_frames):
            raise T2VError(error)
        shape = (num_frames, LATENT_CHANNELS, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
        return ({"samples": torch.zeros(shape)},)


class T2VUpscaleLatent:
    """A clip's latents at another size, as ComfyUI's LatentUpscale makes them."""

    TITLE = "T2V Upscale Latent"
    DESCRIPTION = (
        "Resizes a clip's latents, frame by frame, for a second sampler to add detail with a denoise below 1. For "
        "zeroscope's two models rather decode, and encode at the new size: it keeps more of the picture."
    )
    CATEGORY = "T2V/latent"
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("The clip at the new size.",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls):
        side = {"min": PIXELS_PER_LATENT, "max": MAX_SIDE, "step": PIXELS_PER_LATENT}
        return {
            "required": {
                "samples": ("LATENT", {"tooltip": "The clip to resize, from a sampler."}),
                "upscale_method": (
                    list(METHODS),
                    {
                        "default": "bislerp",
                        "tooltip": "How new latents come from old ones. bislerp keeps contrast, bicubic and bilinear "
                        "are smooth, nearest-exact repeats, area averages and is for smaller sizes.",
                    },
                ),
                "width": (
                    "INT",
                    {"default": 1024, **side, "tooltip": "The new width of the frames in pixels, a multiple of 8."},
                ),
                "height": (
                    "INT",
                    {"default": 576, **side, "tooltip": "The new height of the frames in pixels, a multiple of 8."},
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, width=None, height=None):
        return size_error(width, height, None) or True

    def upscale(self, samples, upscale_method, width, height):
        latents = latents_of(samples, "samples")
        if error := size_error(width, height, len(latents), "samples"):
            raise T2VError(error)
        resized = resize(latents, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT, upscale_method)
        return ({**samples, "samples": resized},)

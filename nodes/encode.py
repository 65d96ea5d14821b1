"""From frames to latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..t2v_core.errors import T2VError
from ..t2v_core.resize import IMAGE_METHODS, resize
from . import host
from .latent import MAX_SIDE, PIXELS_PER_LATENT, size_error
from .sockets import check_images, check_part

FRAMES_AT_ONCE = 16  # at most, unless asked: between two batches encoding can be cancelled


class T2VEncode:
    """VAE encoding, resizing on the way."""

    TITLE = "T2V Encode"
    DESCRIPTION = (
        "Turns frames into a clip's latents, at another size if asked to, a few at a time so that long clips fit in "
        "memory. For changing a video, and for the second of two models."
    )
    CATEGORY = "T2V/latent"
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("The clip, its frames along the batch.",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls):
        side = {"default": 0, "min": 0, "max": MAX_SIDE, "step": PIXELS_PER_LATENT}
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The frames, in order."}),
                "vae": ("VAE", {"tooltip": "The autoencoder, from a loader."}),
                "width": (
                    "INT",
                    {
                        **side,
                        "tooltip": "Width in pixels to resize to, a multiple of 8. 0 follows the height in proportion; "
                        "where both are 0 the frames keep their size.",
                    },
                ),
                "height": (
                    "INT",
                    {
                        **side,
                        "tooltip": "Height in pixels to resize to, a multiple of 8. 0 follows the width in proportion; "
                        "where both are 0 the frames keep their size.",
                    },
                ),
                "upscale_method": (
                    list(IMAGE_METHODS),
                    {
                        "default": "bicubic",
                        "tooltip": "How frames are resized: bicubic is sharp, bilinear soft, nearest-exact repeats "
                        "pixels, area averages and is for smaller sizes.",
                    },
                ),
                "frames_per_batch": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 4096,
                        "tooltip": "How many frames are encoded at once. Fewer need less memory; "
                        "0 chooses by the size of the frames.",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, width=None, height=None):
        return size_error(width or None, height or None, None) or True

    def encode(self, images, vae, width, height, upscale_method, frames_per_batch):
        check_images(images, "images")
        check_part(vae, "vae", "autoencoder")
        frames, own_height, own_width, _ = images.shape
        resizes = bool(width or height)
        width, height = size_to_encode(own_width, own_height, width, height)
        if error := size_error(width, height, frames, "images"):
            raise T2VError(error)
        if not resizes:
            images = cut(images, height, width)
        running, latents = host.current(), []
        report = running.progress(frames, "Encoding")
        at_once = frames_per_batch or FRAMES_AT_ONCE
        for start in range(0, frames, at_once):
            batch = images[start : start + at_once]
            if resizes:
                batch = resize(batch.movedim(-1, 1), height, width, upscale_method).movedim(1, -1)
            latents.append(encode_batch(running, vae, batch))
            report(min(start + at_once, frames))
        return ({"samples": torch.cat(latents)},)


def encode_batch(running: host.Host, vae: Any, images: Tensor) -> Tensor:
    """Frames `[n, H, W, 3]` to latents `[n, c, H / 8, W / 8]`; T2VError for a VAE that makes anything else of them."""
    encoded = running.encode_frames(vae, images)
    if encoded.ndim != 4 or len(encoded) != len(images):
        raise T2VError(
            f"vae: it makes latents {list(encoded.shape)} of {len(images)} frames; here an autoencoder of single "
            "frames is needed, such as Stable Diffusion's"
        )
    return encoded


def size_to_encode(own_width: int, own_height: int, width: int, height: int, name: str = "images") -> tuple[int, int]:
    """(width, height) in pixels of what is encoded; 0 stands for a side that is not given.

    name: the input that the frames are from.
    """
    if width or height:
        wide, high = _in_proportion(own_width, own_height, height), _in_proportion(own_height, own_width, width)
        return width or wide, height or high
    if min(own_width, own_height) < PIXELS_PER_LATENT:
        least = f"{PIXELS_PER_LATENT} x {PIXELS_PER_LATENT}"
        raise T2VError(f"{name}: they are {own_width} x {own_height}, and {least} is the least; give a width")
    return tuple(side // PIXELS_PER_LATENT * PIXELS_PER_LATENT for side in (own_width, own_height))


def _in_proportion(own: int, own_other: int, other: int) -> int:
    latents = round(own * other / own_other / PIXELS_PER_LATENT)
    return max(1, latents) * PIXELS_PER_LATENT


def cut(images: Tensor, height: int, width: int) -> Tensor:
    """The middle of frames `[f, H, W, 3]`, where ComfyUI's VAE Encode takes it."""
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    return images[:, top : top + height, left : left + width]

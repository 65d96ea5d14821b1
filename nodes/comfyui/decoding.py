"""A clip's latents decoded by ComfyUI's VAE, a few frames at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ...t2v_core.errors import T2VError

AT_ONCE = 16  # frames at most, however much memory there is: between two batches decoding can be cancelled
BATCH_BYTES = 2**28  # what the frames of a batch may take; what decoding them takes is the VAE's to decide
FRAME_BYTES = 3 * 4  # per pixel


def batches(vae: Any, latents: Tensor, frames_per_batch: int, tile_size: int = 0) -> Iterator[Tensor]:
    """The frames of latents `[f, c, h, w]`, `[n, H, W, 3]` in 0..1, where ComfyUI keeps results.

    tile_size in pixels: see `Host.decode_frames`. Frames that do not fit whole into memory ComfyUI decodes in tiles of
    its own accord.
    """
    scale = vae.spacial_compression_decode()
    height, width = (side * scale for side in latents.shape[2:])
    at_once = frames_per_batch or max(1, min(AT_ONCE, BATCH_BYTES // (height * width * FRAME_BYTES)))
    tiles = {}
    if 0 < tile_size < max(height, width):
        side = tile_size // scale
        tiles = {"tile_x": side, "tile_y": side, "overlap": side // 4}  # the overlap that its VAEDecodeTiled allows
    for start in range(0, len(latents), at_once):
        batch = latents[start : start + at_once]
        yield _checked(vae.decode_tiled(batch, **tiles) if tiles else vae.decode(batch), len(batch))


def _checked(images: Tensor, frames: int) -> Tensor:
    if images.ndim != 4 or len(images) != frames:
        raise T2VError(
            f"vae: it makes images {list(images.shape)} of {frames} latents; here an autoencoder of single frames is "
            "needed, such as Stable Diffusion's"
        )
    return images

"""Decoding frames too large to be decoded whole: in tiles that overlap, feathered where they meet.

Only memory is the reason: an autoencoder that sees far (group norms, attention) decodes a tile a little differently
from the same place in the whole frame. Where no layer sees past a tile's edge the result is the whole decode's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

OVERLAP = 4
"""A tile shares this fraction of its side, one over OVERLAP, with the next."""


def decode_tiled(decode: Callable[[Tensor], Tensor], latents: Tensor, tile: int) -> Tensor:
    """What `decode` makes of latents `[n, c, h, w]`, at most tile x tile of them at a time: float32 `[n, 3, H, W]`.

    Of the overlap of two tiles the quarter nearest to a tile's edge, which padding reaches first, is taken from the
    other tile alone; in the half between, one goes over into the other linearly.
    """
    height, width = latents.shape[2:]
    if tile >= max(height, width):
        return decode(latents).float()
    side_h, side_w = min(tile, height), min(tile, width)
    images = rows = columns = None
    for y, top in enumerate(starts(height, side_h)):
        for x, left in enumerate(starts(width, side_w)):
            decoded = decode(latents[:, :, top : top + side_h, left : left + side_w]).float()
            if images is None:
                scale = decoded.shape[2] // side_h
                images = decoded.new_zeros(*decoded.shape[:2], height * scale, width * scale)
                rows, columns = (weights(n, side, scale).to(decoded) for n, side in ((height, side_h), (width, side_w)))
            place = slice(top * scale, (top + side_h) * scale), slice(left * scale, (left + side_w) * scale)
            images[:, :, place[0], place[1]] += decoded * (rows[y, place[0], None] * columns[x, place[1]])
    return images


def starts(length: int, tile: int) -> list[int]:
    """Where along a side of `length` the tiles begin: as few as overlap enough, evenly spread, none over the edge."""
    if length <= tile:
        return [0]
    stride = max(1, tile - tile // OVERLAP)
    gaps = -(-(length - tile) // stride)
    return [gap * (length - tile) // gaps for gap in range(gaps + 1)]


def weights(length: int, tile: int, scale: int) -> Tensor:
    """How much each tile counts at each pixel along a side: float32 `[tiles, length * scale]`; a pixel's sum is 1."""
    margin = tile // OVERLAP * scale / 4
    ramp = max(1.0, 2 * margin)
    rows = []
    for start in starts(length, tile):
        pixels = torch.arange(length * scale) + 0.5
        first, last = start * scale, (start + tile) * scale
        # The frame's own edges are none of the tile's: there is nothing beyond them to be seen.
        before = pixels - first - margin if first else torch.full_like(pixels, torch.inf)
        after = last - pixels - margin if last < length * scale else torch.full_like(pixels, torch.inf)
        inside = (pixels > first) & (pixels < last)
        rows.append((torch.minimum(before, after) / ramp).clamp(0, 1) * inside)
    counts = torch.stack(rows)
    return counts / counts.sum(0)

"""How much memory a UNet3D needs beside its weights, told from its sizes alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import T2VError
from .pieces import piece_bytes
from .unet3d import UNet3D, UNet3DConfig

MEMORY_FILE = Path("/proc/meminfo")  # Linux; elsewhere nothing that is always there tells
SHARE = 0.8  # of the free memory may be planned with: kernels and fragments take the rest


def fits(unet: UNet3D, frames: int, h: int, w: int) -> bool:
    """Whether a forward pass for so many frames, of all clips together, has the memory it needs now.

    True where it cannot be told how much is free.
    """
    free = plannable_bytes(unet)
    return free is None or needed_bytes(unet, frames, h, w) <= free


def needed_bytes(unet: UNet3D, frames: int, h: int, w: int) -> int:
    """`peak_bytes` of a network as it is and where it is."""
    weight = next(unet.parameters())
    return peak_bytes(unet.config, frames, h, w, weight.element_size(), weight.device.type)


def plannable_bytes(unet: UNet3D) -> int | None:
    """How much of the free memory where a network is may be planned with; None where that cannot be told."""
    free = free_bytes(next(unet.parameters()).device)
    return None if free is None else int(SHARE * free)


def clips_at_once(unet: UNet3D, frames: int, h: int, w: int, most: int) -> int:
    """How many clips of so many frames have the memory that they need now in one forward pass: 1 .. `most`."""
    return next((clips for clips in range(most, 1, -1) if fits(unet, clips * frames, h, w)), 1)


def free_bytes(device: torch.device) -> int | None:
    """What can be had of a device's memory without taking it from others; None where that cannot be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu" or not MEMORY_FILE.exists():
        return None
    found = [line.split() for line in MEMORY_FILE.read_text().splitlines() if line.startswith("MemAvailable:")]
    return 1024 * int(found[0][1]) if found else None


def peak_bytes(config: UNet3DConfig, frames: int, h: int, w: int, itemsize: int = 4, device_type: str = "cpu") -> int:
    """Bytes alive at once at the worst moment of a forward pass without gradients, for latents of `[h, w]`.

    The skip connections kept so far, the block's input, and what the block's widest step holds at once. Scores of an
    attention kernel that writes them out are not counted, nor what kernels take for themselves.

    frames: of all clips together. itemsize: bytes a number. device_type: layers go through in pieces, by device.
    """
    return _Peak(config, frames, piece_bytes(device_type) // itemsize).numbers(h, w) * itemsize


def most_frames(needed: Callable[[int], int], free: int) -> int:
    """The most frames for which `needed(frames)`, bytes that do not fall with frames, are no more than `free`."""
    most, step = 0, 1
    while needed(most + step) <= free:
        most, step = most + step, 2 * step
    while step := step // 2:
        if needed(most + step) <= free:
            most += step
    return most


def check_whole_clip(needed: Callable[[int], int], frames: int, free: int | None, device_type: str) -> None:
    """Raises T2VError unless a clip of so many frames fits that is denoised whole, its attention over time in windows.

    needed: bytes for a number of frames, to which a piece is added in which windows are gathered; free: bytes to be
    had, None where that cannot be told, which fits anything. device_type: as in `peak_bytes`.
    """

    def whole(frames: int) -> int:
        return int(needed(frames)) + piece_bytes(device_type)

    if free is None or whole(frames) <= free:
        return
    raise T2VError(
        f"where: windows of the attention keep all frames of the clip in memory at once. {frames} frames need "
        f"{whole(frames) / 2**30:.1f} GiB, {whole(frames) / frames / 2**20:.1f} MiB a frame, and {free / 2**30:.1f} "
        f"GiB can be had, enough for {most_frames(whole, free)} frames. Set where to latents, which needs the memory "
        "of a few windows however long the clip is, or make the clip shorter or smaller"
    )


class _Peak:
    """Counts numbers, of which a piece may hold `piece`; an area is the places of a level in all frames."""

    def __init__(self, config: UNet3DConfig, frames: int, piece: int):
        self.config, self.frames, self.piece = config, frames, piece

    def numbers(self, h: int, w: int) -> int:
        config = self.config
        areas = [self.frames * -(-h // 2**level) * -(-w // 2**level) for level in range(len(config.widths))]
        widths, dim, area = config.widths, config.widths[0], areas[0]
        skips = [dim * area]
        moments = [dim * area + self._temporal(dim, config.input_heads * config.head_dim, area)]

        for level, (width, area) in enumerate(zip(widths, areas, strict=True)):
            for _ in range(config.blocks_per_level):
                moments.append(sum(skips) - dim * area + self._block(dim, width, config.attention[level], area))
                dim = width
                skips.append(dim * area)
            if level + 1 < len(widths):
                skips.append(dim * areas[level + 1])

        moments.append(sum(skips) - dim * areas[-1] + self._block(dim, dim, True, areas[-1]))

        for level, (width, area) in reversed(list(enumerate(zip(widths, areas, strict=True)))):
            for block in range(config.blocks_per_level + 1):
                joined = dim + skips.pop() // area
                moments.append(sum(skips) + self._block(joined, width, config.attention[level], area))
                if level and block == config.blocks_per_level:
                    moments.append(sum(skips) + width * (area + 2 * areas[level - 1]))  # enlarged, and convolved
                dim = width
        return max(moments)

    def _block(self, dim_in: int, dim_out: int, attention: bool, area: int) -> int:
        """A residual block, or a transformer of either kind after it, with what comes in."""
        # Both convolutions' inputs and outputs; what was added up, and the last round of norm and convolution over it.
        residual = (dim_in + max(dim_in, dim_out) + dim_out + dim_out) * area
        over_frames = (dim_in + 4 * dim_out) * area
        transformers = [self._spatial(dim_out, area), self._temporal(dim_out, dim_out, area)] if attention else []
        return max(residual, over_frames, *transformers)

    def _spatial(self, dim: int, area: int) -> int:
        """What comes in and its tokens; their norm, queries, keys, values and what they attend to, or feed-forwards."""
        attention = 7 * dim * area
        return max(attention, self._pieces(2 * dim, dim, dim, area))

    def _temporal(self, dim: int, inner: int, area: int) -> int:
        """What comes in and its tokens; what becomes of them."""
        return self._pieces(2 * dim, dim, inner, area)

    def _pieces(self, kept: int, out: int, inner: int, area: int) -> int:
        """`kept` numbers a place, and feed-forwards of the width `inner` in pieces whose results are joined."""
        widest = 4 * self.config.ff_mult * inner  # both halves, the gate's gelu, and their product
        number = max(1, -(-widest * area // self.piece))
        piece = (widest + 2 * inner) * area // number
        return kept * area + (piece if number == 1 else max(out * area + piece, 2 * out * area))

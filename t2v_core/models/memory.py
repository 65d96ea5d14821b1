"""How much memory a UNet3D needs beside its weights, told from its sizes alone."""

from __future__ import annotations

from .unet3d import UNet3DConfig


def peak_activations(config: UNet3DConfig, h: int, w: int) -> int:
    """Numbers alive at once at the worst moment of a forward pass without gradients, per frame of `[h, w]` latents.

    The skip connections kept so far, and what the widest step of a block holds at once: a residual block its norm,
    activation and convolution; a transformer the two halves of its feed-forward, the gate's gelu and their product.
    Scores of an attention kernel that writes them out are not counted.
    """
    peak = kept = 0
    places = [(-(-h // 2**level), -(-w // 2**level)) for level in range(len(config.widths))]
    area = [rows * columns for rows, columns in places]
    skips = [(config.widths[0], area[0])]
    dim = config.widths[0]

    def visit(dim_in: int, dim_out: int, pixels: int, attention: bool) -> None:
        nonlocal peak
        working = max(3 * dim_in + dim_out, dim_in + 4 * dim_out)
        if attention:
            working = max(working, (3 + 4 * config.ff_mult) * dim_out)
        peak = max(peak, kept + working * pixels)

    visit(dim, config.input_heads * config.head_dim, area[0], True)
    kept = dim * area[0]
    for level, width in enumerate(config.widths):
        for _ in range(config.blocks_per_level):
            visit(dim, width, area[level], config.attention[level])
            skips.append((width, area[level]))
            kept += width * area[level]
            dim = width
        if level + 1 < len(config.widths):
            skips.append((width, area[level + 1]))
            kept += width * area[level + 1]
    visit(dim, dim, area[-1], True)
    for level, width in reversed(list(enumerate(config.widths))):
        for _ in range(config.blocks_per_level + 1):
            joined, pixels = skips.pop()
            kept -= joined * pixels
            visit(dim + joined, width, area[level], config.attention[level])
            dim = width
    return peak

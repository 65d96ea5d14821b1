"""How much memory a UNet3D needs beside its weights, told from its sizes alone."""

from __future__ import annotations

from .unet3d import UNet3DConfig


def peak_activations(config: UNet3DConfig, h: int, w: int) -> int:
    """Numbers alive at once at the worst moment of a forward pass without gradients, per frame of `[h, w]` latents.

    The skip connections kept so far, the block's input, and what the block's widest step holds at once. Scores of an
    attention kernel that writes them out are not counted, nor what kernels take for themselves.
    """
    areas = [-(-h // 2**level) * -(-w // 2**level) for level in range(len(config.widths))]
    widths, dim, area = config.widths, config.widths[0], areas[0]
    skips = [dim * area]
    moments = [dim * area + _transformer(config, config.input_heads * config.head_dim) * area]

    for level, (width, area) in enumerate(zip(widths, areas, strict=True)):
        for _ in range(config.blocks_per_level):
            moments.append(sum(skips) + _block(config, dim, width, config.attention[level]) * area)
            dim = width
            skips.append(dim * area)
        if level + 1 < len(widths):
            skips.append(dim * areas[level + 1])

    moments.append(sum(skips) + _block(config, dim, dim, True) * areas[-1])

    for level, (width, area) in reversed(list(enumerate(zip(widths, areas, strict=True)))):
        for block in range(config.blocks_per_level + 1):
            joined = dim * area + skips.pop()
            widest = _block(config, joined // area, width, config.attention[level]) * area
            if level and block == config.blocks_per_level:
                widest = max(widest, width * (area + 2 * areas[level - 1]))  # enlarged, and convolved
            moments.append(sum(skips) + joined + widest)
            dim = width
    return max(moments)


def _block(config: UNet3DConfig, dim_in: int, dim_out: int, attention: bool) -> int:
    """Numbers a pixel, beside the input: of a residual block, and of a transformer after it."""
    normed_and_active, convolved = 2 * dim_in, dim_in + dim_out
    over_frames = 5 * dim_out  # what comes in twice, the convolution before, the norm, the activation
    transformer = dim_out + _transformer(config, dim_out) if attention else 0
    return max(normed_and_active, convolved, over_frames, transformer)


def _transformer(config: UNet3DConfig, inner: int) -> int:
    """Tokens before and within, the norm, and the feed-forward: both halves, the gate's gelu, and their product."""
    return (3 + 4 * config.ff_mult) * inner

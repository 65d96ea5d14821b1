"""GIF in two passes: the colours of the whole clip are counted first, and the frames meanwhile kept on disk, lossless.

In one pass ffmpeg would hold every frame in memory until the palette is known.
"""

from __future__ import annotations

_FRAMES, _PALETTE = "frames.mkv", "palette.png"

_DITHERS = {"none": "none", "ordered": "bayer:bayer_scale=2", "error diffusion": "sierra2_4a"}


def count_colours(pixel_format: str, colours: int) -> list[str]:
    """The first pass, after its input: FFV1 frames of that RGB format into one file, the palette into another."""
    graph = f"split[all][counted];[all]format={pixel_format}[frames];[counted]palettegen=max_colors={colours}[palette]"
    return [
        *("-filter_complex", graph),
        *("-map", "[frames]", "-c:v", "ffv1", "-level", "3", "-f", "matroska", _FRAMES),
        *("-map", "[palette]", "-c:v", "png", "-update", "1", "-f", "image2", _PALETTE),
    ]


def apply(dither: str) -> list[str]:
    """The second pass up to its encoder: the frames in the palette's colours."""
    pattern = _DITHERS["error diffusion" if dither == "auto" else dither]
    # diff_mode: only what moves is dithered anew, so that what rests does not shimmer
    return ["-i", _FRAMES, "-i", _PALETTE, "-filter_complex", f"paletteuse=dither={pattern}:diff_mode=rectangle"]

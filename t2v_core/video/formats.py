"""The video formats, a row each: how ffmpeg converts the pixels, encodes them and packs the file.

Every row is bit-exact: no dates, no version strings, and a number of encoder threads that does not depend on the
machine (x264's output does depend on it). The same frames give the same bytes from the same ffmpeg.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import VideoError

QUALITIES = ("low", "medium", "high", "highest")

# RGB is full range; the file holds BT.709 limited range (ITU-R BT.709-6, 3.2 to 3.5 and 4.6) and says so in all four
# tags. Without accurate_rnd swscale truncates; without full_chroma_* it halves the chroma before it converts.
_TO_BT709 = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp,"
    "format={pixel_format},"
    "setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
)


@dataclass(frozen=True)
class Format:
    """One way to write a video file. All argument tuples are ffmpeg's own words."""

    title: str
    """What people call it."""
    extension: str
    """With the dot, lower case."""
    alignment: int
    """Width and height in the file are multiples of this; the last row and column are repeated to get there."""
    filters: str
    """From rgb24 to the encoder's pixels, tags included."""
    encoder: tuple[str, ...]
    """The video encoder and what holds at every quality."""
    qualities: Mapping[str, tuple[str, ...]]
    """Encoder arguments for each of `QUALITIES`."""
    audio: tuple[str, ...]
    """The audio encoder and its arguments."""
    container: tuple[str, ...]
    """The muxer and its arguments."""


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "h264-mp4": Format(
            title="H.264 mp4: plays everywhere",
            extension=".mp4",
            alignment=2,  # 4:2:0 chroma
            filters=_TO_BT709.format(pixel_format="yuv420p"),
            encoder=("-c:v", "libx264", "-threads:v", "8", "-flags:v", "+bitexact"),
            qualities=MappingProxyType(
                {
                    "low": ("-crf", "28", "-preset", "medium"),
                    "medium": ("-crf", "23", "-preset", "medium"),
                    "high": ("-crf", "18", "-preset", "medium"),
                    "highest": ("-crf", "10", "-preset", "slow"),
                }
            ),
            audio=("-c:a", "aac", "-b:a", "192k", "-flags:a", "+bitexact"),
            # use_metadata_tags: free keys (`prompt`, `workflow`) in moov/udta/meta, where ComfyUI's page looks.
            container=("-f", "mp4", "-movflags", "+faststart+use_metadata_tags"),
        ),
    }
)


def find_format(name: str) -> Format:
    """The row called `name`; VideoError listing the known names if there is none."""
    if not isinstance(name, str) or name not in FORMATS:
        raise VideoError(f"unknown video format {name!r}; known: {', '.join(FORMATS)}")
    return FORMATS[name]


def check_quality(quality: str) -> str:
    """`quality` itself; VideoError listing the known words if it is none of them."""
    if quality not in QUALITIES:
        raise VideoError(f"unknown video quality {quality!r}; known: {', '.join(QUALITIES)}")
    return quality

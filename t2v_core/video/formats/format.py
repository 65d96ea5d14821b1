"""What a video format is: how ffmpeg converts the pixels, encodes them and packs the file. `rows.py` has the formats.

Every row is bit-exact: no dates, no version strings, and a number of encoder threads that does not depend on the
machine where that shows in the file (x264's output does depend on it). The same frames give the same bytes from the
same ffmpeg, hardware encoders excepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType

from ...errors import VideoError

QUALITIES = ("low", "medium", "high", "highest")
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
"""x264's words for the time an encoder may take, which people know; each encoder has its own numbers for them."""

# RGB is full range; the file holds BT.709 limited range (ITU-R BT.709-6, 3.2 to 3.5 and 4.6) and says so in all four
# tags. Without accurate_rnd swscale truncates; without full_chroma_* it halves the chroma before it converts.
_TO_BT709 = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp,"
    "format={},setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
)
# What stays RGB is sRGB (IEC 61966-2-1), whose primaries are BT.709's.
_AS_SRGB = (
    "scale=flags=accurate_rnd:sws_dither=none,format={},setparams=range=pc:color_primaries=bt709:color_trc=iec61966-2-1"
)

_YUV = ("yuv", "nv12")
_HALVED_CHROMA = ("420", "422", "nv12")


@dataclass(frozen=True, eq=False)
class Rate:
    """How an encoder that trades quality for size is told what is wanted."""

    crf: tuple[str, ...]
    """The arguments of constant quality; `{}` is the number, for which less is better."""
    highest_crf: int
    bitrate: tuple[str, ...]
    """The arguments of an average bit rate; `{}` is in kbit/s."""
    presets: Mapping[str, tuple[str, ...]]
    """Some of `PRESETS`, with the encoder's own arguments."""
    qualities: Mapping[str, tuple[int, str]]
    """For each of `QUALITIES` the CRF and the preset."""

    def arguments(self, quality: str, crf: int | None, bitrate: float | None, preset: str | None) -> tuple[str, ...]:
        """ffmpeg's words; bitrate in Mbit/s goes before crf, and what is None is as the quality says."""
        usual_crf, usual_preset = self.qualities[quality]
        if bitrate is not None:
            amount = [word.format(round(bitrate * 1000)) for word in self.bitrate]
        else:
            amount = [word.format(usual_crf if crf is None else crf) for word in self.crf]
        return (*amount, *self.presets[preset or usual_preset])


@dataclass(frozen=True, eq=False)
class Format:
    """One way to write a video. All argument tuples are ffmpeg's own words."""

    title: str
    """What people call it."""
    extension: str
    """With the dot, lower case; empty where the video is a folder of pictures."""
    pixel_format: str
    """What the encoder gets, and with it how the colours are kept: BT.709 if it is a YUV format, else sRGB."""
    encoder: tuple[str, ...]
    """The video encoder and what holds at every quality. The word after `-c:v` is its name."""
    container: tuple[str, ...]
    """The muxer and its arguments."""
    rate: Rate | None = None
    """None for an encoder with neither CRF nor bit rate."""
    qualities: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Where there is no `rate`: the encoder's arguments for each of `QUALITIES`; empty where all are the same."""
    audio: tuple[str, ...] | None = None
    """The audio encoder and its arguments; None where the file holds no sound."""
    alpha: str | None = None
    """The pixel format for frames with alpha (straight, not premultiplied); None where the file holds none."""
    bits: int = 8
    """How many bits of a colour ffmpeg is to be given, if the frames have them: 8, or as many as the file can tell."""
    metadata: str | None = "tags"
    """Where prompt and workflow go: ffmpeg's `tags`, an `exif` chunk (WebP), a `text` chunk (PNG); None: nowhere."""
    loops: tuple[str, ...] | None = None
    """The arguments that store how often it plays, `{}` times, 0 for ever; None where a player decides."""
    palette: bool = False
    """Whether the colours of the whole clip are counted first (GIF); `qualities` is then their number."""
    counted: bool = True
    """Whether ffmpeg tells how many frames it wrote; WebP's encoder hands over all of them as one."""
    max_fps: Fraction | None = None
    """The fastest that the file can say."""
    name: str = ""
    """What it is called in workflows."""
    hardware: str | None = None
    """What it needs beside ffmpeg; such an encoder is offered only where it really opens."""

    @property
    def alignment(self) -> int:
        """Width and height in the file are multiples of this; the last row and column are repeated to get there."""
        return 2 if any(name in self.pixel_format for name in _HALVED_CHROMA) else 1

    @property
    def deep(self) -> bool:
        """Whether it keeps more than 8 bits of a colour."""
        return self.bits > 8

    @property
    def is_yuv(self) -> bool:
        return self.pixel_format.startswith(_YUV)

    @property
    def encoder_name(self) -> str:
        return self.encoder[self.encoder.index("-c:v") + 1]

    @property
    def is_folder(self) -> bool:
        return not self.extension

    def filters(self, has_alpha: bool) -> str:
        """From packed RGB to the encoder's pixels, tags included."""
        pixels = self.alpha if has_alpha and self.alpha else self.pixel_format
        return (_TO_BT709 if self.is_yuv else _AS_SRGB).format(pixels)


def check_quality(quality: str) -> str:
    """`quality` itself; VideoError listing the known words if it is none of them."""
    if quality not in QUALITIES:
        raise VideoError(f"unknown video quality {quality!r}; known: {', '.join(QUALITIES)}")
    return quality

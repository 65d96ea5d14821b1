"""The video formats, a row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType

from ...errors import VideoError
from .format import PRESETS, Format, Rate

_BITEXACT = ("-flags:v", "+bitexact")

_AAC = ("-c:a", "aac", "-b:a", "192k", "-flags:a", "+bitexact")
_OPUS = ("-c:a", "libopus", "-b:a", "160k", "-flags:a", "+bitexact")
_FLAC = ("-c:a", "flac", "-flags:a", "+bitexact")
_PCM = ("-c:a", "pcm_s24le")

# use_metadata_tags: free keys (`prompt`, `workflow`) in moov/udta/meta, where ComfyUI's page looks.
_MP4 = ("-f", "mp4", "-movflags", "+faststart+use_metadata_tags")
_MOV = ("-f", "mov", "-movflags", "+faststart+use_metadata_tags+write_colr")
_WEBM = ("-f", "webm")
_MKV = ("-f", "matroska")


def _named(*levels: str, option: str = "-preset") -> Mapping[str, tuple[str, ...]]:
    """Nine levels for the nine PRESETS; an empty one is a preset that the encoder lacks."""
    pairs = zip(PRESETS, levels or PRESETS, strict=True)
    return MappingProxyType({word: (option, level) for word, level in pairs if level})


def _qualities(low: int, medium: int, high: int, highest: int) -> Mapping[str, tuple[int, str]]:
    return MappingProxyType(
        {
            "low": (low, "medium"),
            "medium": (medium, "medium"),
            "high": (high, "medium"),
            "highest": (highest, "slow"),
        }
    )


_KBIT = ("-b:v", "{}k")

_X264 = Rate(("-crf", "{}"), 51, _KBIT, _named(), _qualities(28, 23, 18, 10))
# x265's documentation puts its CRF 28 beside x264's 23.
_X265 = Rate(("-crf", "{}"), 51, _KBIT, _named(), _qualities(32, 27, 21, 13))
_SVT_AV1 = Rate(
    ("-crf", "{}"), 63, _KBIT, _named("12", "11", "10", "9", "8", "6", "4", "3", "2"), _qualities(45, 35, 25, 12)
)
_VP9 = Rate(
    ("-crf", "{}", "-b:v", "0"),
    63,
    _KBIT,
    MappingProxyType(
        {
            "ultrafast": ("-deadline", "realtime", "-cpu-used", "8"),
            "superfast": ("-deadline", "realtime", "-cpu-used", "6"),
            "veryfast": ("-deadline", "good", "-cpu-used", "5"),
            "faster": ("-deadline", "good", "-cpu-used", "4"),
            "fast": ("-deadline", "good", "-cpu-used", "3"),
            "medium": ("-deadline", "good", "-cpu-used", "2"),
            "slow": ("-deadline", "good", "-cpu-used", "1"),
            "slower": ("-deadline", "good", "-cpu-used", "0"),
            "veryslow": ("-deadline", "best"),
        }
    ),
    _qualities(40, 33, 24, 12),
)
_NVENC = Rate(
    ("-rc", "vbr", "-cq", "{}", "-b:v", "0"),
    51,
    ("-rc", "vbr", *_KBIT),
    _named("p1", "", "p2", "", "p3", "p4", "p5", "p6", "p7"),
    _qualities(30, 25, 20, 12),
)
_QSV = Rate(
    ("-global_quality", "{}"),
    51,
    _KBIT,
    _named("", "", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"),
    _qualities(30, 25, 20, 12),
)
_AMF = Rate(
    ("-rc", "cqp", "-qp_i", "{}", "-qp_p", "{}"),
    51,
    ("-rc", "vbr_peak", *_KBIT),
    _named("", "", "", "", "speed", "balanced", "quality", "", "", option="-quality"),
    _qualities(30, 25, 20, 12),
)

# Eight threads whatever the machine has: x264's output depends on their number.
_LIBX264 = ("-c:v", "libx264", "-threads:v", "8", *_BITEXACT)
# frame-threads: as above. info=0: no version in the file. hvc1: the tag that Apple's players ask for.
_LIBX265 = ("-c:v", "libx265", "-x265-params", "log-level=error:info=0:frame-threads=2", "-tag:v", "hvc1", *_BITEXACT)
_LIBSVTAV1 = ("-c:v", "libsvtav1", *_BITEXACT)
_LIBVPX = ("-c:v", "libvpx-vp9", "-row-mt", "1", "-tile-columns", "2", "-threads:v", "8", *_BITEXACT)
_FFV1 = ("-c:v", "ffv1", "-level", "3", "-coder", "1", "-g", "1", "-slices", "4", "-slicecrc", "1", *_BITEXACT)
_PRORES = ("-c:v", "prores_ks", "-vendor", "apl0", *_BITEXACT)
_PNG = ("-c:v", "png", "-pred", "mixed", *_BITEXACT)


def _bits(pixel_format: str) -> int:
    """Y, Cb and Cr of 10 bits are told apart by RGB of more than 10."""
    return 16 if "10" in pixel_format else 8


def _mp4(title: str, encoder: tuple[str, ...], rate: Rate, pixel_format: str = "yuv420p", **more) -> Format:
    return Format(title, ".mp4", pixel_format, encoder, _MP4, rate, audio=_AAC, bits=_bits(pixel_format), **more)


def _webm(title: str, encoder: tuple[str, ...], rate: Rate, pixel_format: str = "yuv420p", **more) -> Format:
    return Format(title, ".webm", pixel_format, encoder, _WEBM, rate, audio=_OPUS, bits=_bits(pixel_format), **more)


def _prores(title: str, profile: str, pixel_format: str, alpha: str | None = None) -> Format:
    encoder = (*_PRORES, "-profile:v", profile, *(("-alpha_bits", "16") if alpha else ()))
    return Format(title, ".mov", pixel_format, encoder, _MOV, audio=_PCM, alpha=alpha, bits=16)


def _ffv1(title: str, pixel_format: str, alpha: str, bits: int) -> Format:
    return Format(title, ".mkv", pixel_format, _FFV1, _MKV, audio=_FLAC, alpha=alpha, bits=bits)


def _pictures(title: str, pixel_format: str, alpha: str, bits: int) -> Format:
    container = ("-f", "image2", "-start_number", "0")
    return Format(title, "", pixel_format, _PNG, container, alpha=alpha, bits=bits, metadata="text")


def _by_name(rows: dict[str, Format]) -> Mapping[str, Format]:
    return MappingProxyType({name: replace(row, name=name) for name, row in rows.items()})


FORMATS: Mapping[str, Format] = _by_name(
    {
        "h264-mp4": _mp4("H.264: plays everywhere", _LIBX264, _X264),
        "h264-10bit-mp4": _mp4("H.264, 10 bits", _LIBX264, _X264, "yuv420p10le"),
        "h265-mp4": _mp4("H.265: half the size of H.264, for newer players", _LIBX265, _X265),
        "h265-10bit-mp4": _mp4("H.265, 10 bits: no banding", _LIBX265, _X265, "yuv420p10le"),
        "av1-mp4": _mp4("AV1, 10 bits: the smallest files", _LIBSVTAV1, _SVT_AV1, "yuv420p10le"),
        "av1-webm": _webm("AV1, 10 bits, for web pages", _LIBSVTAV1, _SVT_AV1, "yuv420p10le"),
        "vp9-webm": _webm("VP9: keeps alpha, for web pages", _LIBVPX, _VP9, alpha="yuva420p"),
        "prores-422hq-mov": _prores("ProRes 422 HQ, for editing", "3", "yuv422p10le"),
        "prores-4444-mov": _prores("ProRes 4444: keeps alpha, for editing", "4", "yuv444p10le", alpha="yuva444p10le"),
        "ffv1-mkv": _ffv1("FFV1: lossless, 8 bits", "bgr0", "bgra", 8),
        "ffv1-10bit-mkv": _ffv1("FFV1: lossless, 10 bits", "gbrp10le", "gbrap10le", 10),
        "ffv1-16bit-mkv": _ffv1("FFV1: lossless, 16 bits", "gbrp16le", "gbrap16le", 16),
        "webp": Format(
            "Animated WebP: plays in any browser, keeps alpha",
            ".webp",
            "bgra",  # the encoder converts by itself: WebP's colours are BT.601 and it says so nowhere
            ("-c:v", "libwebp_anim", *_BITEXACT),
            ("-f", "webp"),
            qualities=MappingProxyType(
                {
                    "low": ("-quality", "50"),
                    "medium": ("-quality", "75"),
                    "high": ("-quality", "90"),
                    "highest": ("-lossless", "1", "-quality", "75"),
                }
            ),
            alpha="bgra",
            metadata="exif",
            loops=("-loop", "{}"),
            counted=False,
        ),
        "apng": Format(
            "Animated PNG: lossless, keeps alpha",
            ".png",
            "rgb24",
            ("-c:v", "apng", "-pred", "mixed", *_BITEXACT),
            ("-f", "apng"),
            alpha="rgba",
            metadata="text",
            loops=("-plays", "{}"),
        ),
        "gif": Format(
            "GIF: at most 256 colours, no sound, no workflow inside",
            ".gif",
            "bgr0",
            ("-c:v", "gif", *_BITEXACT),
            ("-f", "gif"),
            qualities=MappingProxyType({"low": ("32",), "medium": ("64",), "high": ("128",), "highest": ("256",)}),
            alpha="bgra",
            metadata=None,
            loops=("-loop", "{}"),
            palette=True,
            max_fps=Fraction(50),  # delays are hundredths of a second, and browsers slow a delay of one down
        ),
        "png": _pictures("PNG pictures in a folder, 8 bits", "rgb24", "rgba", 8),
        "png-16bit": _pictures("PNG pictures in a folder, 16 bits", "rgb48be", "rgba64be", 16),
        "h264-nvenc-mp4": _mp4("H.264 by an NVIDIA GPU", ("-c:v", "h264_nvenc"), _NVENC, hardware="nvidia"),
        "h265-nvenc-mp4": _mp4(
            "H.265 by an NVIDIA GPU", ("-c:v", "hevc_nvenc", "-tag:v", "hvc1"), _NVENC, hardware="nvidia"
        ),
        "av1-nvenc-mp4": _mp4("AV1 by an NVIDIA GPU", ("-c:v", "av1_nvenc"), _NVENC, hardware="nvidia"),
        "h264-qsv-mp4": _mp4("H.264 by an Intel GPU", ("-c:v", "h264_qsv"), _QSV, "nv12", hardware="dri"),
        "h265-qsv-mp4": _mp4(
            "H.265 by an Intel GPU", ("-c:v", "hevc_qsv", "-tag:v", "hvc1"), _QSV, "nv12", hardware="dri"
        ),
        "h264-amf-mp4": _mp4("H.264 by an AMD GPU", ("-c:v", "h264_amf"), _AMF, "nv12", hardware="dri"),
        "h265-amf-mp4": _mp4(
            "H.265 by an AMD GPU", ("-c:v", "hevc_amf", "-tag:v", "hvc1"), _AMF, "nv12", hardware="dri"
        ),
    }
)


def find_format(name: str) -> Format:
    """The row called `name`; VideoError listing the known names if there is none."""
    if not isinstance(name, str) or name not in FORMATS:
        raise VideoError(f"unknown video format {name!r}; known: {', '.join(FORMATS)}")
    return FORMATS[name]

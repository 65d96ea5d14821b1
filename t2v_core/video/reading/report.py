"""ffmpeg's own report on a file it was given, taken apart: `Stream #0:0: Video: h264 (High), yuv420p(tv, bt709), ...`.

It is made for people (libavformat/dump.c) and is read here because imageio-ffmpeg brings no ffprobe. What a file says
of itself (its metadata) stands in it too, always behind more spaces than a stream's line has, or behind a colon.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction

_STREAM = re.compile(r" {2,4}Stream #0:(\d+)(?:\[0x[0-9a-f]+\])?(?:\(([^)]*)\))?: (\w+): (.*)")
_DURATION = re.compile(r"  Duration: (\d+):(\d+):(\d+(?:\.\d+)?),")
_ROTATION = re.compile(r" +(?:displaymatrix|Display Matrix): rotation of (-?\d+(?:\.\d+)?) degrees")
_ALPHA_MODE = re.compile(r" +alpha_mode +: 1$", re.IGNORECASE)
_SIZE = re.compile(r"(\d+)x(\d+)(?= |$)")
_RATE = re.compile(r"(\d+(?:\.\d+)?)(k?) (fps|tbr)")
_DEEP = re.compile(r"(?:p|gray|bayer_\w+|y2|x2rgb|x2bgr|xyz|p[024])(9|10|12|14|16)(?:msb)?(?:le|be)$")
_SIXTEEN = re.compile(r"(48|64|ya16|f16|f32)(le|be)$")
_WITH_ALPHA = re.compile(r"(yuva|gbrap|rgba|bgra|argb|abgr|ya8|ya16|pal8|ayuv|vuya|uyva)")
_MATRICES = "gbr bt709 fcc bt470bg smpte170m smpte240m ycgco ycgco-re ycgco-ro bt2020nc bt2020c smpte2085 ictcp".split()


@dataclass(frozen=True)
class VideoStream:
    """What ffmpeg says of a stream of pictures. An empty text is what it does not say."""

    index: int
    codec: str
    profile: str = ""
    pixel_format: str = ""
    width: int = 0
    height: int = 0
    pixel_aspect: Fraction = Fraction(1)
    average_rate: Fraction | None = None
    """Frames a second over the whole stream, to two decimals."""
    base_rate: Fraction | None = None
    """The rate at which every time stamp of the stream falls on a frame."""
    range: str = ""
    """`tv` or `pc`."""
    matrix: str = ""
    primaries: str = ""
    transfer: str = ""
    rotation: float = 0.0
    """Degrees counterclockwise that a player turns the pictures by, as ffmpeg counts them."""
    vp_alpha: bool = False
    """A second stream inside each packet of VP8 or VP9 holds the alpha."""

    @property
    def bits(self) -> int:
        """Bits a channel."""
        if _SIXTEEN.search(self.pixel_format):
            return 16
        deep = _DEEP.search(self.pixel_format)
        return int(deep[1]) if deep else 8

    @property
    def alpha(self) -> bool:
        return self.vp_alpha or bool(_WITH_ALPHA.match(self.pixel_format))


@dataclass(frozen=True)
class AudioStream:
    """What ffmpeg says of a stream of sound."""

    index: int
    codec: str
    sample_rate: int = 0
    channels: str = ""
    """`mono`, `stereo`, `5.1`, ..."""


@dataclass
class Report:
    """What a file holds."""

    duration: float | None = None
    """Seconds."""
    video: list[VideoStream] = field(default_factory=list)
    """Without cover pictures."""
    audio: list[AudioStream] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """A word or two on each other stream."""


def parse_report(text: str) -> Report:
    """Take apart what ffmpeg printed on its first input."""
    report, in_video = Report(), False
    for line in text.partition("\nOutput #0")[0].split("\n"):
        if (match := _DURATION.match(line)) and report.duration is None:
            report.duration = 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])
        elif match := _STREAM.match(line):
            known = len(report.video)
            _add(report, int(match[1]), match[3], _fields(match[4]))
            in_video = len(report.video) > known
        elif in_video:
            if match := _ROTATION.match(line):
                report.video[-1] = replace(report.video[-1], rotation=float(match[1]))
            elif _ALPHA_MODE.match(line):
                report.video[-1] = replace(report.video[-1], vp_alpha=True)
    return report


def _add(report: Report, index: int, kind: str, fields: list[str]) -> None:
    codec = fields[0].split(" ")[0]
    if kind == "Video" and "(attached pic)" not in fields[-1]:
        report.video.append(_video(index, codec, fields))
    elif kind == "Audio":
        rate = next((int(f[:-3]) for f in fields if f.endswith(" Hz") and f[:-3].isdecimal()), 0)
        layout = fields[2] if len(fields) > 2 else ""
        report.audio.append(AudioStream(index, codec, rate, layout))
    else:
        report.others.append(f"{kind.lower()} {codec}" if kind != "Video" else f"picture {codec}")


def _video(index: int, codec: str, fields: list[str]) -> VideoStream:
    found: dict = {}
    # `h264 (High) (avc1 / 0x31637661)`: the profile, and what the container calls the codec
    names = [name for name in re.findall(r"\(([^()]*)\)", fields[0]) if " / 0x" not in name]
    if names:
        found["profile"] = names[0]
    if len(fields) > 1:
        pixel_format, _, said = fields[1].partition("(")
        if re.fullmatch(r"[a-z0-9_]+", pixel_format) and pixel_format != "none":
            found["pixel_format"] = pixel_format
            found |= _colour(said.rstrip(")").split(", "))
    for text in fields[2:]:
        if (match := _SIZE.match(text)) and "width" not in found:
            found["width"], found["height"] = int(match[1]), int(match[2])
        if (match := re.search(r"SAR (\d+):(\d+)", text)) and int(match[1]) and int(match[2]):
            found["pixel_aspect"] = Fraction(int(match[1]), int(match[2]))
        if match := _RATE.fullmatch(text.partition(" (")[0]):
            rate = Fraction(match[1]) * (1000 if match[2] else 1)
            found["average_rate" if match[3] == "fps" else "base_rate"] = rate or None
    return VideoStream(index, codec, **found)


def _colour(said: list[str]) -> dict[str, str]:
    """`tv, bt709/unknown/unknown, progressive`: one word stands for matrix, primaries and transfer alike."""
    found = {}
    for word in said:
        if word in ("tv", "pc"):
            found["range"] = word
        elif word.count("/") == 2 or word in _MATRICES:
            names = word.split("/") if "/" in word else [word] * 3
            pairs = zip(("matrix", "primaries", "transfer"), names, strict=True)
            found |= {name: value for name, value in pairs if value not in ("unknown", "reserved")}
    return found


def _fields(text: str) -> list[str]:
    """Split at the commas that stand in no brackets."""
    return [part.strip() for part in re.split(r",(?![^(\[]*[)\]])", text)]

"""What is in a video file, in a few lines for people."""

from __future__ import annotations

from fractions import Fraction

from .info import VideoInfo


def describe(info: VideoInfo) -> list[str]:
    """The file, its pictures, their colours, its sound, what else it holds; a line each, without what it lacks."""
    stream = info.stream
    length = "" if info.duration is None else f", {info.duration:.2f} seconds"
    count = "" if info.num_frames is None else f", {info.num_frames} frame{'s' if info.num_frames != 1 else ''}"
    profile = f" ({stream.profile})" if stream.profile else ""
    shape = "" if stream.pixel_aspect == 1 else f", pixels {_ratio(stream.pixel_aspect, ':')}"
    turned = f", turned by {stream.rotation:g} degrees" if stream.rotation else ""
    alpha = ", with alpha" if stream.alpha else ""
    lines = [
        f"{info.file.kind}, {info.file.size:,} bytes{length}{count}",
        f"{info.width} x {info.height}{shape}{turned}, {rate_text(info)}",
        f"{stream.codec}{profile}, {stream.pixel_format or 'no pixel format'}, {stream.bits} bits{alpha}",
        f"colours: {_colours(info)}",
    ]
    for track in info.audio:
        lines.append(f"sound: {track.codec}, {track.sample_rate} Hz, {track.channels or 'channels not said'}")
    return [*lines, *([f"also: {', '.join(info.others)}"] if info.others else [])]


def rate_text(info: VideoInfo) -> str:
    """`23.976 frames a second (24000/1001)`, and whether that is a mean."""
    if info.fps is None:
        return "no usable frame rate"
    exact = "" if info.fps.denominator == 1 else f" ({_ratio(info.fps)})"
    mean = " on average, of unequal length" if info.variable_rate else ""
    return f"{float(info.fps):.5g} frames a second{exact}{mean}"


def _colours(info: VideoInfo) -> str:
    stream = info.stream
    said = {"matrix": stream.matrix, "primaries": stream.primaries, "transfer": stream.transfer}
    ranges = {"tv": "limited range", "pc": "full range"}
    named = [f"{name} {value}" for name, value in said.items() if value]
    return ", ".join([*named, ranges.get(stream.range, "range not tagged")] if named else ["not tagged"])


def _ratio(value: Fraction, between: str = "/") -> str:
    return f"{value.numerator}{between}{value.denominator}"

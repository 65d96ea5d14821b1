"""What the nodes that write videos share: the formats on offer, and one call from frames to a file and its preview."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..t2v_core.errors import T2VError, VideoError
from ..t2v_core.video import FORMATS, QUALITIES, Format, OutputFolder, VideoOptions
from ..t2v_core.video.ffmpeg import find_ffmpeg
from ..t2v_core.video.formats.user_formats import user_formats
from ..t2v_core.video.rate import HIGHEST, LOWEST, frame_rate
from ..t2v_core.video.writing.audio import Sound
from ..t2v_core.video.writing.encoders import writable
from ..t2v_core.video.writing.naming import check_prefix, fill_in
from . import host

OPTIONS = "T2V_VIDEO_OPTIONS"
"""The socket of T2V Video Options."""

_PLAYED = (".mp4", ".webm")
"""What the page shows in a player; it shows .webp and .png as pictures by themselves, and cannot show .mov and .mkv."""


def formats() -> dict[str, Format]:
    """The formats that can be written here, the user's own last. Without ffmpeg, those that ffmpeg usually writes."""
    folder = host.video_formats_folder()
    known = {**FORMATS, **user_formats(folder)}
    try:
        program = None if folder is None else find_ffmpeg()  # without a host nothing is written, so nobody is asked
    except VideoError:
        program = None
    if program is None:
        return {name: row for name, row in known.items() if row.hardware is None}
    return writable(program, known)


def images_input() -> tuple:
    return (
        "IMAGE,VIDEO",
        {
            "tooltip": "The frames, in order, with alpha or without; or a VIDEO, which brings its own frames per "
            "second and sound."
        },
    )


def parts_of(images: Any, fps: float, audio: Mapping | None) -> tuple[Any, Any, Mapping | None]:
    """The frames, their rate and the sound: of a VIDEO its own, but for a sound that is connected besides."""
    if not hasattr(images, "get_components"):
        return images, fps, audio
    parts = images.get_components()
    return parts.images, parts.frame_rate, parts.audio if audio is None else audio


def inputs() -> dict[str, tuple]:
    """The widgets that say what file becomes of frames, in their order."""
    return {
        "fps": (
            "FLOAT",
            {
                "default": 8.0,
                "min": float(LOWEST),
                "max": float(HIGHEST),
                "step": 0.01,
                "round": 0.001,  # or the page turns 23.976 into 23.98
                "tooltip": "Frames per second. 'bundled' was made at 8.",
            },
        ),
        "filename_prefix": (
            "STRING",
            {
                "default": "t2v",
                "tooltip": "The start of the file's name; a number follows. Slashes make folders inside the "
                "output folder; %year%, %month%, %day%, %hour%, %minute%, %second%, %width% and %height% are "
                "filled in.",
            },
        ),
        "format": (
            list(formats()),
            {"default": "h264-mp4", "tooltip": "The kind of video file. Listed is what the ffmpeg here can write."},
        ),
        "quality": (
            list(QUALITIES),
            {
                "default": "high",
                "tooltip": "Higher means a larger file. Lossless formats and ProRes have one quality, "
                "whatever this says.",
            },
        ),
    }


def optional_inputs() -> dict[str, tuple]:
    return {
        "audio": (
            "AUDIO",
            {
                "tooltip": "Sound for the video, cut or followed by silence to its length if the options ask for "
                "no other."
            },
        ),
        "options": (
            OPTIONS,
            {"tooltip": "From T2V Video Options: exact quality, dither, loops, ping-pong, sound length."},
        ),
    }


def check_prefix_widget(prefix: str | None) -> bool | str:
    """VALIDATE_INPUTS of a filename_prefix, so that it is said before the clip is sampled; None comes over a link."""
    if prefix is not None:
        try:
            check_prefix(prefix)
        except T2VError as error:
            return f"filename_prefix: {error}"
    return True


def save(
    frames: Iterable,
    count: int,
    width: int,
    height: int,
    *,
    fps: float,
    prefix: str,
    format: str,
    quality: str,
    options: VideoOptions | None = None,
    audio: Mapping | None = None,
    prompt: dict | None = None,
    extra_pnginfo: dict | None = None,
    temporary: bool = False,
) -> dict[str, Any]:
    """Writes `count` frames into the output folder, or the temporary one, and returns what the page shows of them."""
    running, known = host.current(), formats()
    if format not in known:
        raise VideoError(f"format {format!r} cannot be written here; there are {', '.join(known)}")
    row, wishes = known[format], options or VideoOptions()
    sound = None if audio is None else Sound.from_comfyui(audio).seconds
    root = running.temp_folder() if temporary else running.output_folder()
    saved = OutputFolder(root).write(
        fill_in(prefix, width, height),
        frames,
        fps,
        format=row,
        quality=quality,
        options=wishes,
        metadata=_metadata(prompt, extra_pnginfo) if running.writes_metadata() else None,
        audio=audio,
        on_frame=running.progress(wishes.length(count, row, frame_rate(fps), sound), "Writing"),
    )
    kind = "temp" if temporary else "output"
    if row.is_folder:
        folder = "/".join(filter(None, (saved.subfolder, saved.filename)))
        first = sorted(path.name for path in saved.path.iterdir())[0]
        return {"ui": {"images": [{"filename": first, "subfolder": folder, "type": kind}]}}
    shown = {"images": [{"filename": saved.filename, "subfolder": saved.subfolder, "type": kind}]}
    if row.extension in _PLAYED or row.loops and not row.palette:
        shown["animated"] = (True,)
    return {"ui": shown}


def _metadata(prompt: dict | None, extra_pnginfo: dict | None) -> dict[str, str]:
    """The graph under `prompt` and the page's workflow under `workflow`, where ComfyUI's page looks for them."""
    workflow = (extra_pnginfo or {}).get("workflow")
    entries = {"prompt": prompt, "workflow": workflow}
    return {name: json.dumps(value) for name, value in entries.items() if value is not None}

"""Formats of the user's own: small JSON files, each a built-in format with other settings.

    {"title": "H.264 for line art", "like": "h264-mp4", "pixel_format": "yuv444p", "crf": 14, "preset": "slow",
     "options": {"tune": "animation", "g": 48}}

`like` names a built-in format; all else may be left out. `crf` or `bitrate` (Mbit/s), and `preset`, then hold at every
quality. `options` are the encoder's, by ffmpeg's names: those in `_OPTIONS` and no others, because ffmpeg has some that
name files. Nothing here reaches a shell.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import VideoError
from .format import QUALITIES, Format
from .options import VideoOptions
from .rows import FORMATS, find_format

logger = logging.getLogger(__name__)

FIELDS = ("title", "like", "pixel_format", "crf", "bitrate", "preset", "options")
_MOST_BYTES = 64 * 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")
_WORD, _NUMBER, _SIZE = re.compile(r"[a-z0-9_-]{1,40}"), re.compile(r"-?[0-9]{1,6}(\.[0-9]{1,6})?"), r"[0-9]{1,9}[kM]?"
_OPTIONS: Mapping[str, re.Pattern] = {
    **dict.fromkeys(("tune", "profile", "aq-mode", "quality", "usage"), _WORD),
    **dict.fromkeys(("level", "g", "keyint_min", "bf", "refs", "sc_threshold", "qmin", "qmax"), _NUMBER),
    **dict.fromkeys(("tile-columns", "tile-rows", "lag-in-frames", "bits_per_mb", "slices", "context"), _NUMBER),
    **dict.fromkeys(("maxrate", "bufsize"), re.compile(_SIZE)),
}
_PIXEL_FORMATS = tuple(f"yuv{chroma}p{depth}" for chroma in ("420", "422", "444") for depth in ("", "10le"))

_warned: set[tuple[Path, str]] = set()


def user_formats(folder: Path | None) -> dict[str, Format]:
    """The formats of the JSON files in `folder`, by file name; a file that is wrong is left out, with one warning.

    Without the folder there are none. A file cannot take the name of a built-in format.
    """
    try:
        names = sorted(os.listdir(folder)) if folder is not None else []
    except OSError:
        return {}
    found = {}
    for path in (folder / name for name in names if name.endswith(".json")):
        try:
            found[path.stem] = read_format(path)
        except VideoError as error:
            if (path, str(error)) not in _warned:
                _warned.add((path, str(error)))
                logger.warning("%s", error)
    return found


def read_format(path: Path) -> Format:
    """The format that one JSON file describes; VideoError says which field of which file is wrong."""
    try:
        if not _NAME.fullmatch(path.stem) or path.stem in FORMATS:
            raise VideoError("the file's name must be letters a-z, digits and '-', and not a built-in format's")
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise VideoError(f"the file is longer than {_MOST_BYTES} bytes")
        return _format(path.stem, json.loads(text))
    except OSError as error:
        raise VideoError(f"video format {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise VideoError(f"video format {path}: not JSON: {error}") from error
    except VideoError as error:
        raise VideoError(f"video format {path}: {error}") from None


def _format(name: str, given: Any) -> Format:
    if not isinstance(given, dict):
        raise VideoError("the file must hold one JSON object")
    if unknown := sorted(set(given) - set(FIELDS)):
        raise VideoError(f"unknown field {unknown[0]!r}; known: {', '.join(FIELDS)}")
    like = given.get("like")
    row = find_format(like)
    asked = VideoOptions(**{name: given[name] for name in ("crf", "bitrate", "preset") if name in given})
    asked.check(row)
    pixel_format = given.get("pixel_format", row.pixel_format)
    if pixel_format != row.pixel_format and not (row.pixel_format in _PIXEL_FORMATS and pixel_format in _PIXEL_FORMATS):
        raise VideoError(f"pixel_format {pixel_format!r} does not go with {like}; known: {', '.join(_PIXEL_FORMATS)}")
    title = given.get("title", row.title)
    if not isinstance(title, str) or not 0 < len(title) <= 200:
        raise VideoError("title must be a string of 1 to 200 characters")
    return replace(
        row,
        name=name,
        title=title,
        pixel_format=pixel_format,
        bits=(16 if "10" in pixel_format else 8) if pixel_format in _PIXEL_FORMATS else row.bits,
        alpha=row.alpha if pixel_format == row.pixel_format else None,
        encoder=(*row.encoder, *_encoder_options(given.get("options", {}))),
        rate=None if row.rate is None or asked != VideoOptions() else row.rate,
        qualities=_fixed(row, asked) if row.rate is not None and asked != VideoOptions() else row.qualities,
    )


def _fixed(row: Format, asked: VideoOptions) -> dict[str, tuple[str, ...]]:
    """The rate's arguments at each quality, with what the file asks for put in."""
    return {word: row.rate.arguments(word, asked.crf, asked.bitrate, asked.preset) for word in QUALITIES}


def _encoder_options(options: Any) -> list[str]:
    if not isinstance(options, dict):
        raise VideoError("options must be a JSON object: names to words or numbers")
    arguments = []
    for name, value in options.items():
        if name not in _OPTIONS:
            raise VideoError(f"option {name!r} may not be set here; known: {', '.join(sorted(_OPTIONS))}")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise VideoError(f"option {name!r} is {value!r}; it must be a word or a number")
        if not _OPTIONS[name].fullmatch(str(value)):
            raise VideoError(f"option {name!r} is {value!r}, which is no value for it")
        arguments += [f"-{name}:v", str(value)]
    return arguments

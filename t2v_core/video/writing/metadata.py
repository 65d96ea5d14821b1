"""Metadata as ffmpeg reads it: an FFMETADATA1 text, so that no length limit of a command line applies.

ffmpeg documentation, "Metadata": `key=value` lines, where `=`, `;`, `#`, backslash and newline carry a backslash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...errors import VideoError

_KEY = re.compile(r"[A-Za-z0-9_.-]{1,100}")
# Carriage return is not in ffmpeg's list, but ends a line all the same.
_ESCAPED = str.maketrans({character: "\\" + character for character in "=;#\\\n\r"})


def ffmetadata(metadata: Mapping[str, str]) -> bytes:
    """The text for these keys (letters, digits, `_ . -`) and values (any Unicode but NUL, any length), UTF-8.

    VideoError names the key whose name or value cannot be stored.
    """
    if not isinstance(metadata, Mapping):
        raise VideoError(f"metadata must map names to strings, not be {type(metadata).__name__}")
    lines = [";FFMETADATA1\n"]
    for key, value in metadata.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise VideoError(f"metadata key {key!r} must be 1 to 100 ASCII letters, digits, '_', '.' or '-'")
        if not isinstance(value, str):
            raise VideoError(f"metadata {key!r} is {type(value).__name__}; it must be a string (JSON text)")
        if "\0" in value:
            raise VideoError(f"metadata {key!r} holds a NUL character, which ends a string inside ffmpeg")
        if value.endswith("\\"):  # ffmpeg takes the line break after it for a part of the value, escaped or not
            raise VideoError(f"metadata {key!r} ends in a backslash, which ffmpeg cannot store (no JSON text does)")
        lines.append(f"{key}={value.translate(_ESCAPED)}\n")
    try:
        return "".join(lines).encode()
    except UnicodeEncodeError as error:
        raise VideoError(f"metadata is not valid Unicode ({error.reason}); escape it, as json.dumps does") from None

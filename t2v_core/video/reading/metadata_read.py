"""What a file says of itself, as ffmpeg prints it and as a PNG holds it."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from ...errors import VideoError

COMFYUI_KEYS = ("prompt", "workflow")
_MOST_CHUNKS = 100_000
_MOST_TEXT = 2**26
_SPLIT = re.compile(r"((?:[^\\=]|\\.)*)=(.*)", re.DOTALL)


def parse_ffmetadata(data: bytes) -> dict[str, str]:
    """The global keys of an FFMETADATA1 text (ffmpeg documentation, "Metadata"), of any length.

    Matroska and webm write ComfyUI's names in capitals; here they are `prompt` and `workflow` always.
    """
    found = {}
    # a line break that belongs to a value stands behind a backslash, whose own number is odd
    lines = re.findall(r"(?:[^\\\n]|\\.)+", data.decode(errors="replace"), re.DOTALL)
    for line in lines:
        if line.startswith("[") and "=" not in line:  # [STREAM], [CHAPTER]: not of the whole file any more
            break
        if not line.startswith(";") and (match := _SPLIT.fullmatch(line)):
            key, value = (re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in match.groups())
            found[comfyui_key(key)] = value
    return found


def comfyui_key(name: str) -> str:
    """`prompt` and `workflow` however they are written; any other name as it is."""
    return name.lower() if name.lower() in COMFYUI_KEYS else name


def png_text(path: Path) -> dict[str, str]:
    """The texts in a PNG's chunks tEXt, zTXt and iTXt (PNG specification, third edition, 11.3.3).

    VideoError if they come to more than 64 MiB; a chunk that is damaged is left out.
    """
    found, total = {}, 0
    with path.open("rb") as file:
        file.seek(8)
        for _ in range(_MOST_CHUNKS):
            start = file.read(8)
            size, kind = int.from_bytes(start[:4], "big"), start[4:]
            if len(start) < 8 or kind == b"IEND":
                break
            if kind not in (b"tEXt", b"zTXt", b"iTXt"):
                file.seek(size + 4, 1)
                continue
            if size > _MOST_TEXT:
                raise _too_much(path)
            key, _, rest = file.read(size).partition(b"\0")
            file.seek(4, 1)
            text = _text(kind, rest)
            total += 0 if text is None else len(text)
            if total > _MOST_TEXT:
                raise _too_much(path)
            if text is not None:
                found[comfyui_key(key.decode("latin-1"))] = text
    return found


def _text(kind: bytes, rest: bytes) -> str | None:
    """The text of a chunk from behind its keyword on, or None if it is damaged."""
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        compressed, body, encoding = True, rest[1:], "latin-1"
    else:
        compressed, body, encoding = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1], "utf-8"
    if not compressed:
        return body.decode(encoding, "replace")
    try:
        return zlib.decompressobj().decompress(body, _MOST_TEXT + 1).decode(encoding, "replace")
    except zlib.error:
        return None


def _too_much(path: Path) -> VideoError:
    return VideoError(f"{path}: it holds more than {_MOST_TEXT:,} bytes of text")

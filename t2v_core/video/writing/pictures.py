"""Text inside picture files, where ffmpeg writes none: WebP's EXIF and PNG's text chunks.

RFC 9649 (WebP), 2.7; PNG specification (third edition), 11.3.3; TIFF 6.0, section 2.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

from PIL import PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import ASCII

_MODEL, _MAKE = 0x0110, 0x010F
"""ComfyUI puts `prompt:...` under the first, all else from the second downwards as `name:...`."""
_HEADER_BYTES = 33
"""PNG's signature and its first chunk, IHDR."""
_HAS_ALPHA, _HAS_EXIF = 0x10, 0x08


def add_text(png: Path, metadata: Mapping[str, str]) -> None:
    """A text chunk for each entry at the start of a PNG or APNG, where every reader looks: `tEXt`, or `iTXt` if it is
    not ASCII."""
    texts = PngImagePlugin.PngInfo()
    for name, value in metadata.items():
        if value.isascii():
            texts.add_text(name, value)
        else:
            texts.add_itxt(name, value)
    longer = png.with_suffix(".text")
    with png.open("rb") as old, longer.open("wb") as new:
        new.write(old.read(_HEADER_BYTES))
        for kind, data, *_ in texts.chunks:
            PngImagePlugin.putchunk(new, kind, data)
        shutil.copyfileobj(old, new)
    os.replace(longer, png)


def add_exif(webp: Path, metadata: Mapping[str, str]) -> None:
    """One EXIF chunk with an entry `name:value` for each, at the end of a WebP, which is changed in place."""
    with webp.open("r+b") as file:
        head = file.read(30)
        if head[12:16] == b"VP8X":
            file.seek(20)
            file.write(bytes([head[20] | _HAS_EXIF]))
        else:  # a still picture: the encoder leaves the chunk out that says what there is besides
            file.seek(12)
            still = file.read()
            file.seek(12)
            file.write(_extended(still, head[12:16]) + still)
        file.seek(0, 2)
        file.write(_riff(b"EXIF", _exif(metadata)))
        size = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", size))


def _exif(metadata: Mapping[str, str]) -> bytes:
    entries = ImageFileDirectory_v2()
    tag = _MAKE
    for name, value in metadata.items():
        number = _MODEL if name == "prompt" else tag
        tag -= name != "prompt"
        entries.tagtype[number] = ASCII
        entries[number] = f"{name}:{value}".encode()
    return b"II*\0\x08\0\0\0" + entries.tobytes(offset=8)


def _extended(still: bytes, kind: bytes) -> bytes:
    """The VP8X chunk for a still picture that has none, `still` its one chunk."""
    if kind == b"VP8L":
        bits = int.from_bytes(still[9:13], "little")
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", still[14:18]))
        width, height, alpha = width - 1, height - 1, 0
    flags = _HAS_EXIF | (_HAS_ALPHA if alpha else 0)
    return _riff(b"VP8X", struct.pack("<I", flags) + width.to_bytes(3, "little") + height.to_bytes(3, "little"))


def _riff(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

"""Which files are read as videos, and how ffmpeg is told to open one: by its content, and nothing beyond it.

A file's name decides nothing. Its first bytes name its kind, and ffmpeg is made to read that kind: a playlist that is
called `clip.mp4` could name other files and addresses, and is refused. So are paths that are no plain files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...errors import VideoError

EXTENSIONS = tuple(
    ".mp4 .m4v .mov .mkv .webm .avi .gif .webp .apng .mpg .mpeg .ts .m2ts .mts .wmv .flv .ogv .3gp".split()
)
"""What names of videos end in: for lists of files. Any other file may be read too."""
MAX_SIDE = 16384
MAX_PIXELS = 2**26
"""Of one frame: 8K video has half of them. Bounds what a header of a few bytes can make anybody allocate."""
_HEAD = 1024
_MOST_CHUNKS = 1000
_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_PNG = b"\x89PNG\r\n\x1a\n"
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"[playlist]", b"[Reference]", b"RTSPtext", b"v=0")


@dataclass(frozen=True)
class VideoFile:
    """A plain file that holds one of the known kinds of video."""

    path: Path
    """Absolute."""
    kind: str
    """What people call it."""
    demuxer: str | None
    """ffmpeg's word for it; None where Pillow reads it."""
    size: int
    """Bytes."""

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> VideoFile:
        """Look at the file's first bytes. VideoError if it is no plain file, may not be read, or is no video."""
        path = Path(os.path.abspath(_checked_name(path)))
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # before it is opened: a pipe would wait, a device may never end
                what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
                raise VideoError(f"{path} is {what}, not a video file")
            with path.open("rb") as file:
                head = file.read(_HEAD)
                kind, demuxer = _recognised(head, file) or (None, None)
        except (OSError, ValueError) as error:
            raise VideoError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
        if not head:
            raise VideoError(f"{path} is empty")
        if kind is None:
            raise VideoError(f"{path}: {_why_not(head)}")
        return cls(path, kind, demuxer, status.st_size)

    def arguments(self) -> list[str]:
        """ffmpeg's input options and `-i`: this demuxer, this file, no other file and no network."""
        return [
            *("-protocol_whitelist", "file", "-format_whitelist", self.demuxer, "-max_pixels", str(MAX_PIXELS)),
            *("-f", self.demuxer, "-i", f"file:{self.path}"),  # `file:` for names with colons and leading dashes
        ]


def check_size(width: int, height: int, where: object) -> None:
    """VideoError for frames that are larger than any video is, or have no pixels; `where` starts the message."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise VideoError(
            f"{where}: frames of {width} x {height}; both sides must lie in 1 to {MAX_SIDE}, and a frame have at most "
            f"{MAX_PIXELS:,} pixels"
        )


def _checked_name(path: str | os.PathLike[str]) -> str:
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise VideoError(f"a video is given by its path, not by {type(path).__name__}") from None
    if "\0" in name or not name:
        raise VideoError(f"{name!r} is no file name")
    return name


def _recognised(head: bytes, file: BinaryIO) -> tuple[str, str | None] | None:
    """(what people call it, ffmpeg's demuxer) by the signature of each format."""
    if head[4:8] in _ISO_BOXES:  # ISO/IEC 14496-12, 4.2: size and type of the first box
        return ("QuickTime mov", "mov") if head[8:12] == b"qt  " else ("mp4", "mov")
    if head.startswith(b"\x1a\x45\xdf\xa3"):  # RFC 8794, 11.2: an EBML document; its DocType is near its start
        return ("webm" if b"webm" in head[:64] else "Matroska", "matroska")
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP"):
        return ("AVI", "avi") if head[8:12] == b"AVI " else ("WebP", None)
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF", "gif"
    if head.startswith(_PNG):
        return ("APNG", "apng") if _is_animated_png(file) else ("PNG", "png_pipe")
    if _is_transport_stream(head):
        return "MPEG-TS", "mpegts"
    others = {b"\0\0\1\xba": ("MPEG", "mpeg"), b"FLV": ("Flash video", "flv"), b"OggS": ("Ogg", "ogg")}
    others[b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"] = ("Windows Media", "asf")
    return next((kind for magic, kind in others.items() if head.startswith(magic)), None)


def _is_animated_png(file: BinaryIO) -> bool:
    """An APNG's chunk acTL stands before the pixels (PNG specification, third edition, 5.6)."""
    position = len(_PNG)
    for _ in range(_MOST_CHUNKS):
        file.seek(position)
        start = file.read(8)
        if len(start) < 8 or start[4:] == b"IDAT":
            return False
        if start[4:] == b"acTL":
            return True
        position += 12 + int.from_bytes(start[:4], "big")
    return False


def _is_transport_stream(head: bytes) -> bool:
    """A sync byte at the start of each packet (ISO/IEC 13818-1, 2.4.3.2), after 4 more bytes in Blu-ray's files."""
    for first, packet in ((0, 188), (4, 192)):
        starts = range(first, len(head), packet)
        if len(starts) >= 3 and all(head[start] == 0x47 for start in starts):
            return True
    return False


def _why_not(head: bytes) -> str:
    if any(head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(mark) for mark in _PLAYLISTS):
        return "this is a playlist or another text that names videos; only a video itself is read"
    return "not a video this can read; known are mp4, mov, mkv, webm, avi, gif, webp, apng, mpg, ts, wmv, flv and ogv"


def inside(folder: Path, name: str) -> Path:
    """The plain file `name` below `folder`. VideoError if there is none, or if it lies elsewhere, also by a link."""
    try:
        root, path = folder.resolve(), (folder / _checked_name(name)).resolve()
        found = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, too long a name
        raise VideoError(f"{name!r} leads nowhere: {getattr(error, 'strerror', None) or error}") from None
    if not path.is_relative_to(root):
        raise VideoError(f"{name!r} leads out of the folder {folder}; only what lies in it is read")
    if not found:
        raise VideoError(f"there is no file {name!r} in {folder}; put it there, or choose another")
    return path


def videos_in(folder: Path, extensions: Iterable[str] = EXTENSIONS) -> list[str]:
    """The names, sorted, of the files directly in `folder` that are called like videos; none if it is not there."""
    endings = tuple(extensions)
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.name.lower().endswith(endings) and _is_file(entry))
    except OSError:
        return []


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a circle of links
        return False

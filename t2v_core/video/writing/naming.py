"""Names for files: numbered as ComfyUI numbers its outputs, given only to whole files, never taken from another."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ...errors import VideoError
from ..formats.format import Format
from ..formats.options import VideoOptions
from .encode import Encoding, encoded

_MAX_PARTS = 32
_MAX_NAME = 220
"""Bytes; file systems allow 255, and a number and an extension must still fit."""
_MAX_PREFIX = 2000
"""Characters; a path may have about 4000, and a message must not repeat megabytes."""
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_WINDOWS_RESERVED = re.compile(r'[<>:"|?*]')


@dataclass(frozen=True)
class SavedVideo:
    """A file, or a folder of pictures, that was written into an `OutputFolder`."""

    path: Path
    """Absolute."""
    filename: str
    """`prefix_00001_.mp4`, or of a folder `prefix_00001_`."""
    subfolder: str
    """Below the output folder, with forward slashes; empty if the file lies in the folder itself."""


class OutputFolder:
    """A folder that collects numbered videos. No prefix reaches outside it; parallel jobs may share it."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """`root` need not exist yet: it is created with the first file."""
        self.root = Path(root).resolve()

    def write(
        self,
        prefix: str,
        frames: Iterable,
        fps: float | Fraction,
        *,
        format: str | Format = "h264-mp4",
        quality: str = "high",
        options: VideoOptions | None = None,
        metadata: Mapping[str, str] | None = None,
        audio: Mapping | None = None,
        on_frame: Callable[[int], None] | None = None,
    ) -> SavedVideo:
        """`write_video` to `<root>/<prefix>_00001_<extension>`, or the first number above all there are.

        prefix: a name, perhaps after subfolders (`/` or a backslash between them, on every system), which appear only
            when the file is whole. VideoError if it is empty or could lead elsewhere: `..`, an absolute path, a drive
            letter, a link out of the folder, control characters.
        The other arguments are those of `write_video`.
        """
        encoding = Encoding.checked(fps, format, quality, options, metadata, audio)
        folder, name = self._place(prefix)
        with encoded(frames, _nearest_folder(folder), encoding, on_frame) as whole:
            path = _publish_numbered(whole, folder, name, encoding.format.extension)
        subfolder = folder.relative_to(self.root).as_posix()
        return SavedVideo(path, path.name, "" if subfolder == "." else subfolder)

    def _place(self, prefix: str) -> tuple[Path, str]:
        """The folder that `prefix` means, links resolved, and the name to number in it."""
        parts = _parts(prefix)
        try:
            folder = self.root.joinpath(*parts[:-1]).resolve()
        except (OSError, RuntimeError) as error:  # a circle of links
            raise VideoError(f"file prefix {prefix!r} leads nowhere: {error}") from error
        if not folder.is_relative_to(self.root):
            raise VideoError(f"file prefix {prefix!r} leads out of the output folder through a link, to {folder}")
        return folder, parts[-1]


def check_prefix(prefix: str) -> None:
    """VideoError if `OutputFolder.write` would refuse this prefix whatever lies in the folder."""
    _parts(prefix)


def fill_in(prefix: str, width: int, height: int) -> str:
    """The prefix with ComfyUI's variables replaced: %width%, %height%, and of the local time %year%, %month%, %day%,
    %hour%, %minute%, %second%."""
    values = {"width": str(width), "height": str(height)}
    moment = time.localtime()
    for name, number in zip(("year", "month", "day", "hour", "minute", "second"), moment, strict=False):
        values[name] = f"{number:02}"
    return re.sub(r"%([a-z]+)%", lambda match: values.get(match[1], match[0]), prefix)


def publish(whole: Path, target: Path) -> None:
    """Give the file or folder `whole` the name `target`, at once and never in the place of another file.

    FileExistsError if the name is taken, VideoError if the system refuses. `whole` may keep its old name too.
    """
    try:
        if os.name == "nt":
            os.rename(whole, target)  # refuses to replace on Windows, and only there
        else:
            _link_or_claim(whole, target)
    except FileExistsError:
        raise
    except OSError as error:
        raise VideoError(f"cannot write {target}: {error.strerror}") from error


def _link_or_claim(whole: Path, target: Path) -> None:
    if whole.is_dir():
        _rename_folder(whole, target)
        return
    try:
        os.link(whole, target)
        return
    except FileExistsError:
        raise
    except OSError:
        pass  # no hard links here (FAT, exFAT, some network shares): claim the name with an empty file, replace that
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        os.replace(whole, target)
    except BaseException:
        os.unlink(target)
        raise


def _rename_folder(whole: Path, target: Path) -> None:
    """POSIX puts a folder in the place of an empty one, and of nothing else."""
    if os.path.lexists(target):
        raise FileExistsError(target)
    try:
        os.rename(whole, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(target) from None
        raise


def _publish_numbered(whole: Path, folder: Path, name: str, extension: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = _highest_number(folder, name) + 1
    except OSError as error:
        raise VideoError(f"cannot write in {folder}: {error.strerror}") from error
    while True:
        target = folder / f"{name}_{number:05}_{extension}"
        try:
            publish(whole, target)
            return target
        except FileExistsError:  # another job took the number since we looked
            number += 1


def _highest_number(folder: Path, name: str) -> int:
    """The n of the files `name_n_...` in `folder`, of whatever extension (ComfyUI counts so); 0 without any."""
    numbered = re.compile(re.escape(os.path.normcase(name)) + r"_([0-9]+)(?:[_.]|$)")
    found = (numbered.match(os.path.normcase(entry)) for entry in os.listdir(folder))
    return max((int(match[1]) for match in found if match), default=0)


def _nearest_folder(folder: Path) -> Path:
    """`folder`, or the first folder above it that exists: temporary files go there, on the same file system."""
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise VideoError(f"{folder} is not a folder")
    return folder


def _parts(prefix: str) -> list[str]:
    if not isinstance(prefix, str) or not prefix:
        raise VideoError("the file prefix is empty; it must name the file, for example 'video' or 'tests/video'")
    if len(prefix) > _MAX_PREFIX:
        raise VideoError(f"file prefix {prefix[:60]!r}... has {len(prefix)} characters; at most {_MAX_PREFIX} fit")
    if _UNFIT.search(prefix):
        raise VideoError(f"file prefix {prefix!r} holds control characters or broken Unicode; no file name should")
    parts = re.split(r"[/\\]", prefix)
    if len(parts) > _MAX_PARTS:
        raise VideoError(f"file prefix {prefix[:60]!r}... names {len(parts) - 1} folders; at most {_MAX_PARTS - 1} fit")
    if re.match(r"[A-Za-z]:", prefix) or not parts[0]:
        raise VideoError(f"file prefix {prefix!r} is an absolute path; it must stay inside the output folder")
    if os.name == "nt" and _WINDOWS_RESERVED.search(prefix):
        raise VideoError(f'file prefix {prefix!r} holds a character that Windows forbids in names: < > : " | ? *')
    for part in parts:
        # Windows drops dots and spaces at the end of a name: there, ".. " is ".." too.
        if not part.strip(" ."):
            raise VideoError(
                f"file prefix {prefix!r} has a part that is no name ({part!r}); it must stay inside the output folder"
            )
        if len(part.encode()) > _MAX_NAME:
            raise VideoError(f"file prefix {prefix[:60]!r}... has a part longer than {_MAX_NAME} bytes")
    return parts

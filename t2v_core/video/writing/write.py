"""One call: frames in, one video at a path of the caller's choice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path

from ...errors import VideoError
from ..formats.format import Format
from ..formats.options import VideoOptions
from .encode import Encoding, encoded
from .naming import publish


def write_video(
    frames: Iterable,
    path: str | os.PathLike[str],
    fps: float | Fraction,
    *,
    format: str | Format = "h264-mp4",
    quality: str = "high",
    options: VideoOptions | None = None,
    metadata: Mapping[str, str] | None = None,
    audio: Mapping | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> Path:
    """Encode `frames` to a new file (or folder of pictures) at `path`, streaming: memory is the same for any number.

    frames: an iterable of `[h, w, 3]` torch tensors or numpy arrays, or one `[f, h, w, 3]` tensor; uint8, uint16, or
        float 0..1 (clamped, scaled, rounded half up); `[h, w, 4]` with straight alpha where the format holds it. All of
        one size, at most 16384 a side. Where the format halves the colours' resolution, odd sizes grow to even ones
        by repeating the last column and row.
    path: must end in the format's extension (none for a folder of pictures) and must not exist; its folder must.
    fps: frames per second, 0.01 to 1000. Kept exact; 23.976 and 29.97 mean 24000/1001 and 30000/1001.
    format: a key of `FORMATS`, or a row of one's own.
    quality: `low`, `medium`, `high` or `highest`; in H.264 CRF 28, 23, 18, all preset medium, and CRF 10, preset
        slow. Lossless formats and ProRes have one quality, whatever this says.
    options: wishes beyond that, see `VideoOptions`.
    metadata: names to strings, stored in the file; ComfyUI's page looks for JSON text under `prompt` and `workflow`.
        A GIF holds none and is written without.
    audio: ComfyUI's AUDIO, `{"waveform": [1, channels, samples], "sample_rate": Hz}`, 1 to 6 channels, encoded in the
        same pass; cut, or followed by silence, to the length of the video if `options` do not say otherwise.
    on_frame: called with the number of frames handed over so far (1, 2, ...). An exception raised here or by `frames`
        cancels and passes through unchanged.

    Returns `path`, absolute. YUV formats are BT.709 limited range and tagged so; RGB formats are sRGB. The same input
    gives the same bytes (from the same ffmpeg). Raises VideoError; then, and on any other exception, nothing new is
    left on disk.
    """
    target = Path(os.path.abspath(os.fspath(path)))
    encoding = Encoding.checked(fps, format, quality, options, metadata, audio)
    _check_target(target, encoding.format.extension)
    with encoded(frames, target.parent, encoding, on_frame) as whole:
        try:
            publish(whole, target)
        except FileExistsError:
            raise VideoError(f"{target} came into being while it was encoded; it was left as it is") from None
    return target


def _check_target(target: Path, extension: str) -> None:
    if "\0" in str(target):
        raise VideoError(f"{str(target)!r} is no file name: it holds a NUL character")
    if extension and target.suffix.lower() != extension:
        raise VideoError(f"{target.name!r} should end in {extension}, the extension of this format")
    try:
        if not target.parent.is_dir():
            raise VideoError(f"folder {target.parent} does not exist")
        os.lstat(target)
    except FileNotFoundError:
        return
    except OSError as error:  # too long a name, a folder that may not be entered
        raise VideoError(f"cannot write {target}: {error.strerror}") from error
    raise VideoError(f"{target} exists already; nothing is ever overwritten: choose another name")

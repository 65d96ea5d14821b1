"""Video files for tests of reading, made by ffmpeg itself from frames that are known, and read by PyAV."""

from __future__ import annotations

import subprocess
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np

LOSSLESS = ("-c:v", "ffv1", "-pix_fmt", "gbrp")
H264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "10", "-pix_fmt", "yuv420p")


def ffmpeg(*arguments: object, stdin: bytes = b"") -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout


def numbered(count: int, width: int = 64, height: int = 48) -> np.ndarray:
    """uint8 `[count, height, width, 3]`: each frame shows its own number in twelve squares, black or white."""
    frames = np.full((count, height, width, 3), 128, np.uint8)
    for index in range(count):
        for bit in range(12):
            row, column = divmod(bit, 4)
            square = frames[index, row * height // 3 : (row + 1) * height // 3, column * width // 4 :][:, : width // 4]
            square[:] = 235 if index >> bit & 1 else 20
    return frames


def number(frame: np.ndarray) -> int:
    """The number that a frame of `numbered` shows, in any size and any depth."""
    high, wide, most = frame.shape[0] // 3, frame.shape[1] // 4, np.iinfo(frame.dtype).max
    squares = frame[: 3 * high, : 4 * wide, :3].reshape(3, high, 4, wide, 3).mean((1, 3, 4)).ravel()
    return sum(int(value > most / 2) << bit for bit, value in enumerate(squares))


PIXELS = {(1, 3): "rgb24", (1, 4): "rgba", (2, 3): "rgb48le", (2, 4): "rgba64le"}


def make(path: Path, frames: np.ndarray, *arguments: object, fps: object = 24, inputs: tuple = ()) -> Path:
    """Encodes uint8 or uint16 frames `[f, h, w, 3 or 4]` by ffmpeg with these arguments, after more inputs."""
    _, height, width, channels = frames.shape
    pixels = PIXELS[frames.itemsize, channels]
    raw = ("-f", "rawvideo", "-pix_fmt", pixels, "-s", f"{width}x{height}", "-r", fps, "-i", "-")
    ffmpeg(*raw, *inputs, *arguments, path, stdin=frames.tobytes())
    return path


def by_pyav(path: Path, pixels: str = "rgb24") -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format=pixels) for frame in container.decode(video=0)])

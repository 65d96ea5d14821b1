"""From a video file to frames, and to latents."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import torch

from ..t2v_core.errors import T2VError, VideoError
from ..t2v_core.video.rate import HIGHEST
from ..t2v_core.video.reading.describe import describe
from ..t2v_core.video.reading.images import batches, read_images
from ..t2v_core.video.reading.info import VideoInfo
from ..t2v_core.video.reading.probe import probe
from ..t2v_core.video.reading.read import VideoReader, read_video
from ..t2v_core.video.reading.read_audio import read_audio
from . import host
from .encode import FRAMES_AT_ONCE, encode_batch, size_to_encode
from .latent import MAX_FRAMES, MAX_SIDE, PIXELS_PER_LATENT, size_error
from .sockets import check_part

logger = logging.getLogger(__name__)

SHARE = 0.9  # of the free memory may the frames take
IMAGE_BYTES = 3 * 4  # per pixel


@dataclass(frozen=True)
class Range:
    """Which frames a node was asked for, in its inputs' words; 0 as they explain it."""

    start_frame: int
    num_frames: int
    stride: int
    fps: float

    def end(self) -> int | None:
        return self.start_frame + self.num_frames * self.stride if self.num_frames else None

    def count(self, info: VideoInfo) -> int:
        """How many frames will come, as far as the file tells."""
        own = info.num_frames or 1
        if self.fps and info.fps:
            own = ceil(own / info.fps * Fraction(self.fps))
        end = own if self.end() is None else min(own, self.end())
        return max(1, len(range(self.start_frame, end, self.stride)))

    def read(self, info: VideoInfo, size: tuple[int, int] | None) -> VideoReader:
        if info.fps is None:
            raise VideoError(f"video: {info.path.name} gives no usable frame rate; bring it into another format first")
        return read_video(info, self.start_frame, self.end(), self.stride, size, fps=self.fps or None)


def _inputs(sides: dict, own_size: str) -> dict:
    """The inputs that both nodes have, in order."""
    count = {"default": 0, "min": 0, "max": MAX_FRAMES}
    return {
        "start_frame": ("INT", {**count, "tooltip": "The first frame that is read, counted from 0."}),
        "num_frames": ("INT", {**count, "tooltip": "How many frames are read. 0 reads to the end."}),
        "stride": (
            "INT",
            {
                "default": 1,
                "min": 1,
                "max": MAX_FRAMES,
                "tooltip": "Reads every so many-th frame: 2 reads every other one. The fps output is divided by it.",
            },
        ),
        "width": ("INT", {**sides, "tooltip": f"Width in pixels to resize to. 0 follows the height; {own_size}"}),
        "height": ("INT", {**sides, "tooltip": f"Height in pixels to resize to. 0 follows the width; {own_size}"}),
        "fps": (
            "FLOAT",
            {
                "default": 0.0,
                "min": 0.0,
                "max": float(HIGHEST),
                "step": 0.01,
                "round": 0.001,  # or the page turns 23.976 into 23.98
                "tooltip": "Brings the video to this many frames per second first, by leaving frames out and repeating "
                "them; start_frame and stride then count what comes out. 0 reads every frame as it is stored.",
            },
        ),
    }


def _video_input() -> tuple:
    return (
        host.input_videos(),
        {"video_upload": True, "tooltip": "A video in the input folder; the button below puts one there."},
    )


class _FromFile:
    """What both nodes share: when they run again, and which names they take."""

    CATEGORY = "T2V/video"

    @classmethod
    def IS_CHANGED(cls, video=None, **_):
        try:
            status = os.stat(host.current().input_path(video)) if isinstance(video, str) else None
        except (T2VError, OSError):
            status = None
        if status is None:
            return "missing"
        return f"{status.st_mtime_ns} {status.st_size}"

    @classmethod
    def VALIDATE_INPUTS(cls, video=None):
        if video is not None:  # None where it comes over a link
            try:
                host.current().input_path(video)
            except T2VError as error:
                return f"video: {error}"
        return True


class T2VLoadVideo(_FromFile):
    """A video file's frames and sound."""

    TITLE = "T2V Load Video"
    DESCRIPTION = (
        "Loads frames and sound of a video file: all of it or a part, at its own size and rate or at others. Says so "
        "before it begins if they do not fit in memory."
    )
    RETURN_TYPES = ("IMAGE", "AUDIO", "FLOAT", "STRING")
    RETURN_NAMES = ("images", "audio", "fps", "info")
    OUTPUT_TOOLTIPS = (
        "The frames.",
        "The sound of just these frames; nothing where the file has none, so that a saved video has none either.",
        "Frames per second of the frames.",
        "What is in the file and what was read of it.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        sides = {"default": 0, "min": 0, "max": MAX_SIDE}
        own = "where both are 0 the frames keep their size."
        return {"required": {"video": _video_input(), **_inputs(sides, own)}}

    def load(self, video, start_frame, num_frames, stride, width, height, fps):
        running = host.current()
        info = probe(running.input_path(video), count=True)
        asked = Range(start_frame, num_frames, stride, fps)
        size = _in_proportion(info, width, height)
        expected = asked.count(info)
        _check_memory(running.free_memory(), expected, *size)
        report = running.progress(expected, "Loading")
        with asked.read(info, size) as reader:
            images = read_images(
                reader,
                expected,
                lambda done: report(min(done, expected)),
                lambda frames: _check_memory(running.free_memory(), frames, *size),
            )
        audio, problem = _sound(info, reader, start_frame)
        text = _text(info, reader, [problem] if problem else [])
        return (images, audio, float(reader.fps), text)


class T2VLoadVideoLatent(_FromFile):
    """A video file as latents, without all of its frames in memory at once."""

    TITLE = "T2V Load Video as Latent"
    DESCRIPTION = (
        "Reads a video file straight into a clip's latents: a few frames are read, encoded and forgotten, so that long "
        "videos fit in memory."
    )
    RETURN_TYPES = ("LATENT", "FLOAT", "STRING")
    RETURN_NAMES = ("latent", "fps", "info")
    OUTPUT_TOOLTIPS = (
        "The clip, its frames along the batch.",
        "Frames per second of the frames.",
        "What is in the file and what was read of it.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        sides = {"default": 0, "min": 0, "max": MAX_SIDE, "step": PIXELS_PER_LATENT}
        own = "where both are 0 the frames keep their size, cut around the middle to multiples of 8."
        vae = ("VAE", {"tooltip": "The autoencoder, from a loader."})
        return {"required": {"video": _video_input(), "vae": vae, **_inputs(sides, own)}}

    @classmethod
    def VALIDATE_INPUTS(cls, video=None, width=None, height=None):
        if error := size_error(width or None, height or None, None):
            return error
        return super().VALIDATE_INPUTS(video)

    def load(self, video, vae, start_frame, num_frames, stride, width, height, fps):
        check_part(vae, "vae", "autoencoder")
        running = host.current()
        info = probe(running.input_path(video), count=True)
        asked = Range(start_frame, num_frames, stride, fps)
        expected = asked.count(info)
        size = size_to_encode(info.width, info.height, width, height, "video (its frames)")
        if error := size_error(*size, expected):
            raise T2VError(error)
        report, latents = running.progress(expected, "Encoding"), []
        with asked.read(info, size if width or height else None) as reader:
            for images in batches(reader, FRAMES_AT_ONCE, *size):
                if error := size_error(*size, reader.count):  # the file said less
                    raise T2VError(error)
                latents.append(encode_batch(running, vae, images))
                report(min(reader.count, expected))
        return ({"samples": torch.cat(latents)}, float(reader.fps), _text(info, reader, []))


def _in_proportion(info: VideoInfo, width: int, height: int) -> tuple[int, int]:
    """(width, height); 0 stands for a side that is not given, and follows the other one."""
    if not width and not height:
        return info.width, info.height
    wide, high = round(info.width * height / info.height), round(info.height * width / info.width)
    return width or max(1, wide), height or max(1, high)


def _check_memory(free: int | None, frames: int, width: int, height: int) -> None:
    needed = frames * width * height * IMAGE_BYTES
    if free is not None and needed > SHARE * free:
        raise T2VError(
            f"num_frames: {frames} frames of {width} x {height} take {needed / 2**30:.1f} GiB as an IMAGE, and "
            f"{free / 2**30:.1f} GiB of memory are free; read fewer (num_frames, stride) or smaller ones (width, "
            "height), or use T2VLoadVideoLatent, which needs no memory for frames"
        )


def _sound(info: VideoInfo, reader: VideoReader, start_frame: int) -> tuple[dict | None, str]:
    """The AUDIO that belongs to the frames that were read, and what there is to say of it.

    Pictures are worth having without a sound that is broken, so that is a warning.
    """
    stride = reader.stride
    rate = reader.fps * stride
    try:
        return read_audio(info, float(start_frame / rate), float(reader.count * stride / rate)), ""
    except VideoError as error:
        logger.warning("%s", error)
        return None, f"its sound cannot be read: {str(error).splitlines()[0]}"


def _text(info: VideoInfo, reader: VideoReader, problems: list[str]) -> str:
    frames = f"{reader.count} frame{'s' if reader.count != 1 else ''}"
    read = f"read: {frames} of {reader.width} x {reader.height} at {float(reader.fps):.5g} a second"
    warnings = [*([reader.warning] if reader.warning else []), *problems]
    return "\n".join([f"{info.path.name}: {describe(info)[0]}", *describe(info)[1:], read, *warnings])

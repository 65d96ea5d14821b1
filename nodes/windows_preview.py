"""A plan of windows to be looked at before anything is sampled."""

from __future__ import annotations

import torch
from torch import Tensor

from ..t2v_core.diffusion import ContextWindows
from ..t2v_core.errors import T2VError
from ..t2v_core.windows.preview import described, preview
from . import host
from .latent import MAX_FRAMES
from .sockets import check_conditioning, check_images, latents_of


class T2VWindowsPreview:
    """What T2V Context Windows does to a clip: a picture, and what it costs."""

    TITLE = "T2V Windows Preview"
    DESCRIPTION = (
        "Shows the windows of a clip before it is made: which frames each holds and how much they count, how much work "
        "they are, and how much memory a window takes. Nothing is sampled."
    )
    CATEGORY = "T2V/sampling"
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "info")
    OUTPUT_TOOLTIPS = ("The windows drawn over the clip, for Preview Image.", "The plan in words.")
    FUNCTION = "show"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A model behind T2V Context Windows."}),
                "num_frames": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": MAX_FRAMES,
                        "tooltip": "Number of frames in the clip. 0 takes the connected latent's.",
                    },
                ),
                "fps": (
                    "FLOAT",
                    {
                        "default": 8.0,
                        "min": 0.01,
                        "max": 1000.0,
                        "step": 0.01,
                        "tooltip": "Frames a second, for the seconds below the picture.",
                    },
                ),
            },
            "optional": {
                "latent_image": ("LATENT", {"tooltip": "The clip, whose size says how much memory a window takes."}),
                "positive": ("CONDITIONING", {"tooltip": "The prompt, to see whether its frames are the clip's."}),
                "schedule": (
                    "IMAGE",
                    {"tooltip": "A picture to put on top, such as the preview of T2V Prompt Schedule."},
                ),
            },
        }

    def show(self, model, num_frames, fps, latent_image=None, positive=None, schedule=None):
        running = host.current()
        windows = running.modifier(model, ContextWindows)
        if windows is None:
            raise T2VError("model: it has no windows; connect it behind T2V Context Windows")
        latents = None if latent_image is None else latents_of(latent_image, "latent_image")
        frames = _frames(num_frames, latents)
        if positive is not None:
            check_conditioning(positive, frames, "positive")
        if schedule is not None:
            check_images(schedule, "schedule")
        memory = None
        if latents is not None:
            sizes = (min(windows.length, frames), frames)
            memory = tuple(running.sampling_bytes(model, (size, *latents.shape[1:])) for size in sizes)
        text = described(windows, frames, memory)
        picture = preview(windows, frames, fps, None if schedule is None else schedule[0])
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        image = pixels.view(1, picture.height, picture.width, 3).float() / 255
        return {"ui": {"text": (text,)}, "result": (image, text)}


def _frames(num_frames: int, latents: Tensor | None) -> int:
    """The clip's number of frames: as given, else the latent's."""
    if num_frames and latents is not None and num_frames != len(latents):
        raise T2VError(f"num_frames: it is {num_frames} and latent_image has {len(latents)} frames; 0 takes those")
    if not num_frames and latents is None:
        raise T2VError("num_frames: 0 means the latent's number of frames; connect latent_image or give a number")
    return num_frames or len(latents)

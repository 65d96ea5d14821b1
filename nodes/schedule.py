"""Prompts and numbers that change over a clip: schedules read, drawn and listed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..t2v_core.errors import ScheduleError, T2VError
from ..t2v_core.schedules import CURVES, DIALECT_CHOICES, TextTrack, parse_prompts, parse_values
from ..t2v_core.schedules.conditioning import scheduled_rows
from ..t2v_core.schedules.preview import preview
from ..t2v_core.schedules.table import KINDS, read_schedule, summary, table, whole_numbers
from . import host
from .latent import MAX_FRAMES
from .sockets import check_part

AS_WRITTEN = "as written"
MAX_ROWS = 1000  # of a table shown in a node
PROMPTS = '{"0": "a red circle", "8": "a blue circle"}'
VALUES = "0:(1.0), 15:(2.0)"

INFO = "The dialect that was found and why, and warnings."
PICTURE = "The schedule drawn over the clip, for Preview Image."


def _num_frames() -> tuple:
    tooltip = "Number of frames in the clip, as in T2V Empty Latent."
    return ("INT", {"default": 16, "min": 1, "max": MAX_FRAMES, "tooltip": tooltip})


def _fps() -> tuple:
    tooltip = "Frames a second, for keys in seconds and for sec, fps and beat() in expressions."
    return ("FLOAT", {"default": 8.0, "min": 0.01, "max": 1000.0, "step": 0.01, "tooltip": tooltip})


def _dialect() -> tuple:
    tooltip = (
        "Whose rules hold where programs disagree: Deforum's, FizzNodes' or AnimateDiff-Evolved's. "
        "'auto' decides by the text, and info says which."
    )
    return (list(DIALECT_CHOICES), {"default": "auto", "tooltip": tooltip})


def _image(schedule, num_frames: int, fps: float) -> Tensor:
    """The preview as an IMAGE `[1, h, w, 3]`."""
    picture = preview(schedule, num_frames, fps)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(1, picture.height, picture.width, 3).float() / 255


def _mistakes(parse, text: str | None, **options) -> bool | str:
    """What VALIDATE_INPUTS answers. A text that comes over a link is not known yet: None."""
    if text is None:
        return True
    try:
        parse(text, **options)
    except ScheduleError as error:
        return str(error)
    return True


class T2VPromptSchedule:
    """Prompts keyed to frames as conditioning with a row for each frame."""

    TITLE = "T2V Prompt Schedule"
    DESCRIPTION = "Prompts that change over the clip: each is encoded once and blended frame by frame."
    CATEGORY = "T2V/schedules"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "IMAGE", "STRING")
    RETURN_NAMES = ("positive", "negative", "preview", "info")
    OUTPUT_TOOLTIPS = (
        "What each frame should show, one row for each.",
        "What each frame should not show: what stands behind --neg.",
        PICTURE,
        INFO,
    )
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls):
        around = {"default": "", "multiline": True}
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "The text encoder, from a loader."}),
                "text": (
                    "STRING",
                    {
                        "default": PROMPTS,
                        "multiline": True,
                        "tooltip": "Prompts by frame, in Deforum's, FizzNodes' or AnimateDiff-Evolved's form, or one "
                        "prompt. Behind --neg stands what is not wanted.",
                    },
                ),
                "num_frames": _num_frames(),
                "fps": _fps(),
                "pre_text": ("STRING", {**around, "tooltip": "Put before every prompt. It may have --neg too."}),
                "app_text": ("STRING", {**around, "tooltip": "Put behind every prompt. It may have --neg too."}),
                "dialect": _dialect(),
                "blend": (
                    [AS_WRITTEN, *CURVES, "slerp"],
                    {
                        "default": AS_WRITTEN,
                        "tooltip": "How a key that names no blend leads to the next. "
                        f"'{AS_WRITTEN}' leaves it to the dialect: hold in Deforum's, linear in the others.",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, text=None):
        return _mistakes(parse_prompts, text)

    def encode(self, clip, text, num_frames, fps, pre_text, app_text, dialect, blend):
        check_part(clip, "clip", "text encoder")
        chosen = None if blend == AS_WRITTEN else blend
        schedule = parse_prompts(text, dialect=dialect, blend=chosen, pre_text=pre_text, app_text=app_text)
        track = schedule.evaluate(num_frames, fps)
        info, picture = summary(schedule, num_frames, fps), _image(schedule, num_frames, fps)
        return _conditioning(clip, track.positive), _conditioning(clip, track.negative), picture, info


def _conditioning(clip, track: TextTrack) -> list:
    """CONDITIONING with a row for each frame of the track."""
    running, done = host.current(), 0
    report = running.progress(len(track.texts), "Encoding")

    def encode(text: str) -> tuple[Tensor, Tensor | None]:
        nonlocal done
        encoded = _features(running.encode(clip, text))
        done += 1
        report(min(done, len(track.texts)))
        return encoded

    rows, pooled = scheduled_rows(encode, track)
    return [[rows, {"pooled_output": pooled}]]


def _features(conditioning: list) -> tuple[Tensor, Tensor | None]:
    """What can be blended: one entry, the text's features and its pooled vector."""
    if len(conditioning) != 1:
        raise T2VError(
            f"clip: this text encoder turns a text into {len(conditioning)} pieces of conditioning, for different "
            "parts of the sampling; prompts can be blended where it is one (are there hooks on the CLIP?)"
        )
    [[cond, extra]] = conditioning
    others = sorted(set(extra) - {"pooled_output"})
    if others:
        raise T2VError(
            f"clip: this text encoder gives {', '.join(others)} beside the text's features, and how to blend that from "
            "frame to frame is not known; prompts can be blended for encoders of the Stable Diffusion kind"
        )
    return cond, extra.get("pooled_output")


class T2VValueSchedule:
    """Numbers keyed to frames as lists with a number for each frame."""

    TITLE = "T2V Value Schedule"
    DESCRIPTION = "A number for each frame of the clip, from keys and expressions in Deforum's form."
    CATEGORY = "T2V/schedules"
    RETURN_TYPES = ("FLOAT", "INT", "IMAGE", "STRING")
    RETURN_NAMES = ("values", "whole_numbers", "preview", "info")
    OUTPUT_TOOLTIPS = (
        "A list with a number for each frame.",
        "The same, each rounded to the nearest whole number; a half goes away from zero.",
        PICTURE,
        INFO,
    )
    FUNCTION = "evaluate"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "text": (
                    "STRING",
                    {
                        "default": VALUES,
                        "multiline": True,
                        "tooltip": "Numbers and expressions by frame: 0:(1.0), 30:(1.0+0.2*sin(2*pi*t/30)). "
                        "Or one expression for all frames.",
                    },
                ),
                "num_frames": _num_frames(),
                "fps": _fps(),
                "dialect": _dialect(),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, text=None):
        return _mistakes(parse_values, text, kind="number")

    def evaluate(self, text, num_frames, fps, dialect):
        schedule = parse_values(text, dialect=dialect, kind="number")
        values = schedule.evaluate(num_frames, fps)
        info, picture = summary(schedule, num_frames, fps), _image(schedule, num_frames, fps)
        return values.tolist(), whole_numbers(values), picture, info


class T2VScheduleInspect:
    """What a schedule says at each frame, to be read."""

    TITLE = "T2V Schedule Inspect"
    DESCRIPTION = "A table of what a schedule says at each frame. Nothing is encoded and nothing is sampled."
    CATEGORY = "T2V/schedules"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("table",)
    OUTPUT_TOOLTIPS = ("The dialect, warnings, and a row for each frame.",)
    FUNCTION = "inspect"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "text": (
                    "STRING",
                    {"default": PROMPTS, "multiline": True, "tooltip": "A schedule of prompts or of values."},
                ),
                "kind": (
                    list(KINDS),
                    {
                        "default": "auto",
                        "tooltip": "Whether the text is prompts or values. 'auto' takes texts in quotes for prompts.",
                    },
                ),
                "num_frames": _num_frames(),
                "fps": _fps(),
                "dialect": _dialect(),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, text=None, kind=None):
        if kind is None:
            return True
        if kind not in KINDS:  # a host leaves the check of an input that is named here to us
            return f"kind: {kind!r} is not in the list: {', '.join(KINDS)}"
        return _mistakes(read_schedule, text, kind=kind)

    def inspect(self, text, kind, num_frames, fps, dialect):
        schedule = read_schedule(text, kind, dialect)
        every = -(-num_frames // MAX_ROWS)
        lines = [summary(schedule, num_frames, fps), ""]
        lines += [f"every {every} frames:", ""] * (every > 1)
        shown = "\n".join([*lines, *table(schedule, num_frames, fps, every)])
        return {"ui": {"text": (shown,)}, "result": (shown,)}

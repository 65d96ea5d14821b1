"""Loading a LoRA."""

from __future__ import annotations

import math
from typing import Any

from ..t2v_core.errors import T2VError
from ..t2v_core.lora import read_lora
from . import host

LARGEST = 100.0


class T2VLoadLora:
    """A model and its text encoder with a LoRA."""

    TITLE = "T2V Load LoRA"
    DESCRIPTION = (
        "Puts a LoRA for text-to-video models into a model and its text encoder: those of stable_lora, cloneofsimo, "
        "diffusers, peft and kohya. Says which of its keys have no place in the model."
    )
    CATEGORY = "T2V/loaders"
    RETURN_TYPES = ("MODEL", "CLIP", "STRING")
    RETURN_NAMES = ("model", "clip", "info")
    OUTPUT_TOOLTIPS = (
        "The model with the LoRA, for a sampler or another LoRA.",
        "The text encoder with the LoRA; empty where none is connected.",
        "What the file was recognised as, how many weights it changes, and what it could not place.",
    )
    FUNCTION = "load"

    def __init__(self) -> None:
        self._read: tuple[Any, Any] = (None, None)

    @classmethod
    def INPUT_TYPES(cls):
        strength = {"default": 1.0, "min": -LARGEST, "max": LARGEST, "step": 0.01}
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model, from T2V Load Model or behind another LoRA."}),
                "lora_name": (
                    host.lora_names(),
                    {"tooltip": "The file in models/loras; 'none' changes nothing."},
                ),
                "strength_model": (
                    "FLOAT",
                    {**strength, "tooltip": "How much of the LoRA goes into the model: 1 as trained, 0 nothing."},
                ),
                "strength_clip": (
                    "FLOAT",
                    {**strength, "tooltip": "How much goes into the text encoder: 1 as trained, 0 nothing."},
                ),
            },
            "optional": {
                "clip": ("CLIP", {"tooltip": "The text encoder, for LoRAs that were trained with it too."}),
            },
        }

    @classmethod
    def IS_CHANGED(cls, lora_name=None, **_):
        if lora_name in (None, host.NO_LORA):  # over a link it is not known yet
            return None
        status = host.current().lora_path(lora_name).stat()
        return status.st_mtime_ns, status.st_size

    def load(self, model, lora_name, strength_model, strength_clip, clip=None):
        for name, strength in (("strength_model", strength_model), ("strength_clip", strength_clip)):
            if not (math.isfinite(strength) and abs(strength) <= LARGEST):
                raise T2VError(f"{name}: {strength} is outside {-LARGEST:g} to {LARGEST:g}")
        if lora_name == host.NO_LORA:
            return self._outcome(model, clip, "no LoRA")
        running = host.current()
        lora = self._lora(running.lora_path(lora_name))
        return self._outcome(*running.with_lora(model, clip, lora, strength_model, strength_clip))

    def _lora(self, path):
        """The file, read once while only strengths change."""
        try:
            status = path.stat()
        except OSError:  # gone since it was listed: the reader says so
            return read_lora(path)
        stamp = path, status.st_mtime_ns, status.st_size
        if self._read[0] != stamp:
            self._read = stamp, read_lora(path)
        return self._read[1]

    @staticmethod
    def _outcome(model, clip, info):
        return {"ui": {"text": (info,)}, "result": (model, clip, info)}

"""Noise for long clips on the NOISE socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..t2v_core.diffusion import LONG_NOISE_KINDS, LongNoise, NoiseSeeds
from ..t2v_core.diffusion.long_noise import MAX_ALPHA
from ..t2v_core.errors import T2VError
from .sockets import latents_of


@dataclass(frozen=True)
class SeededLongNoise:
    """What ComfyUI's samplers and ours ask of a NOISE: the seed, and the noise for a LATENT."""

    seed: int
    prior: LongNoise

    def generate_noise(self, input_latent: dict) -> Tensor:
        samples = latents_of(input_latent, "latent_image")
        noise = self.prior.draw(samples.shape, self.seed, input_latent.get("batch_index"))
        return noise.to(samples.dtype)


def check_noise(noise: Any, seeds: NoiseSeeds | None) -> None:
    """Raises T2VError for a NOISE of ours whose place would be taken by the seeds that the model has for each frame."""
    if isinstance(noise, SeededLongNoise) and seeds is not None:
        raise T2VError(
            "noise: the model has a seed for each frame, by T2V Schedule Model, whose noise would take the place of "
            "T2V Long Noise's; leave out one of the two"
        )


class T2VLongNoise:
    """Noise for clips longer than the model was trained on."""

    TITLE = "T2V Long Noise"
    DESCRIPTION = (
        "Noise for clips that are longer than the model was trained on: frames that are far apart start from noise "
        "that has something in common, so that the clip holds together."
    )
    CATEGORY = "T2V/sampling"
    RETURN_TYPES = ("NOISE",)
    RETURN_NAMES = ("noise",)
    OUTPUT_TOOLTIPS = ("The noise, for T2V Sampler and SamplerCustomAdvanced.",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**64 - 1,
                        "control_after_generate": True,
                        "tooltip": "What the noise is drawn from. A longer clip of the same seed starts from the same "
                        "noise.",
                    },
                ),
                "kind": (
                    list(LONG_NOISE_KINDS),
                    {
                        "default": "freenoise",
                        "tooltip": "freenoise: the first window's noise, shuffled a little, again and again. repeat: "
                        "the same unshuffled. mixed: all frames share a part of their noise. progressive: each frame "
                        "shares it with the one before.",
                    },
                ),
                "window": (
                    "INT",
                    {
                        "default": 16,
                        "min": 1,
                        "max": 4096,
                        "tooltip": "freenoise and repeat: how many frames are drawn; the model's own number, or the "
                        "length of the context windows. A clip that is no longer gets plain noise.",
                    },
                ),
                "stride": (
                    "INT",
                    {
                        "default": 4,
                        "min": 1,
                        "max": 4096,
                        "tooltip": "freenoise: how many frames are shuffled together, up to window. 1 repeats without "
                        "shuffling.",
                    },
                ),
                "alpha": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": MAX_ALPHA,
                        "step": 0.05,
                        "round": 0.001,
                        "tooltip": "mixed and progressive: how much frames share, 0 nothing, 1 half. Stay low with "
                        "models that were trained on plain noise.",
                    },
                ),
            }
        }

    def make(self, seed, kind, window, stride, alpha):
        return (SeededLongNoise(seed, LongNoise(kind, window, stride, alpha)),)

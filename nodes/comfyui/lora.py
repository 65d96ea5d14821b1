"""LoRAs as ComfyUI's own weight patches: live in strength, whole when taken off, and added to by other loaders'."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from comfy.weight_adapter import LoRAAdapter

from ...t2v_core.errors import T2VError
from ...t2v_core.lora import Lora, LowRank, place_lora
from .unet import ComfyUNet3D

logger = logging.getLogger(__name__)

UNET = "diffusion_model."


def with_lora(model: Any, clip: Any, lora: Lora, strength_model: float, strength_clip: float) -> tuple[Any, Any, str]:
    """MODEL and CLIP with the LoRA among their patches, and what to say of it; those that came in are unchanged."""
    unet = model.get_model_object("diffusion_model")
    if not isinstance(unet, ComfyUNet3D):
        raise T2VError(
            "model: this LoRA loader needs a text-to-video model, as T2V Load Model gives; for the connected one use "
            "ComfyUI's LoraLoader"
        )
    placement = place_lora(lora, unet, None if clip is None else clip.cond_stage_model)
    if warning := placement.warning():
        logger.warning(warning)
    if strength_model and placement.unet:
        model = model.clone()
        model.add_patches(_patches(placement.unet, UNET), strength_model)
    if strength_clip and placement.text_encoder:
        clip = clip.clone()
        clip.add_patches(_patches(placement.text_encoder, ""), strength_clip)
    return model, clip, placement.summary()


def _patches(changes: Mapping[str, LowRank], prefix: str) -> dict[str, LoRAAdapter]:
    """ComfyUI multiplies by alpha / rows of down and gives the product the weight's shape, as `LowRank` does."""
    return {
        prefix + key: LoRAAdapter(set(), (change.up, change.down, change.scale * len(change.down), None, None, None))
        for key, change in changes.items()
    }

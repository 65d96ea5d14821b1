"""What differs between the ComfyUIs we run in, asked of the program itself and never of its version number."""

from __future__ import annotations

import inspect
from typing import Any

import comfy.model_patcher
import comfy.sample


def patcher_class() -> type:
    """The class of a MODEL's patcher: hosts that move weights on their own demand theirs for a diffusion model."""
    return getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)


def load_weights(model: Any, patcher: Any, state_dict: dict) -> None:
    """Give a BaseModel its weights; where the patcher moves weights on its own, they must become the parameters."""
    options = {}
    if "assign" in inspect.signature(model.load_model_weights).parameters:
        options["assign"] = patcher.is_dynamic()
    model.load_model_weights(state_dict, "", **options)


def fix_empty_latent(model: Any, latent: dict) -> Any:
    """The samples of a LATENT; an empty one of another size or channel count becomes what the model takes."""
    options = {}
    if "downscale_ratio_spacial" in inspect.signature(comfy.sample.fix_empty_latent_channels).parameters:
        options["downscale_ratio_spacial"] = latent.get("downscale_ratio_spacial")
    return comfy.sample.fix_empty_latent_channels(model, latent["samples"], **options)

"""LoRAs in the library's own networks: copies that share every weight the LoRA leaves alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..checkpoints.layout import places
from ..diffusion.model import VideoModel
from ..errors import T2VError
from ..text.encode import PromptEncoder
from .low_rank import LowRank

Network = TypeVar("Network", bound=nn.Module)


def with_lora(model: VideoModel, changes: Mapping[str, LowRank], strength: float) -> VideoModel:
    """The model with a LoRA in its UNet; the model itself is unchanged, so keeping it is how a LoRA is taken out.

    changes: `Placement.unet`. Only the changed weights take memory again. Several LoRAs add up, one call after another.
    strength 0 gives the very same model; one that is not finite raises T2VError.
    """
    denoiser = copy.copy(model.denoiser)
    denoiser.network = changed(model.denoiser.network, changes, strength)
    return model if denoiser.network is model.denoiser.network else replace(model, denoiser=denoiser)


def encoder_with_lora(encoder: PromptEncoder, changes: Mapping[str, LowRank], strength: float) -> PromptEncoder:
    """The same for a text encoder and `Placement.text_encoder`."""
    twin = copy.copy(encoder)
    twin.network = changed(encoder.network, changes, strength)
    return encoder if twin.network is encoder.network else twin


@torch.no_grad()
def changed(network: Network, changes: Mapping[str, LowRank], strength: float) -> Network:
    """A network with W + strength * change for each of the weights, in their dtype, computed in float32.

    It shares all other weights, and every module without a changed one, with the network it was made of.
    """
    if not math.isfinite(strength):
        raise T2VError(f"a LoRA's strength is {strength}; it must be a finite number, 1 for as it was trained")
    if strength == 0 or not changes:
        return network
    return _twin(network, changes, places(changes), strength, "")


def _twin(
    module: nn.Module, changes: Mapping[str, LowRank], touched: set[str], strength: float, prefix: str
) -> nn.Module:
    """A copy of the module at this place; `touched` are the places of all that has a changed weight in it."""
    # Not deepcopy, nor torch.func.functional_call: this takes milliseconds, once, and the calls nothing.
    twin = copy.copy(module)
    twin._modules, twin._parameters = dict(module._modules), dict(module._parameters)
    for name, child in module._modules.items():
        if child is not None and prefix + name in touched:
            twin._modules[name] = _twin(child, changes, touched, strength, f"{prefix}{name}.")
    for name, weight in module._parameters.items():
        if change := changes.get(prefix + name):
            twin._parameters[name] = nn.Parameter(_sum(weight, change, strength), requires_grad=False)
    return twin


def _sum(weight: Tensor, change: LowRank, strength: float) -> Tensor:
    delta = change.delta(weight, strength)
    return delta.add_(weight.to(delta.dtype)).to(weight.dtype)

"""A model file as a host wants it: the UNet's weights, what its numbers mean, and the parts that came along."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..diffusion.model import NativeSize, VideoModel
from ..diffusion.noise_schedule import NoiseSchedule
from ..errors import CheckpointError, T2VError
from ..models.autoencoder import Autoencoder
from ..models.unet3d import UNet3D
from ..text.encode import PromptEncoder
from . import metadata
from .bundled import (
    AUTOENCODER,
    TEXT_ENCODER,
    check_settings,
    read_autoencoder,
    read_config,
    read_prompt_encoder,
)
from .files import read_weights
from .load import LAYOUTS, UNetWeights, weights_in


@dataclass(frozen=True)
class ModelSettings:
    """What a UNet's weights do not tell. The defaults are what published files, of ModelScope's family, leave unsaid.

    The fields are those of `BundledConfig` of the same names.
    """

    prediction: str = "eps"
    zero_terminal_snr: bool = False
    latent_scale: float = 0.18215
    native: NativeSize = NativeSize(256, 256, 16, 8.0)
    latent_rgb: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class ModelFile:
    """A model file, read.

    unet: the UNet's sizes and weights, the weights in the file's dtype.
    settings: what they mean.
    prompt_encoder, autoencoder: None where the file holds none.
    stored: the settings as the file has them; empty where it has none.
    """

    unet: UNetWeights
    settings: ModelSettings
    prompt_encoder: PromptEncoder | None
    autoencoder: Autoencoder | None
    stored: Mapping[str, Any]

    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule that the UNet was trained with."""
        return NoiseSchedule.scaled_linear(zero_terminal_snr=self.settings.zero_terminal_snr)

    def video_model(self, dtype: torch.dtype) -> VideoModel:
        """The UNet ready to sample, its weights of this dtype."""
        with torch.device("meta"):
            unet = UNet3D(self.unet.config)
        unet.load_state_dict({key: tensor.to(dtype) for key, tensor in self.unet.state_dict.items()}, assign=True)
        unet.eval().requires_grad_(False)
        denoiser = Denoiser(unet, self.noise_schedule(), self.settings.prediction)
        return VideoModel(denoiser, self.settings.latent_scale, self.settings.native)

    def without_weights(self) -> ModelFile:
        """All it says of the model and nothing of what it weighs: enough for `to_file` and `settings_entry`."""
        return replace(self, unet=self.unet._replace(state_dict={}), prompt_encoder=None, autoencoder=None)

    def to_file(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The UNet's weights, perhaps changed since, with the names and shapes of the layout they came in."""
        return LAYOUTS[self.unet.layout].key_map(self.unet.config).to_file(state_dict)

    def settings_entry(self) -> dict[str, Tensor]:
        """What a file needs beside the weights, where it has no metadata: one entry, or none if nothing is unusual."""
        settings = {**self.stored, **_unusual(self.settings)}
        if hidden := LAYOUTS[self.unet.layout].settings(self.unet.config):
            settings["unet"] = hidden
        return metadata.dump_tensor(settings) if settings else {}


def _unusual(settings: ModelSettings) -> dict[str, Any]:
    chosen, usual = asdict(settings), asdict(ModelSettings())
    return {name: chosen[name] for name in chosen if chosen[name] != usual[name]}


def read_model(path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> ModelFile:
    """Read a text-to-video model: a UNet in any layout of `LAYOUTS`, or a file that `save_bundled` wrote.

    dtype: of the text encoder and the autoencoder.
    Raises CheckpointError, naming the file, where it is missing, damaged, unsafe or something else.
    """
    file = read_weights(path)
    try:
        unet, stored = weights_in(file), metadata.load(file.metadata)
        known = {field.name for field in fields(ModelSettings)}
        settings = metadata.parse(ModelSettings, {k: v for k, v in stored.items() if k in known}, "metadata")
        check_settings(settings, unet.config.in_channels)
        if "text_encoder" not in stored:
            return ModelFile(unet, settings, None, None, stored)
        # A program that saved the UNet alone kept all the settings and none of the other weights.
        config = read_config(file)
        holds = {prefix: any(key.startswith(prefix) for key in file.tensors) for prefix in (TEXT_ENCODER, AUTOENCODER)}
        prompt_encoder = read_prompt_encoder(file, config, dtype) if holds[TEXT_ENCODER] else None
        autoencoder = read_autoencoder(file, config, dtype) if holds[AUTOENCODER] else None
    except T2VError as error:
        raise CheckpointError(f"{file.path}: {error}") from None
    return ModelFile(unet, settings, prompt_encoder, autoencoder, stored)

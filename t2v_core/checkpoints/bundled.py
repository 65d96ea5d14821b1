"""The bundled model: UNet, text encoder, autoencoder and all their settings in one .safetensors file."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import PREDICTIONS, Denoiser
from ..diffusion.model import NativeSize, VideoModel
from ..diffusion.noise_schedule import NoiseSchedule
from ..errors import CheckpointError, T2VError
from ..models.autoencoder import Autoencoder, AutoencoderConfig
from ..models.text_encoder import TextEncoder, TextEncoderConfig
from ..models.unet3d import UNet3D, UNet3DConfig
from ..text.encode import PromptEncoder
from ..text.tokenizer import WordTokenizer
from . import metadata
from .files import WeightFile, read_weights, write_safetensors
from .keymap import KeyMap, fit, is_finite
from .layout import Layout, Settings

BUNDLED_PATH = Path(__file__).parent.parent / "bundled" / "t2v-shapes.safetensors"
UNET, TEXT_ENCODER, AUTOENCODER = "model.diffusion_model.", "cond_stage_model.", "first_stage_model."
STORED = torch.float16


def _config(tensors: Mapping[str, Tensor], settings: Settings) -> UNet3DConfig:
    if not settings:
        raise CheckpointError("the network's sizes are missing: the metadata has no entry 'config' with a 'unet' in it")
    config = metadata.parse(UNet3DConfig, dict(settings), "metadata: unet")
    _check_size(config, tensors)
    return config


def _check_size(config: UNet3DConfig, tensors: Mapping[str, Tensor]) -> None:
    """Refuse to build what could only keep the reader busy."""
    if len(config.widths) * config.blocks_per_level > len(tensors):
        raise CheckpointError("metadata: unet has more blocks than there are weights in the file")


# Our own names and shapes, every size in the metadata: the one layout that can say all that UNet3DConfig can.
BUNDLED = Layout(
    name="bundled",
    detect=lambda keys: any(".temporal_conv." in key for key in keys),
    config=_config,
    key_map=lambda config: KeyMap([("*", "*")]),
    settings=asdict,
)


@dataclass(frozen=True)
class BundledConfig:
    """Everything but the weights. `save_bundled` takes the three networks' sizes from the networks."""

    unet: UNet3DConfig
    text_encoder: TextEncoderConfig
    autoencoder: AutoencoderConfig
    vocabulary: tuple[str, ...]
    """The words of `WordTokenizer`, in the order of their ids."""
    prompt_length: int
    """Ids in a chunk of prompt."""
    prediction: str
    """What the UNet predicts: eps or v."""
    zero_terminal_snr: bool
    latent_scale: float
    """The UNet sees latents times this."""
    native: NativeSize
    latent_rgb: tuple[tuple[float, ...], ...] = ()
    """For previews: a row of red, green and blue for each channel of the latents as the UNet sees them, then an offset;
    colours in -1..1. Empty where there is none."""

    def __post_init__(self) -> None:
        ids = WordTokenizer(self.vocabulary).size
        text, latents, unet = self.text_encoder, self.autoencoder.latent_channels, self.unet
        for name, here, there, value in (
            ("the tokenizer's ids", ids, "text_encoder.vocabulary_size", text.vocabulary_size),
            ("text_encoder.width", text.width, "unet.context_dim", unet.context_dim),
            ("autoencoder.latent_channels", latents, "unet.in_channels", unet.in_channels),
            ("autoencoder.latent_channels", latents, "unet.out_channels", unet.out_channels),
        ):
            if here != value:
                raise CheckpointError(f"config: {name} ({here}) and {there} ({value}) should be equal")
        if self.prompt_length > text.length:
            raise CheckpointError(f"config: prompt_length ({self.prompt_length}) is above text_encoder's {text.length}")
        check_settings(self, latents)


def check_settings(settings: Any, channels: int) -> None:
    """CheckpointError unless prediction, latent_scale, native and latent_rgb make sense for so many channels."""
    if settings.prediction not in PREDICTIONS:
        raise CheckpointError(f"config: prediction is {settings.prediction!r:.80}; known are {', '.join(PREDICTIONS)}")
    if settings.latent_scale <= 0 or settings.native.fps <= 0:
        raise CheckpointError("config: latent_scale and native.fps should be above 0")
    if settings.latent_rgb and [len(row) for row in settings.latent_rgb] != [3] * (channels + 1):
        raise CheckpointError(f"config: latent_rgb should have {channels + 1} rows of 3 numbers, or none")


@dataclass(frozen=True)
class Bundled:
    """The bundled model, ready to run."""

    model: VideoModel
    prompt_encoder: PromptEncoder
    autoencoder: Autoencoder


def save_bundled(
    path: str | os.PathLike,
    unet: UNet3D,
    text_encoder: TextEncoder,
    autoencoder: Autoencoder,
    config: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> Path:
    """Write the three networks as fp16, with `config`: the fields of `BundledConfig` that the networks do not know.

    Raises CheckpointError where `config` has a field missing, unknown or in conflict with the networks, where a weight
    does not fit in fp16, or as `write_safetensors` does.
    """
    parts = {"unet": unet, "text_encoder": text_encoder, "autoencoder": autoencoder}
    settings = {**config, **{name: asdict(network.config) for name, network in parts.items()}}
    written = metadata.dump(settings)
    metadata.parse(BundledConfig, metadata.load(written), "config")
    tensors = {
        prefix + key: tensor.to(STORED)
        for prefix, network in zip((UNET, TEXT_ENCODER, AUTOENCODER), parts.values(), strict=True)
        for key, tensor in network.state_dict().items()
    }
    overflowing = [key for key, tensor in tensors.items() if not is_finite(tensor)]
    if overflowing:
        raise CheckpointError(f"{path}: {overflowing[0]} is not finite in {STORED}")
    return write_safetensors(path, tensors, {"format": "pt", **written}, overwrite)


def load_bundled(dtype: torch.dtype | None = None, path: str | os.PathLike = BUNDLED_PATH) -> Bundled:
    """Read the bundled model, or another file that `save_bundled` wrote.

    dtype: of the weights and of the arithmetic; fp32 if None, for the half precision of the file is slow on CPUs.
    Raises CheckpointError where the file is missing, damaged or of another kind.
    """
    file = read_weights(path)
    dtype = dtype or torch.float32
    try:
        config = read_config(file)
        with torch.device("meta"):
            unet = UNet3D(config.unet)
        _fill(unet, UNET, file, dtype)
        noise_schedule = NoiseSchedule.scaled_linear(zero_terminal_snr=config.zero_terminal_snr)
        denoiser = Denoiser(unet, noise_schedule, config.prediction)
        model = VideoModel(denoiser, config.latent_scale, config.native)
        return Bundled(model, read_prompt_encoder(file, config, dtype), read_autoencoder(file, config, dtype))
    except T2VError as error:
        raise CheckpointError(f"{file.path}: {error}") from None


def read_config(file: WeightFile) -> BundledConfig:
    """The settings in a file of `save_bundled`. Raises CheckpointError where they are missing or in conflict."""
    config = metadata.parse(BundledConfig, metadata.load(file.metadata), "metadata")
    _check_size(config.unet, file.tensors)
    for name, count in (("text_encoder.layers", config.text_encoder.layers),
                        ("autoencoder.deep_blocks", config.autoencoder.deep_blocks)):  # fmt: skip
        if count > len(file.tensors):
            raise CheckpointError(f"metadata: {name} is {count}, more than there are weights in the file")
    return config


def read_prompt_encoder(file: WeightFile, config: BundledConfig, dtype: torch.dtype) -> PromptEncoder:
    """The text encoder in a file of `save_bundled`. Raises CheckpointError where its weights do not fit."""
    with torch.device("meta"):
        text_encoder = TextEncoder(config.text_encoder)
    _fill(text_encoder, TEXT_ENCODER, file, dtype)
    return PromptEncoder(text_encoder, WordTokenizer(config.vocabulary), config.prompt_length)


def read_autoencoder(file: WeightFile, config: BundledConfig, dtype: torch.dtype) -> Autoencoder:
    """The autoencoder in a file of `save_bundled`. Raises CheckpointError where its weights do not fit."""
    with torch.device("meta"):
        autoencoder = Autoencoder(config.autoencoder)
    _fill(autoencoder, AUTOENCODER, file, dtype)
    return autoencoder


def _fill(network: nn.Module, prefix: str, file: WeightFile, dtype: torch.dtype) -> None:
    """Give a network built on meta its weights: those of the file under `prefix`."""
    others = [(f"{other}*", None) for other in (UNET, TEXT_ENCODER, AUTOENCODER) if other != prefix]
    weights = fit(file.tensors, KeyMap([(f"{prefix}*", "*"), *others]), network)
    network.load_state_dict({key: tensor.to(dtype) for key, tensor in weights.items()}, assign=True)
    network.eval().requires_grad_(False)


def sections(keys: Collection[str]) -> KeyMap:
    """Names within the UNet, of the keys of a file that may hold a text encoder, an autoencoder and more beside it."""
    if not any(key.startswith(UNET) for key in keys):
        return KeyMap([("*", "*")])
    beside = (f"{TEXT_ENCODER}*", f"{AUTOENCODER}*", "model_ema.*", "{}")  # {}: buffers of the noise schedule
    return KeyMap([(f"{UNET}*", "*"), *((pattern, None) for pattern in beside)])

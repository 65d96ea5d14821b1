"""A model as a host wants it: the UNet's weights, what its numbers mean, and the parts that came along."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..diffusion.model import NativeSize, VideoModel
from ..diffusion.noise_schedule import NoiseSchedule
from ..errors import CheckpointError
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
from .companions import autoencoder_weights, has_autoencoder, has_text_encoder, text_encoder_weights
from .describe import HERE, Description, place, precision_of
from .entries import Entry, Part
from .families import MODELSCOPE_NATIVE, family_of, native_size
from .files import WeightFile
from .folders import model_at
from .load import LAYOUTS, Recognised, UNetWeights, naming, recognise, unet_of, weights_in
from .shards import read_part

PARTS = ("unet", "text_encoder", "autoencoder")


@dataclass(frozen=True)
class ModelSettings:
    """What a UNet's weights do not tell. The defaults are what published files, of ModelScope's family, leave unsaid.

    signal_scale: see `NoiseSchedule.scaled_linear`. The other fields are those of `BundledConfig` of the same names.
    """

    prediction: str = "eps"
    zero_terminal_snr: bool = False
    latent_scale: float = 0.18215
    native: NativeSize = MODELSCOPE_NATIVE
    latent_rgb: tuple[tuple[float, ...], ...] = ()
    signal_scale: float = 1.0


@dataclass(frozen=True)
class Companions:
    """The other parts of a public model, for a host that has networks for them: files that hold them, None without.

    variant: the precision that is wanted, by which one of several files is chosen.
    """

    text_encoder: WeightFile | Part | None = None
    autoencoder: WeightFile | Part | None = None
    variant: torch.dtype | None = None

    def read_text_encoder(self) -> WeightFile | None:
        """The weights as `companions.text_encoder_weights` gives them. Raises CheckpointError, naming the file."""
        return self._read(self.text_encoder, text_encoder_weights)

    def read_autoencoder(self) -> WeightFile | None:
        """The weights as `companions.autoencoder_weights` gives them. Raises CheckpointError, naming the file."""
        return self._read(self.autoencoder, autoencoder_weights)

    def _read(self, source: WeightFile | Part | None, pick) -> WeightFile | None:
        if source is None:
            return None
        file = read_part(source, self.variant) if isinstance(source, Part) else source
        with naming(file.path):
            return WeightFile(file.path, pick(file.tensors), {})


@dataclass(frozen=True)
class ModelFile:
    """A model, read: those of its parts that were asked for. A part is None where it was not, or where there is none.

    unet: the UNet's sizes and weights, the weights in the file's dtype.
    settings: what they mean.
    prompt_encoder, autoencoder: those of this pack's own kind of model, ready to run.
    stored: the settings as the file has them; empty where it has none.
    description: what it was recognised as.
    companions: of a public model, where its text encoder and its autoencoder are; nothing of them is read yet.
    """

    unet: UNetWeights | None
    settings: ModelSettings
    prompt_encoder: PromptEncoder | None
    autoencoder: Autoencoder | None
    stored: Mapping[str, Any]
    description: Description
    companions: Companions = Companions()

    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule that the UNet was trained with."""
        settings = self.settings
        return NoiseSchedule.scaled_linear(
            zero_terminal_snr=settings.zero_terminal_snr, signal_scale=settings.signal_scale
        )

    def video_model(self, dtype: torch.dtype) -> VideoModel:
        """The UNet ready to sample, its weights of this dtype."""
        with torch.device("meta"):
            unet = UNet3D(self.unet.config)
        unet.load_state_dict({key: tensor.to(dtype) for key, tensor in self.unet.state_dict.items()}, assign=True)
        unet.eval().requires_grad_(False)
        denoiser = Denoiser(unet, self.noise_schedule(), self.settings.prediction)
        settings, fps_input = self.settings, self.unet.config.fps_embedding
        return VideoModel(denoiser, settings.latent_scale, settings.native, fps_input=fps_input)

    def without_weights(self) -> ModelFile:
        """All it says of the model and nothing of what it weighs: enough for `to_file` and `settings_entry`."""
        return ModelFile(self.unet._replace(state_dict={}), self.settings, None, None, self.stored, self.description)

    def to_file(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The UNet's weights, perhaps changed since, with the names and shapes of the layout they came in."""
        return LAYOUTS[self.unet.layout].key_map(self.unet.config).to_file(state_dict)

    def settings_entry(self) -> dict[str, Tensor]:
        """What a file needs beside the weights, where it has no metadata: one entry, or none if nothing is unusual."""
        settings = {**self.stored, **_unusual(self.settings, self.unet.layout)}
        if hidden := LAYOUTS[self.unet.layout].settings(self.unet.config):
            settings["unet"] = hidden
        return metadata.dump_tensor(settings) if settings else {}


def _unusual(settings: ModelSettings, layout: str) -> dict[str, Any]:
    unnamed = ModelSettings(native=native_size(layout, ""), signal_scale=family_of(layout, "").signal_scale)
    chosen, usual = asdict(settings), asdict(unnamed)
    return {name: chosen[name] for name in chosen if chosen[name] != usual[name]}


def read_model(
    source: str | os.PathLike | Entry,
    dtype: torch.dtype = torch.float32,
    *,
    variant: torch.dtype | None = None,
    parts: Collection[str] = PARTS,
) -> ModelFile:
    """Read a text-to-video model: a UNet in any layout of `LAYOUTS` with what lies beside it, or a file that
    `save_bundled` wrote.

    source: a model that `find_models` found; or a path, as `model_at` takes it.
    dtype: of the text encoder and the autoencoder of this pack's own kind of model.
    variant: the precision that is wanted, by which one of several files is chosen; None takes the file as trained.
    parts: those of `PARTS` to read; of the others no weight is looked at. A public model's are read by `companions`.
    Raises CheckpointError, naming the file, where it is missing, damaged, unsafe or something else.
    """
    entry = source if isinstance(source, Entry) else model_at(source)
    part = unet_of(entry)
    file = read_part(part, variant)
    with naming(file.path):
        found, stored = recognise(file, part.config), metadata.load(file.metadata)
        settings = _settings(stored, found, entry.name)
        unet = weights_in(found) if "unet" in parts else None
        if "text_encoder" in stored:
            return ModelFile(unet, settings, *_own(file, dtype, parts), stored, _describe_own(file, found, settings))
    companions = Companions(
        file if has_text_encoder(file.tensors) else entry.text_encoder,
        file if has_autoencoder(file.tensors) else entry.autoencoder,
        variant,
    )
    return ModelFile(
        unet, settings, None, None, stored, _describe(entry, found, settings, stored, companions), companions
    )


def _settings(stored: Mapping[str, Any], found: Recognised, name: str) -> ModelSettings:
    """The settings in a file, completed by what its layout and its name tell."""
    known = {field.name for field in fields(ModelSettings)}
    settings = metadata.parse(ModelSettings, {k: v for k, v in stored.items() if k in known}, "metadata")
    if "native" not in stored:
        settings = replace(settings, native=native_size(found.layout.name, name))
    if "signal_scale" not in stored:
        settings = replace(settings, signal_scale=family_of(found.layout.name, name).signal_scale)
    check_settings(settings, found.config.in_channels)
    if not 0 < settings.signal_scale <= 1 or (settings.signal_scale < 1 and settings.prediction != "eps"):
        raise CheckpointError(
            "metadata: signal_scale should be above 0 and up to 1, and 1 unless the UNet predicts eps"
        )
    return settings


def _own(
    file: WeightFile, dtype: torch.dtype, parts: Collection[str]
) -> tuple[PromptEncoder | None, Autoencoder | None]:
    """The other parts of this pack's own kind of model."""
    # A program that saved the UNet alone kept all the settings and none of the other weights.
    config = read_config(file)
    text_encoder, autoencoder = (
        name in parts and _holds(file, prefix)
        for name, prefix in (("text_encoder", TEXT_ENCODER), ("autoencoder", AUTOENCODER))
    )
    return (
        read_prompt_encoder(file, config, dtype) if text_encoder else None,
        read_autoencoder(file, config, dtype) if autoencoder else None,
    )


def _holds(file: WeightFile, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in file.tensors)


def _describe_own(file: WeightFile, found: Recognised, settings: ModelSettings) -> Description:
    places = [HERE if _holds(file, prefix) else None for prefix in (TEXT_ENCODER, AUTOENCODER)]
    return _description(found, "", settings, True, *places)


def _describe(
    entry: Entry, found: Recognised, settings: ModelSettings, stored: Mapping[str, Any], companions: Companions
) -> Description:
    sources = (companions.text_encoder, companions.autoencoder)
    places = [
        place(source.choose(companions.variant), entry.path) if isinstance(source, Part) else source and HERE
        for source in sources
    ]
    known = "native" in stored or family_of(found.layout.name, entry.name).native is not None
    return _description(found, entry.name, settings, known, *places)


def _description(
    found: Recognised,
    name: str,
    settings: ModelSettings,
    native_known: bool,
    text_encoder: str | None,
    autoencoder: str | None,
) -> Description:
    layout = found.layout.name
    return Description(
        family_of(layout, name),
        layout,
        precision_of(found.tensors),
        sum(tensor.numel() for tensor in found.tensors.values()),
        settings.native,
        native_known,
        text_encoder,
        autoencoder,
    )

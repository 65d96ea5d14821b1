"""From a file to a UNet3D and back: detect the layout, read the sizes, rename and reshape by table, load strictly."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, T2VError
from ..models.unet3d import UNet3D, UNet3DConfig
from . import metadata
from .bundled import BUNDLED, sections
from .diffusers import DIFFUSERS, check_agreement, settings_in
from .entries import Entry, Part
from .files import WeightFile, write_safetensors
from .folders import WANTED as FOLDER_WANTED
from .folders import model_at
from .keymap import first_ten, fit, is_finite
from .layout import Layout
from .modelscope import MODELSCOPE
from .recognise import foreign, unknown
from .shards import read_json, read_part
from .videocrafter import VIDEOCRAFTER

# VideoCrafter2's before ModelScope's, whose mark it has too.
LAYOUTS = {layout.name: layout for layout in (BUNDLED, VIDEOCRAFTER, MODELSCOPE, DIFFUSERS)}


class UNetWeights(NamedTuple):
    """A UNet's sizes, its weights under our names and in our shapes, and the name of the layout they came in."""

    config: UNet3DConfig
    state_dict: dict[str, Tensor]
    layout: str


class Recognised(NamedTuple):
    """What a file was found to hold, before any of its numbers is looked at."""

    layout: Layout
    config: UNet3DConfig
    tensors: dict[str, Tensor]
    """The UNet's, under the names of its layout."""


def unet_state_dict(
    path: str | os.PathLike, *, norm_groups: int | None = None, dtype: torch.dtype | None = None
) -> UNetWeights:
    """Read a text-to-video UNet in any layout of `LAYOUTS`, for a network that the caller builds.

    The weights are complete, finite, and fit a `UNet3D` of the config they come with; their dtype is the file's, and
    they are views of the file where its format allows it.

    path: a weight file, the index of a sharded one, or a folder that is one model.
    norm_groups: groups of the group norms; None takes the number in the file's metadata or in the config.json beside
        it, or 32, which every published model has.
    dtype: which of a folder's variants to read, as `Part.choose` says; the weights are not converted.

    Raises CheckpointError, naming the file and its keys, where it is missing, damaged, unsafe or something else.
    """
    part = unet_of(model_at(path))
    file = read_part(part, dtype)
    with naming(file.path):
        return weights_in(recognise(file, part.config, norm_groups))


def unet_of(entry: Entry) -> Part:
    """Where a model's UNet is. Raises CheckpointError where there is none."""
    if entry.unet is None:
        raise CheckpointError(f"{entry.path}: this is a model's folder in which the UNet is missing. {FOLDER_WANTED}")
    return entry.unet


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of what is done inside, as CheckpointErrors that name the file."""
    try:
        yield
    except T2VError as error:
        raise CheckpointError(f"{path}: {error}") from None


def recognise(file: WeightFile, config_file: Path | None = None, norm_groups: int | None = None) -> Recognised:
    """Tell the layout of a file and the sizes of the UNet in it by its keys and shapes; errors do not name the file.

    config_file: diffusers' config.json, which tells what no shape does and has to agree with the rest.
    """
    if kind := foreign(file.tensors):
        raise CheckpointError(kind)
    names, beside = sections(file.tensors).ours(file.tensors)
    layout = next((layout for layout in LAYOUTS.values() if layout.detect(names)), None)
    if layout is None:
        raise CheckpointError(unknown(file.tensors))
    if beside:
        raise CheckpointError(f"{len(beside)} keys of no part known here: {first_ten(beside)}")
    tensors = {name: file.tensors[key] for name, key in names.items()}
    settings = metadata.load(file.metadata).get("unet")
    settings = settings if isinstance(settings, dict) else {}
    stored = read_json(config_file) if config_file and layout is DIFFUSERS else {}
    settings = {**settings, **settings_in(stored)} if stored else settings
    if norm_groups is not None:
        settings = {**settings, "norm_groups": norm_groups}
    config = layout.config(tensors, settings)
    if stored:
        with naming(config_file):
            check_agreement(stored, config)
    return Recognised(layout, config, tensors)


def weights_in(found: Recognised) -> UNetWeights:
    """The weights under our names and in our shapes, complete and finite. Raises CheckpointError."""
    layout, config, tensors = found
    weights = fit(tensors, layout.key_map(config), UNet3D(config, device="meta"))
    return UNetWeights(config, weights, layout.name)


def load_unet(
    path: str | os.PathLike,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    operations=nn,
    norm_groups: int | None = None,
) -> UNet3D:
    """Read a text-to-video UNet, ready to run: evaluation mode, no gradients.

    dtype: of its weights; None keeps that of the file (of most of them where they differ, and float32 for 8-bit floats,
        in which no layer computes). Of a folder's variants it is read that suits.
    operations: as of `UNet3D`.
    path, norm_groups, errors: as of `unet_state_dict`. Nothing is built before the whole file is known to fit; the
        weights of a file on the CPU in its own dtype are not copied.
    """
    config, weights, _ = unet_state_dict(path, norm_groups=norm_groups, dtype=dtype)
    dtype = dtype or _most_common_dtype(weights)
    unet = UNet3D(config, device="meta", operations=operations)
    unet.load_state_dict({key: tensor.to(device, dtype) for key, tensor in weights.items()}, assign=True)
    return unet.eval().requires_grad_(False)


def _most_common_dtype(weights: dict[str, Tensor]) -> torch.dtype:
    numbers: Counter[torch.dtype] = Counter()
    for tensor in weights.values():
        numbers[tensor.dtype] += tensor.numel()
    dtype = numbers.most_common(1)[0][0]
    return dtype if dtype.itemsize > 1 else torch.float32


def save_unet(
    unet: UNet3D,
    path: str | os.PathLike,
    layout: str = "modelscope",
    dtype: torch.dtype | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a UNet as .safetensors in a layout of `LAYOUTS`, with the names and shapes that files of that layout have.

    dtype: of the file's weights; None keeps the UNet's. Sizes that no shape of a weight tells go into the metadata.

    Raises CheckpointError where the layout cannot hold this network, a weight is not finite in `dtype`, a file of that
    name exists (unless `overwrite`), or it cannot be written; what was there is then unchanged.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"unknown layout {layout!r}; known are {', '.join(LAYOUTS)}")
    row = LAYOUTS[layout]
    tensors = {key: tensor.to(dtype or tensor.dtype) for key, tensor in unet.state_dict().items()}
    overflowing = [key for key, tensor in tensors.items() if not is_finite(tensor)]
    if overflowing:
        raise CheckpointError(f"{path}: {len(overflowing)} weights are not finite in {dtype}: {first_ten(overflowing)}")
    try:
        tensors = row.key_map(unet.config).to_file(tensors)
        settings = row.settings(unet.config)
        _check_recoverable(row, tensors, settings, unet.config)
    except T2VError as error:
        raise CheckpointError(f"{path}: the {layout} layout cannot hold this network: {error}") from None
    stored = metadata.dump({"unet": settings}) if settings else {}
    return write_safetensors(path, tensors, {"format": "pt", **stored}, overwrite)


def _check_recoverable(row: Layout, tensors: dict[str, Tensor], settings, config: UNet3DConfig) -> None:
    """A file must give back the network it was made of."""
    settings = metadata.load(metadata.dump({"unet": settings}))["unet"]
    read, meant = asdict(row.config(tensors, settings)), asdict(config)
    lost = [name for name in meant if read[name] != meant[name]]
    if lost:
        raise CheckpointError(f"{', '.join(lost)} would be lost")

"""A layout is a row: it knows a file by its keys, reads the network's sizes off the tensors, maps names and shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..models.unet3d import UNet3DConfig
from .keymap import KeyMap
from .metadata import parse

# Our names of the weights that files store with one more axis: a temporal convolution is 3D there, 3 by 1 by 1.
TEMPORAL_CONVOLUTIONS = ("*.temporal_conv.conv1.2.weight", "*.temporal_conv.conv{}.3.weight")

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """One way of naming and shaping the UNet's weights in a file.

    detect: whether these keys are of this layout.
    config: the network's sizes, from the file's tensors and the entry `unet` in its metadata (`{}` where it has none).
        Raises CheckpointError where the keys it needs are missing.
    key_map: names and shapes for a network of these sizes.
    settings: what that entry has to say so that `config` gives these sizes back; most often nothing.
    """

    name: str
    detect: Callable[[Collection[str]], bool]
    config: Callable[[Mapping[str, Tensor], Settings], UNet3DConfig]
    key_map: Callable[[UNet3DConfig], KeyMap]
    settings: Callable[[UNet3DConfig], Settings]


def input_index(level: int, block: int, blocks_per_level: int) -> int:
    """Place of a level's block among the input blocks; `block == blocks_per_level` is its downsampling."""
    return 1 + level * (blocks_per_level + 1) + block


def places(keys: Iterable[str]) -> set[str]:
    """Every module the keys name: each key without its last part, without its last two, and so on."""
    return {key[:dot] for key in keys for dot in range(len(key)) if key[dot] == "."}


def levels_of(named: Collection[str], ends: Collection[str]) -> tuple[tuple[bool, ...], int]:
    """Which levels have attention, and how many blocks a level has, off the places of the input blocks.

    named: every module the keys name.
    ends: those input blocks that change size, which end a level.
    """
    indices = sorted(int(place[13:]) for place in named if re.fullmatch(r"input_blocks\.[1-9]\d{0,3}", place))
    levels: list[list[int]] = [[]]
    for index in indices:
        if f"input_blocks.{index}" in ends:
            levels.append([])
        else:
            levels[-1].append(index)
    attention = tuple(any(f"input_blocks.{index}.1" in named for index in level) for level in levels)
    return attention, len(levels[0])


def hidden_settings(config: UNet3DConfig) -> Settings:
    """The sizes that leave no trace in the tensors' shapes, where they are not what every published file has."""
    chosen, usual = asdict(config), asdict(UNet3DConfig())
    return {name: chosen[name] for name in ("input_heads", "norm_groups") if chosen[name] != usual[name]}


def read_config(
    tensors: Mapping[str, Tensor],
    keys: KeyMap,
    attention: tuple[bool, ...],
    blocks_per_level: int,
    settings: Settings,
) -> UNet3DConfig:
    """Sizes of a UNet3D off the shapes of its weights, given which levels have attention and how many blocks each has.

    Not to be seen in any shape: how many heads the first transformer has and how many groups the norms. They are 8 and
    32 in every published file; `settings` tells where they are not. Raises CheckpointError.
    """

    def size(ours: str, axis: int) -> int:
        tensor = tensors.get(keys.theirs(ours))
        if tensor is None:
            raise CheckpointError(f"{keys.theirs(ours)} is missing, from which the network's size is read")
        if axis >= tensor.ndim or not tensor.numel():
            raise CheckpointError(f"{keys.theirs(ours)} is {list(tensor.shape)}, from which no size can be read")
        return tensor.shape[axis]

    usual = UNet3DConfig()
    heads, groups = (
        parse(int, settings.get(name, getattr(usual, name)), f"metadata: unet.{name}")
        for name in ("input_heads", "norm_groups")
    )
    inner, transformer = size("input_blocks.0.1.proj_in.weight", 0), "middle_block.1.transformer_blocks.0"
    if not heads or inner % heads:
        raise CheckpointError(f"the first transformer's width {inner} is not divisible into {heads} heads")
    widths = tuple(
        size(f"input_blocks.{input_index(level, 0, blocks_per_level)}.0.in_layers.2.weight", 0)
        for level in range(len(attention))
    )
    if not groups or any(width % groups for width in widths):
        raise CheckpointError(
            f"widths {', '.join(map(str, widths))} do not divide into {groups} norm groups, and no shape in the file "
            "tells their number: say norm_groups=..., the number the network was trained with"
        )
    return UNet3DConfig(
        in_channels=size("input_blocks.0.0.weight", 1),
        out_channels=size("out.2.weight", 0),
        widths=widths,
        attention=attention,
        blocks_per_level=blocks_per_level,
        context_dim=size(f"{transformer}.attn2.to_k.weight", 1),
        head_dim=inner // heads,
        input_heads=heads,
        norm_groups=groups,
        ff_mult=max(1, size(f"{transformer}.ff.net.2.weight", 1) // size(f"{transformer}.ff.net.2.weight", 0)),
        fps_embedding=_has(tensors, keys, "fps_embedding.0.weight"),
    )


def _has(tensors: Mapping[str, Tensor], keys: KeyMap, ours: str) -> bool:
    try:
        return keys.theirs(ours) in tensors
    except CheckpointError:
        return False

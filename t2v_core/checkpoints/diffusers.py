"""diffusers' layout (UNet3DConditionModel): `unet/diffusion_pytorch_model.safetensors` of a text-to-video pipeline."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from torch import Tensor

from ..errors import CheckpointError
from ..models.unet3d import UNet3DConfig
from .keymap import KeyMap, Rule
from .layout import TEMPORAL_CONVOLUTIONS, Layout, Settings, hidden_settings, input_index, places, read_config

OUTSIDE: tuple[Rule, ...] = (
    ("time_embedding.linear_1.*", "time_embed.0.*"),
    ("time_embedding.linear_2.*", "time_embed.2.*"),
    ("conv_in.*", "input_blocks.0.0.*"),
    ("transformer_in.*", "input_blocks.0.1.*"),
    ("conv_norm_out.*", "out.0.*"),
    ("conv_out.*", "out.2.*"),
)
RESIDUAL: tuple[tuple[str, str], ...] = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)


def _residual(theirs: str, ours: str, index: int) -> Iterator[Rule]:
    """One of our residual blocks is two of their modules: the images' part and the convolution over frames."""
    for part, our_part in RESIDUAL:
        yield f"{theirs}.resnets.{index}.{part}.*", f"{ours}.{our_part}.*"
    yield f"{theirs}.temp_convs.{index}.*", f"{ours}.temporal_conv.*"


def _block(theirs: str, ours: str, index: int, attention: bool) -> Iterator[Rule]:
    yield from _residual(theirs, f"{ours}.0", index)
    if attention:
        yield f"{theirs}.attentions.{index}.*", f"{ours}.1.*"
        yield f"{theirs}.temp_attentions.{index}.*", f"{ours}.2.*"


def _rules(attention: tuple[bool, ...], blocks: int) -> Iterator[Rule]:
    yield from OUTSIDE
    levels = len(attention)
    for level in range(levels):
        for block in range(blocks):
            place = f"input_blocks.{input_index(level, block, blocks)}"
            yield from _block(f"down_blocks.{level}", place, block, attention[level])
        if level + 1 < levels:
            place = f"input_blocks.{input_index(level, blocks, blocks)}"
            yield f"down_blocks.{level}.downsamplers.0.conv.*", f"{place}.op.*"
    yield from _block("mid_block", "middle_block", 0, attention=True)
    yield from _residual("mid_block", "middle_block.3", 1)
    for up in range(levels):
        has_attention = attention[levels - 1 - up]
        for block in range(blocks + 1):
            yield from _block(f"up_blocks.{up}", f"output_blocks.{up * (blocks + 1) + block}", block, has_attention)
        if up + 1 < levels:
            place = f"output_blocks.{up * (blocks + 1) + blocks}.{3 if has_attention else 1}"
            yield f"up_blocks.{up}.upsamplers.0.conv.*", f"{place}.conv.*"


def _key_map(attention: tuple[bool, ...], blocks: int) -> KeyMap:
    return KeyMap(_rules(attention, blocks), TEMPORAL_CONVOLUTIONS)


def _count(named: set[str], pattern: str) -> int:
    """How many modules of this pattern there are, from 0 without a gap."""
    return next(number for number in range(len(named) + 1) if pattern.format(number) not in named)


def _detect(keys: Collection[str]) -> bool:
    return any(key.startswith("transformer_in.") or ".temp_convs." in key for key in keys)


def _config(tensors: Mapping[str, Tensor], settings: Settings) -> UNet3DConfig:
    named = places(tensors)
    levels, blocks = _count(named, "down_blocks.{}"), _count(named, "down_blocks.0.resnets.{}")
    attention = tuple(f"down_blocks.{level}.attentions" in named for level in range(levels))
    return read_config(tensors, _key_map(attention, blocks), attention, blocks, settings)


# What a network computes with that no field of UNet3DConfig says, as every published config.json has it.
FIXED = {"act_fn": "silu", "norm_eps": 1e-5, "downsample_padding": 1, "mid_block_scale_factor": 1}


def settings_in(stored: Settings) -> Settings:
    """The sizes that leave no trace in the tensors' shapes, of a `config.json`; those it does not give are left out."""
    groups = {"norm_groups": stored["norm_num_groups"]} if "norm_num_groups" in stored else {}
    return {"input_heads": 8, **groups}  # the number of heads is not theirs to choose


def check_agreement(stored: Settings, config: UNet3DConfig) -> None:
    """Raises CheckpointError where a `config.json` says otherwise than the tensors, or asks for what is not built."""
    types = stored.get("down_block_types")
    said = {
        "in_channels": (stored.get("in_channels"), config.in_channels),
        "out_channels": (stored.get("out_channels"), config.out_channels),
        "block_out_channels": (stored.get("block_out_channels"), list(config.widths)),
        "layers_per_block": (stored.get("layers_per_block"), config.blocks_per_level),
        "cross_attention_dim": (stored.get("cross_attention_dim"), config.context_dim),
        "attention_head_dim": (stored.get("attention_head_dim"), config.head_dim),
        "down_block_types": (types, types and [_type(has) for has in config.attention]),
    }
    for name, (theirs, ours) in said.items():
        if theirs is not None and theirs != ours:
            raise CheckpointError(f"{name} is {theirs!r:.80}, but the weights are of a network with {ours}")
    for name, usual in FIXED.items():
        if stored.get(name, usual) != usual:
            raise CheckpointError(f"{name} is {stored[name]!r:.80}; only networks with {usual} can be computed here")


def _type(attention: bool) -> str:
    return "CrossAttnDownBlock3D" if attention else "DownBlock3D"


DIFFUSERS = Layout(
    "diffusers", _detect, _config, lambda config: _key_map(config.attention, config.blocks_per_level), hidden_settings
)

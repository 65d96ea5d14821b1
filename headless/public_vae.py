"""The autoencoder of public models, Stable Diffusion's (Rombach et al. 2112.10752), as diffusers' AutoencoderKL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..t2v_core.checkpoints import Part
from ..t2v_core.checkpoints.keymap import KeyMap, Rule, fit
from ..t2v_core.checkpoints.load import naming
from ..t2v_core.checkpoints.model_file import Companions
from ..t2v_core.checkpoints.shards import read_json
from ..t2v_core.errors import CheckpointError, T2VError
from .extra import needed_for

NORM_GROUPS = 32  # leaves no trace in the weights; config.json may tell another
MOST_LEVELS = 8
# Memory per pixel and channel where the most is alive: the decoder's first block of the finest level, which gets the
# channels of the level below. Three tensors of these and a kernel's copy of one, and a quarter more.
COPIES = 5

# Of the one attention, whose projections are convolutions of 1 x 1 in some files. diffusers named them twice.
_ATTENTION = {
    "attn_1.norm": "attentions.0.group_norm",
    "attn_1.q": "attentions.0.to_q",
    "attn_1.k": "attentions.0.to_k",
    "attn_1.v": "attentions.0.to_v",
    "attn_1.proj_out": "attentions.0.to_out.0",
}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class PublicConfig:
    """Sizes of a `PublicAutoencoder`: pixels of image per latent along each side, and the latents' channels."""

    downscale: int
    latent_channels: int


class PublicAutoencoder(nn.Module):
    """diffusers' AutoencoderKL as the library's `Autoencoder` is used: the same shapes, ranges and errors.

    Latents are unscaled, as ComfyUI's VAE nodes have them: 0.18215 is the model's `latent_scale`. Encoding gives the
    mean, without the noise of training, as in ComfyUI.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        widths = tuple(network.config.block_out_channels)
        self.config = PublicConfig(2 ** (len(widths) - 1), network.config.latent_channels)
        self.bytes_per_pixel = COPIES * max(widths[:2]) * next(network.parameters()).element_size()

    def encode(self, images: Tensor) -> Tensor:
        """Latents `[n, 4, H/8, W/8]` of images `[n, 3, H, W]` in -1..1. Raises T2VError for other shapes."""
        step = self.config.downscale
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % step or images.shape[3] % step:
            raise T2VError(f"encode: images are [n, 3, H, W], H and W divisible by {step}, got {list(images.shape)}")
        return self.network.encode(images).latent_dist.mode()

    def decode(self, latents: Tensor) -> Tensor:
        """Images `[n, 3, 8h, 8w]`, about -1..1 (not clamped), of latents `[n, 4, h, w]`. Raises T2VError for others."""
        if latents.ndim != 4 or latents.shape[1] != self.config.latent_channels:
            raise T2VError(
                f"decode: latents are [n, {self.config.latent_channels}, h, w], got {list(latents.shape)}: "
                "they come from another model family"
            )
        return self.network.decode(latents).sample


def autoencoder(companions: Companions, dtype: torch.dtype) -> PublicAutoencoder:
    """The autoencoder that `companions` names, with weights of this dtype.

    Raises T2VError without diffusers, CheckpointError, naming the file, where its weights make no such autoencoder.
    """
    source = companions.autoencoder
    path = source.choose(companions.variant) if isinstance(source, Part) else source.path
    with needed_for(f"the VAE ({path.name})"):  # before the file is read for nothing
        from diffusers import AutoencoderKL  # noqa: F401
    file = companions.read_autoencoder()
    with naming(file.path):
        return PublicAutoencoder(_network(file.tensors, source.config if isinstance(source, Part) else None, dtype))


def _network(tensors: Mapping[str, Tensor], config: Path | None, dtype: torch.dtype) -> nn.Module:
    """diffusers' network with these weights, its sizes read off them."""
    from diffusers import AutoencoderKL

    weights = {key: _as_matrix(key, tensor) for key, tensor in tensors.items()}
    keys = KeyMap(_rules(weights))
    names, _ = keys.ours(weights)
    widths = [len(weights[names[name]]) for name in map(_first_of, range(MOST_LEVELS)) if name in names]
    blocks = {name.split(".")[4] for name in names if name.startswith("encoder.down_blocks.0.resnets.")}
    groups = read_json(config).get("norm_num_groups", NORM_GROUPS) if config else NORM_GROUPS
    if type(groups) is not int or groups < 1 or not widths or any(width % groups for width in widths):
        raise CheckpointError(
            f"an autoencoder of the widths {widths} with {groups!r:.20} norm groups is not Stable Diffusion's kind"
        )
    with torch.device("meta"):
        network = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=tuple(widths),
            layers_per_block=max(1, len(blocks)),
            latent_channels=_latent_channels(weights),
            norm_num_groups=groups,
        )
    found = fit(weights, keys, network)
    network.load_state_dict({name: tensor.to(dtype) for name, tensor in found.items()}, assign=True)
    return network.eval().requires_grad_(False)


def _first_of(level: int) -> str:
    return f"encoder.down_blocks.{level}.resnets.0.conv1.weight"


def _latent_channels(weights: Mapping[str, Tensor]) -> int:
    """The input channels of `post_quant_conv`, which `companions` has made sure of."""
    weight = weights["post_quant_conv.weight"]
    if weight.ndim != 4:
        raise CheckpointError(f"post_quant_conv.weight is {list(weight.shape)}, and no kernel of a convolution")
    return weight.shape[1]


def _as_matrix(key: str, tensor: Tensor) -> Tensor:
    attention = ".mid.attn_1." in key or ".mid_block.attentions." in key
    return tensor[:, :, 0, 0] if attention and tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def _rules(keys: Mapping[str, Tensor]) -> list[Rule]:
    """The table of names, from Latent Diffusion's or diffusers' own to diffusers'."""
    levels = {int(match[1]) for key in keys if (match := re.match(r"encoder\.down\.(\d)\.", key))}
    if not levels:
        mid = "{}.mid_block.attentions.0."
        old = [(f"{mid}{theirs}.{{}}", f"{mid}{name}.{{}}") for theirs, name in _OLD_ATTENTION.items()]
        return [*(old if any(".proj_attn." in key for key in keys) else ()), ("*", "*")]
    rules: list[Rule] = []
    for level in range(max(levels) + 1):
        for side, theirs, ours, change in (
            ("encoder", f"down.{level}", f"down_blocks.{level}", "downsample"),
            ("decoder", f"up.{level}", f"up_blocks.{max(levels) - level}", "upsample"),  # which counts the other way
        ):
            block = f"{side}.{ours}.resnets.{{}}."
            rules += [
                (f"{side}.{theirs}.block.{{}}.nin_shortcut.{{}}", f"{block}conv_shortcut.{{}}"),
                (f"{side}.{theirs}.block.{{}}.*", f"{block}*"),
                (f"{side}.{theirs}.{change}.*", f"{side}.{ours}.{change}rs.0.*"),
            ]
    for side in ("encoder", "decoder"):
        rules += [(f"{side}.mid.block_{n + 1}.*", f"{side}.mid_block.resnets.{n}.*") for n in (0, 1)]
        rules += [(f"{side}.mid.{a}.{{}}", f"{side}.mid_block.{b}.{{}}") for a, b in _ATTENTION.items()]
        rules.append((f"{side}.norm_out.{{}}", f"{side}.conv_norm_out.{{}}"))
        rules += [(f"{side}.{name}.{{}}", f"{side}.{name}.{{}}") for name in ("conv_in", "conv_out")]
    return [*rules, ("quant_conv.{}", "quant_conv.{}"), ("post_quant_conv.{}", "post_quant_conv.{}")]

"""The text encoder and the autoencoder of public models, as weights for a host that knows these networks.

All these models share them: the text tower of OpenCLIP ViT-H/14 (its last block but one, then the final norm) and
Stable Diffusion's autoencoder. They come under the names of OpenCLIP or of transformers, and of Latent Diffusion or of
diffusers; a host's own loader reads any of these, but says little where something is missing, so it is checked here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping

from torch import Tensor

from ..errors import CheckpointError
from .files import AGAIN
from .keymap import first_ten, is_finite

# In a file that holds all parts, what stands before the names of these two.
TEXT_ENCODER_PREFIX, AUTOENCODER_PREFIX = "cond_stage_model.model.", "first_stage_model."

_OPEN_CLIP = ("token_embedding.", "positional_embedding", "transformer.resblocks.", "ln_final.", "text_projection")
_TRANSFORMERS = ("embeddings.", "encoder.layers.", "final_layer_norm.")
_AUTOENCODER = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


def text_encoder_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower in a file, under OpenCLIP's names or, with `text_model.` before them, transformers'.

    The other tower, buffers and what else the file holds are left out. Raises CheckpointError where there is no whole
    text tower in it.
    """
    tensors = _below(tensors, TEXT_ENCODER_PREFIX)
    tower = {key: tensor for key, tensor in tensors.items() if key.startswith(_OPEN_CLIP)}
    if any(key.startswith(_OPEN_CLIP[2]) for key in tower):
        _check_whole(tower, ("token_embedding.weight", "positional_embedding", "ln_final.weight"), _OPEN_CLIP[2])
        return tower
    bare = _below(tensors, "text_model.")  # transformers 5 leaves it out
    tower = {key: tensor for key, tensor in bare.items() if key.startswith(_TRANSFORMERS) and "position_ids" not in key}
    if not any(key.startswith(_TRANSFORMERS[1]) for key in tower):
        raise CheckpointError(
            "there is no text encoder of CLIP's kind in this file. One of OpenCLIP ViT-H/14 is wanted: "
            "open_clip_pytorch_model.bin, or text_encoder/model.safetensors"
        )
    needed = ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight", "final_layer_norm.weight")
    _check_whole(tower, needed, _TRANSFORMERS[1])
    return {f"text_model.{key}": tensor for key, tensor in tower.items()}


def autoencoder_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The autoencoder in a file, under Latent Diffusion's names or diffusers'. Raises CheckpointError without one."""
    tensors = _below(tensors, AUTOENCODER_PREFIX)
    weights = {key: tensor for key, tensor in tensors.items() if key.startswith(_AUTOENCODER)}
    needed = ("encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.conv_out.weight", "post_quant_conv.weight")
    if not any(key in weights for key in needed):
        raise CheckpointError(
            "there is no autoencoder in this file. Stable Diffusion's is wanted: VQGAN_autoencoder.pth, or "
            "vae/diffusion_pytorch_model.safetensors"
        )
    _check_whole(weights, needed)
    return weights


def has_text_encoder(keys: Collection[str]) -> bool:
    """Whether a file that holds all parts has a text encoder of a public model."""
    return any(key.startswith(TEXT_ENCODER_PREFIX) for key in keys)


def has_autoencoder(keys: Collection[str]) -> bool:
    """Whether a file that holds all parts has an autoencoder."""
    return any(key.startswith(AUTOENCODER_PREFIX) for key in keys)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What stands under a prefix, less that; all of it where nothing does."""
    found = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return found or dict(tensors)


def _check_whole(weights: Mapping[str, Tensor], needed: Collection[str], blocks: str | None = None) -> None:
    """Raises CheckpointError where a needed weight is missing, a pair of weight and bias is broken, a block of the row
    `blocks` is missing or has not what the others have, or a weight is no finite floating-point number."""
    missing = [key for key in needed if key not in weights]
    missing += [f"{key[:-4]}weight" for key in weights if key.endswith(".bias") and f"{key[:-4]}weight" not in weights]
    if blocks:
        rows: dict[int, set[str]] = defaultdict(set)
        for key in weights:
            if match := re.match(rf"{re.escape(blocks)}(\d{{1,4}})\.", key):
                rows[int(match[1])].add(key[match.end() :])
        every = set().union(*rows.values())
        missing += [f"{blocks}{row}.{key}" for row in range(max(rows) + 1) for key in sorted(every - rows[row])]
    if missing := list(dict.fromkeys(missing)):
        raise CheckpointError(
            f"{len(missing)} weights are missing: {first_ten(missing)}. The file is incomplete. {AGAIN}"
        )
    if other := [key for key, tensor in weights.items() if not tensor.is_floating_point()]:
        raise CheckpointError(f"{len(other)} weights are not floating point: {first_ten(other)}")
    if damaged := [key for key, tensor in weights.items() if not is_finite(tensor)]:
        raise CheckpointError(f"{len(damaged)} weights hold NaN or infinity: {first_ten(damaged)}. {AGAIN}")

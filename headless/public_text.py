"""The text encoder of public models, OpenCLIP ViT-H/14's text tower, as transformers' CLIPTextModel.

These models read the last layer but one, after the final norm, as Stable Diffusion 2 does. Files from OpenCLIP have the
last layer too, those in diffusers' folders most often not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..t2v_core.checkpoints import Part
from ..t2v_core.checkpoints.files import AGAIN
from ..t2v_core.checkpoints.keymap import KeyMap, fit
from ..t2v_core.checkpoints.load import naming
from ..t2v_core.checkpoints.model_file import Companions
from ..t2v_core.checkpoints.shards import read_json
from ..t2v_core.errors import CheckpointError
from ..t2v_core.text import PromptEncoder
from .clip_tokenizer import ClipTokenizer, find_vocabulary
from .extra import needed_for

WHOLE_TOWER = 24  # layers of ViT-H/14's under transformers' names; one less where the last was cut off
HEAD_WIDTH = 64  # of all of CLIP's towers
ACTIVATIONS = ("gelu", "quick_gelu")
_BLOCK = re.compile(r"(transformer\.resblocks|text_model\.encoder\.layers)\.(\d{1,4})\.")

OPEN_CLIP = KeyMap(
    (
        ("token_embedding.weight", "embeddings.token_embedding.weight"),
        ("positional_embedding", "embeddings.position_embedding.weight"),
        ("transformer.resblocks.{}.ln_1.{}", "encoder.layers.{}.layer_norm1.{}"),
        ("transformer.resblocks.{}.attn.*", "encoder.layers.{}.self_attn.*"),
        ("transformer.resblocks.{}.ln_2.{}", "encoder.layers.{}.layer_norm2.{}"),
        ("transformer.resblocks.{}.mlp.c_fc.{}", "encoder.layers.{}.mlp.fc1.{}"),
        ("transformer.resblocks.{}.mlp.c_proj.{}", "encoder.layers.{}.mlp.fc2.{}"),
        ("ln_final.{}", "final_layer_norm.{}"),
        ("text_projection", None),
    )
)
TRANSFORMERS = KeyMap((("text_model.*", "*"),))


class TextTower(nn.Module):
    """Ids `[b, n]` -> features `[b, n, width]`, and those at each text's end `[b, width]`.

    model: transformers' CLIPTextModel without the layers that are not read. ComfyUI's pooled vector is another one, of
    the last layer; no text-to-video model reads it.
    """

    def __init__(self, model: nn.Module, end: int):
        super().__init__()
        self.model = model
        self.end = end

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        rows, length = ids.shape
        positions = torch.arange(length, device=ids.device)[None]  # the model's own were left on the meta device
        features = self.model(input_ids=ids, position_ids=positions).last_hidden_state
        ends = (ids == self.end).int().argmax(1)
        return features, features[torch.arange(rows, device=ids.device), ends]


def prompt_encoder(
    companions: Companions, tokenizers: Sequence[tuple[Path, Path]], dtype: torch.dtype
) -> PromptEncoder:
    """The text encoder that `companions` names, with weights of this dtype, and ComfyUI's reading of prompts.

    tokenizers: where its vocabulary may be, as of `find_vocabulary`. Raises T2VError without transformers,
    CheckpointError where there is no vocabulary or, naming the file, where its weights make no text tower.
    """
    source = companions.text_encoder
    path = source.choose(companions.variant) if isinstance(source, Part) else source.path
    with needed_for(f"the text encoder ({path.name})"):  # before a file of gigabytes is read for nothing
        from transformers import CLIPTextModel  # noqa: F401
    tokenizer = ClipTokenizer(find_vocabulary(tokenizers))
    file = companions.read_text_encoder()
    with naming(file.path):
        model, length = _model(file.tensors, source.config if isinstance(source, Part) else None, tokenizer, dtype)
        return PromptEncoder(TextTower(model, tokenizer.end), tokenizer, length)


def _model(
    tensors: Mapping[str, Tensor], config: Path | None, tokenizer: ClipTokenizer, dtype: torch.dtype
) -> tuple[nn.Module, int]:
    """transformers' network with these weights, and how many ids it reads."""
    from transformers import CLIPTextConfig, CLIPTextModel

    weights, keys = _layers_that_are_read(tensors)
    named, _ = keys.ours(weights)
    tokens, positions = (weights[named[f"embeddings.{name}_embedding.weight"]] for name in ("token", "position"))
    up = weights.get(named.get("encoder.layers.0.mlp.fc1.weight"), tokens)
    if any(weight.ndim != 2 for weight in (tokens, positions, up)):
        raise CheckpointError("the embeddings or the first layer are no matrices, as those of CLIP's text encoders are")
    if tokenizer.size > len(tokens):
        raise CheckpointError(f"has {len(tokens)} entries, and the tokenizer {tokenizer.size}: they are of two models")
    heads, activation = _settings(config, tokens.shape[1])
    with torch.device("meta"):
        model = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokens),
                hidden_size=tokens.shape[1],
                intermediate_size=len(up),
                num_hidden_layers=len({name.split(".")[2] for name in named if name.startswith("encoder.layers.")}),
                num_attention_heads=heads,
                max_position_embeddings=len(positions),
                hidden_act=activation,
                bos_token_id=tokenizer.start,
                eos_token_id=tokenizer.end,
                pad_token_id=tokenizer.pad,
            )
        )
    # transformers 4 has it all under `text_model`, 5 has not.
    inner = model.text_model if any(key.startswith("text_model.") for key in model.state_dict()) else model
    inner.load_state_dict({name: tensor.to(dtype) for name, tensor in fit(weights, keys, inner).items()}, assign=True)
    return model.eval().requires_grad_(False), len(positions)


def _layers_that_are_read(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], KeyMap]:
    """The weights of all layers that count, with queries, keys and values apart, and the table of their names."""
    blocks = [match for key in weights if (match := _BLOCK.match(key))]
    open_clip = blocks[0][1].startswith("transformer.")
    layers = max(int(match[2]) for match in blocks) + 1
    if open_clip or layers == WHOLE_TOWER:
        layers -= 1
    kept = {}
    for key, tensor in weights.items():
        if (match := _BLOCK.match(key)) and int(match[2]) >= layers:
            continue
        if ".attn.in_proj_" not in key:
            kept[key] = tensor
            continue
        for letter, third in zip("qkv", tensor.chunk(3), strict=False):
            kept[key.replace("in_proj_", f"{letter}_proj.")] = third
    return kept, OPEN_CLIP if open_clip else TRANSFORMERS


def _settings(path: Path | None, width: int) -> tuple[int, str]:
    """The number of heads and the activation, which leave no trace in the weights."""
    stored = read_json(path) if path else {}
    heads, activation = stored.get("num_attention_heads", width // HEAD_WIDTH), stored.get("hidden_act", "gelu")
    if type(heads) is not int or heads < 1 or width % heads:
        raise CheckpointError(
            f"the text encoder is {width} wide and would have {heads!r:.20} heads, by its config.json or else by its "
            f"width; all heads of CLIP are {HEAD_WIDTH} wide"
        )
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            f"its config.json has hidden_act {activation!r:.40}, not {' or '.join(ACTIVATIONS)}. {AGAIN}"
        )
    return heads, activation

"""From the names of modules in LoRA files to the keys of our UNet's and the text encoder's weights."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from ..checkpoints.keymap import KeyMap
from ..checkpoints.load import LAYOUTS
from ..errors import CheckpointError, T2VError
from ..models.unet3d import UNet3DConfig

# What programs put before every name; they may be nested.
ANYWHERE = ("module.", "base_model.model.")
UNET = ("unet.", "model.diffusion_model.", "diffusion_model.", "lora_unet_", "lycoris_")
TEXT = ("text_encoders.", "text_encoder.", "lora_te1_", "lora_te_", "cond_stage_model.")
# What modules of a text encoder are called within it, whatever is before; transformers 5 leaves `text_model.` out.
TEXT_STARTS = ("text_model.", "transformer.resblocks.", "resblocks.", "encoder.layers.")
# OpenCLIP's names of the text encoder, which the web UI's trainer writes.
OPEN_CLIP = KeyMap(
    (
        ("resblocks.{}.attn.*", "text_model.encoder.layers.{}.self_attn.*"),
        ("resblocks.{}.mlp.c_fc", "text_model.encoder.layers.{}.mlp.fc1"),
        ("resblocks.{}.mlp.c_proj", "text_model.encoder.layers.{}.mlp.fc2"),
        ("token_embedding", "text_model.embeddings.token_embedding"),
    )
)

Keys = dict[str, list[str]]


def split(name: str) -> tuple[str, str]:
    """("unet" or "text_encoder", the module's bare name) of a name in a file."""
    name = _without(name, ANYWHERE)
    for prefix in TEXT:
        if name.startswith(prefix):
            return "text_encoder", _text_name(_without(name.removeprefix(prefix), ANYWHERE))
    if name.startswith(TEXT_STARTS):
        return "text_encoder", _text_name(name)
    return "unet", _unet_name(_without(name, ANYWHERE + UNET))


def _without(name: str, prefixes: tuple[str, ...]) -> str:
    while prefix := next((each for each in prefixes if name.startswith(each)), None):
        name = name.removeprefix(prefix)
    return name


def _unet_name(name: str) -> str:
    # diffusers' attention processors held the factors of a whole attention, its last layer without its index.
    if ".processor." in name:
        name = name.replace(".processor.", ".")
        name = re.sub(r"\.to_out$", ".to_out.0", name)
    return name


def _text_name(name: str) -> str:
    name = next((name[name.index(start) :] for start in TEXT_STARTS if start in name), name)
    name = name.removeprefix("transformer.")
    names, _ = OPEN_CLIP.ours([name])
    return next(iter(names), name)


def unet_keys(config: UNet3DConfig, weights: Iterable[str]) -> Keys:
    """The keys of our UNet's weights by every name that a module has in any layout, with dots and with underscores."""
    maps = []
    for layout in LAYOUTS.values():
        try:
            maps.append(layout.key_map(config))
        except T2VError:  # a layout that cannot hold this network
            continue

    def names(key: str) -> Iterator[str]:
        yield key
        for key_map in maps:
            try:
                yield key_map.theirs(key)
            except CheckpointError:
                continue

    return _index((name, key) for key in weights for name in names(key))


def text_keys(weights: Iterable[str]) -> Keys:
    """The keys of a text encoder's weights, whatever holds it, by transformers' names of the modules.

    ComfyUI's are `clip_h.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight` and the like. An encoder of
    other names goes by those.
    """

    def names(key: str) -> Iterator[str]:
        yield key
        for start in ("encoder.layers.", "embeddings."):
            if start in key:
                name = key[key.index(start) :]
                yield from (name, f"text_model.{name}")

    return _index((name, key) for key in weights for name in names(key))


def _index(rows: Iterable[tuple[str, str]]) -> Keys:
    """Modules' names, dotted and flattened, to the keys of their weights."""
    found: Keys = defaultdict(list)
    for name, key in rows:
        if key.endswith(".weight") and name.endswith(".weight"):
            module = name.removesuffix(".weight")
            for alias in dict.fromkeys((module, module.replace(".", "_"))):
                if key not in found[alias]:
                    found[alias].append(key)
    return dict(found)

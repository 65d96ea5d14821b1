"""Tiny public models of random weights, in files as the programs write them that people's files come from.

Text encoders are transformers' CLIPTextModel and OpenCLIP's tower, autoencoders diffusers' and ModelScope's; the latter
two are in `core.references`. Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import torch
from core.references import diffusers_unet, randomise
from torch import Tensor, nn

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = ("r e", "re d</w>", "c i", "ci r", "c l", "cl e</w>", "cir cle</w>", "m o", "b l", "bl u", "blu e</w>")


def vocabulary() -> dict[str, int]:
    """Letters of single bytes, by the library that transformers tokenizes with, what the merges make, START and END."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())  # begins with "!", whose id 0 is the padding
    merged = [merge.replace(" ", "") for merge in MERGES]
    return {entry: index for index, entry in enumerate([*letters, *(f"{x}</w>" for x in letters), *merged, START, END])}


def write_tokenizer(folder: Path) -> Path:
    """The folder `tokenizer` of a diffusers repository, "!" being its padding as in Stable Diffusion 2's."""
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary()))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": "!"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special})
    )
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return folder


def tokenizer():
    """transformers' tokenizer of this vocabulary, with CLIP's own padding."""
    import tempfile

    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        written = write_tokenizer(Path(folder, "tokenizer"))
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            (written / name).unlink()
        return CLIPTokenizer.from_pretrained(written, local_files_only=True)


def text_model(layers: int = 2, width: int = 32, heads: int = 4, *, seed: int = 0) -> nn.Module:
    """transformers' CLIPTextModel."""
    from transformers import CLIPTextConfig, CLIPTextModel

    ids = vocabulary()
    config = CLIPTextConfig(
        vocab_size=len(ids),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act="gelu",
        bos_token_id=ids[START],
        eos_token_id=ids[END],
        pad_token_id=0,
    )
    return randomise(CLIPTextModel(config), seed)


def image_autoencoder(seed: int = 0) -> nn.Module:
    """diffusers' AutoencoderKL of Stable Diffusion's form, eight pixels a latent, narrow."""
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    network = AutoencoderKL(block_out_channels=(8, 16, 16, 16), layers_per_block=2, norm_num_groups=4, **blocks)
    return randomise(network, seed)


def write_diffusers(folder: Path, *, seed: int = 0) -> Path:
    """A whole model in diffusers' folder, each part written by its own library."""
    diffusers_unet(context_dim=32, seed=seed).save_pretrained(folder / "unet")
    image_autoencoder(seed).save_pretrained(folder / "vae")
    text_model(seed=seed).save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "TextToVideoSDPipeline"}))
    return folder


class OpenClipText(nn.Module):
    """OpenCLIP's text tower (`open_clip/transformer.py` of github.com/mlfoundations/open_clip) with its names of
    weights, which are those of PyTorch's own attention. What it gives is the last layer's input, normed."""

    def __init__(self, layers: int = 3, width: int = 128, heads: int = 2):
        super().__init__()
        self.token_embedding = nn.Embedding(len(vocabulary()), width)
        self.positional_embedding = nn.Parameter(torch.empty(77, width))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(OpenClipBlock(width, heads) for _ in range(layers))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, width))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_embedding(ids) + self.positional_embedding
        for block in self.transformer.resblocks[:-1]:
            x = block(x)
        return self.ln_final(x)


class OpenClipBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        up, down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=up, gelu=nn.GELU(), c_proj=down))

    def forward(self, x: Tensor) -> Tensor:
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, attn_mask=later, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))

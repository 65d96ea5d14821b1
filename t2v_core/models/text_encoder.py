"""The bundled model's text encoder: a small transformer over words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

PAD = 0


@dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes of `TextEncoder`; `length` is the longest chunk of ids it reads."""

    vocabulary_size: int
    length: int = 24
    width: int = 96
    layers: int = 2
    heads: int = 4


class Layer(nn.Module):
    """Pre-norm self-attention and a gelu feed-forward; padding is not attended to."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm1(x)), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(rearrange(attended, "b h n d -> b n (h d)"))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class TextEncoder(nn.Module):
    """Ids `[b, n]` (n <= length, 0 is padding) -> features `[b, n, width]` and a pooled vector `[b, width]`.

    Features of padding are exactly zero, so they carry nothing into whatever reads them; pooled is their mean over the
    words that are there.
    """

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.config = config
        self.tokens = _embedding(config.vocabulary_size, config.width)
        # Small, or positions drown the words and a word is read well only where it stood in training.
        self.positions = _embedding(config.length, config.width, std=0.02)
        self.layers = nn.ModuleList(Layer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        present = ids != PAD
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        # A row of nothing but padding still attends to itself: a softmax over no entries is NaN.
        mask = (present | ~present.any(1, keepdim=True))[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        features = self.norm(x) * present[..., None].to(x.dtype)
        return features, features.sum(1) / present.sum(1, keepdim=True).clamp(min=1).to(x.dtype)


def _embedding(rows: int, width: int, std: float = 1.0) -> nn.Embedding:
    weight = torch.empty(rows, width)
    if not weight.is_meta:  # where models are loaded, drawing numbers for nothing imports all of torch's compiler
        nn.init.normal_(weight, std=std)
    return nn.Embedding.from_pretrained(weight, freeze=False)

"""Vectors that tell the network where it is: noise level, frame, place in the frame, and the prompt as a whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoid(positions: Tensor, dim: int) -> Tensor:
    """`[n]` -> float32 `[n, dim]`: cosines, then sines, of frequencies 10000^(-2i/dim) (Vaswani et al. 1706.03762)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=positions.device) / half)
    angles = positions.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def coordinates(h: int, w: int, like: Tensor) -> Tensor:
    """Pixel centres as channels: `[1, 2, h, w]`, x then y, each in -1..1 (CoordConv, Liu et al. 2018)."""
    y, x = (((torch.arange(n, device=like.device, dtype=torch.float32) + 0.5) * (2 / n) - 1) for n in (h, w))
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)])[None].to(like.dtype)


class TextPool(nn.Module):
    """The prompt as one vector: each learned query averages the tokens it attends to, normalised on its own.

    `[n, tokens, dim]` -> `[n, queries * dim]`. The normalisation is one group per query, so a prompt padded with zero
    tokens (which add to the denominator of the softmax and to nothing else) reads the same as one without, and its
    affine part can hold the standardisation of the features.
    """

    def __init__(self, dim: int, queries: int, *, dtype=None, device=None, operations=nn):
        super().__init__()
        self.scale = dim**-0.5
        self.queries = operations.Linear(dim, queries, bias=False, dtype=dtype, device=device)
        self.norm = operations.GroupNorm(queries, queries * dim, dtype=dtype, device=device)

    def forward(self, context: Tensor) -> Tensor:
        weights = (self.queries(context) * self.scale).softmax(dim=1)  # n tokens queries
        pooled = weights.transpose(1, 2) @ context  # n queries dim
        return self.norm(pooled.flatten(1))

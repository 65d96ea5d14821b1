"""Attention over space and over time, as in ModelScope's text-to-video network (Wang et al. 2308.06571, sec. 3.2).

Tokens are `[n, tokens, c]`. Every attention runs through an injected function `attention(q, k, v, heads)` with
`q` `[n, tokens, heads * d]`, so that a host can choose the kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .hooks import AttentionKind, AttentionSite, Block, UNetHooks
from .pieces import MOST_SEQUENCES, in_pieces
from .temporal_windows import TemporalWindows, WindowedAttention

AttentionFunction = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v per head; `q` `[n, tokens, heads*d]`, `k`, `v` `[n, other, heads*d]` -> like `q`."""
    q, k, v = (rearrange(x, "n l (heads d) -> n heads l d", heads=heads) for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "n heads l d -> n l (heads d)")


class Attention(nn.Module):
    """Multi-head attention: queries from `x`, keys and values from `context`; only the output projection has a bias."""

    def __init__(self, dim: int, context_dim: int, heads: int, head_dim: int, attention: AttentionFunction,
                 factory: dict):  # fmt: skip
        super().__init__()
        operations, where = factory["operations"], {k: factory[k] for k in ("dtype", "device")}
        inner = heads * head_dim
        self.heads, self.head_dim, self.attention = heads, head_dim, attention
        self.to_q = operations.Linear(dim, inner, bias=False, **where)
        self.to_k = operations.Linear(context_dim, inner, bias=False, **where)
        self.to_v = operations.Linear(context_dim, inner, bias=False, **where)
        self.to_out = nn.Sequential(operations.Linear(inner, dim, **where))

    def forward(
        self, x: Tensor, context: Tensor, value: Tensor | None = None, attention: AttentionFunction | None = None
    ) -> Tensor:
        value, attention = context if value is None else value, attention or self.attention
        return self.to_out(attention(self.to_q(x), self.to_k(context), self.to_v(value), self.heads))

    def over(self, kernel: AttentionFunction) -> AttentionFunction:
        """What computes this attention by a host's kernel: the kernel, where nothing is windowed."""
        return kernel


class GEGLU(nn.Module):
    """Half of the features, gated by the exact gelu of the other half (Shazeer 2002.05202)."""

    def __init__(self, dim: int, inner: int, factory: dict):
        super().__init__()
        self.proj = factory["operations"].Linear(dim, 2 * inner, dtype=factory["dtype"], device=factory["device"])

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to `mult` times the width and back."""

    def __init__(self, dim: int, mult: int, factory: dict):
        super().__init__()
        narrow = factory["operations"].Linear(mult * dim, dim, dtype=factory["dtype"], device=factory["device"])
        # The middle entry stands where the checkpoints' dropout was, so that the keys are theirs.
        self.net = nn.Sequential(GEGLU(dim, mult * dim, factory), nn.Identity(), narrow)
        self.widest = 4 * mult * dim
        """Numbers a token at the widest step: both halves, the gate's gelu, and their product."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """x + attn1(norm1 x); x + attn2(norm2 x, context); x + ff(norm3 x). Without a context attn2 is a self-attention."""

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        context_dim: int | None,
        kinds: tuple[AttentionKind, AttentionKind],
        ff_mult: int,
        attention: AttentionFunction,
        factory: dict,
    ):
        super().__init__()
        operations, where = factory["operations"], {k: factory[k] for k in ("dtype", "device")}
        self.kinds = kinds
        self.attn1 = Attention(dim, dim, heads, head_dim, attention, factory)
        self.ff = FeedForward(dim, ff_mult, factory)
        self.attn2 = Attention(dim, context_dim or dim, heads, head_dim, attention, factory)
        self.norm1, self.norm2, self.norm3 = (operations.LayerNorm(dim, **where) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor | None, hooks: UNetHooks, place: tuple[Block, int],
                windows: TemporalWindows | None = None) -> Tensor:  # fmt: skip
        first, second = (AttentionSite(*place, kind) for kind in self.kinds)
        x = hooks.between_attentions(first, self._first(x, hooks, first, windows))
        x = self._second(x, context, hooks, second, windows)
        return in_pieces(self._third, x.flatten(0, 1), self.ff.widest * x.itemsize).unflatten(0, x.shape[:2])

    # Methods of their own, so that what one normalised is not kept while the next runs.
    def _first(self, x: Tensor, hooks: UNetHooks, site: AttentionSite, windows: TemporalWindows | None) -> Tensor:
        normed = self.norm1(x)
        return x + hooks.attention(site, _within(windows, self.attn1), normed, normed)

    def _second(self, x: Tensor, context: Tensor | None, hooks: UNetHooks, site: AttentionSite,
                windows: TemporalWindows | None) -> Tensor:  # fmt: skip
        normed = self.norm2(x)
        if context is None:
            return x + hooks.attention(site, _within(windows, self.attn2), normed, normed)
        # A text shared by all frames of a clip meets the clip's tokens as one long sequence: its keys and values are
        # projected once a clip, not once a frame, and nothing is repeated in memory.
        frames = len(x) // len(context)
        joined = rearrange(normed, "(b f) l c -> b (f l) c", f=frames)
        out = hooks.attention(site, self.attn2, joined, context)
        return x + rearrange(out, "b (f l) c -> (b f) l c", f=frames)

    def _third(self, x: Tensor) -> Tensor:
        return x + self.ff(self.norm3(x))


def _within(windows: TemporalWindows | None, attention: Attention) -> Attention | WindowedAttention:
    return attention if windows is None else WindowedAttention(attention, windows)


class SpatialTransformer(nn.Module):
    """Each frame attends to itself and to the text: `[(b f), c, h, w]` -> same. `context` `[b or b*f, tokens, dim]`."""

    def __init__(self, dim: int, heads: int, head_dim: int, context_dim: int, groups: int, ff_mult: int,
                 attention: AttentionFunction, factory: dict):  # fmt: skip
        super().__init__()
        operations, where = factory["operations"], {k: factory[k] for k in ("dtype", "device")}
        inner = heads * head_dim
        self.norm = operations.GroupNorm(groups, dim, eps=1e-6, **where)
        self.proj_in = operations.Linear(dim, inner, **where)
        block = TransformerBlock(
            inner, heads, head_dim, context_dim, ("spatial_self", "spatial_cross"), ff_mult, attention, factory
        )
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = operations.Linear(inner, dim, **where)

    def forward(self, x: Tensor, context: Tensor, hooks: UNetHooks, place: tuple[Block, int]) -> Tensor:
        h, w = x.shape[2:]
        tokens = self.proj_in(rearrange(self.norm(x), "n c h w -> n (h w) c"))
        for block in self.transformer_blocks:
            tokens = block(tokens, context, hooks, place)
        return x + rearrange(self.proj_out(tokens), "n (h w) c -> n c h w", h=h, w=w)


class TemporalTransformer(nn.Module):
    """Each pixel attends to itself across the clip, twice, without any notion of order: `[(b f), c, h, w]` -> same.

    The group norm takes its statistics over all frames of a clip, as the original does. With windows a frame attends
    to those that are in a window with it.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, groups: int, ff_mult: int, attention: AttentionFunction,
                 factory: dict):  # fmt: skip
        super().__init__()
        operations, where = factory["operations"], {k: factory[k] for k in ("dtype", "device")}
        inner = heads * head_dim
        self.heads = heads
        self.norm = operations.GroupNorm(groups, dim, eps=1e-6, **where)
        self.proj_in = operations.Linear(dim, inner, **where)
        kinds = ("temporal_first", "temporal_second")
        block = TransformerBlock(inner, heads, head_dim, None, kinds, ff_mult, attention, factory)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = operations.Linear(inner, dim, **where)

    def forward(self, x: Tensor, frames: int, hooks: UNetHooks, place: tuple[Block, int],
                windows: TemporalWindows | None = None) -> Tensor:  # fmt: skip
        h, w = x.shape[2:]
        tokens = self.norm(rearrange(x, "(b f) c h w -> b c f (h w)", f=frames))
        # One copy here: a linear layer on strided tokens falls back to a batched product that costs far more.
        tokens = rearrange(tokens, "b c f l -> (b l) f c").contiguous()

        def run(tokens: Tensor) -> Tensor:
            tokens = self.proj_in(tokens)
            for block in self.transformer_blocks:
                tokens = block(tokens, None, hooks, place, windows)
            return self.proj_out(tokens)

        # From here on a pixel has nothing to do with another.
        widest, most_rows = self.transformer_blocks[0].ff.widest, MOST_SEQUENCES // self.heads
        if windows is not None:
            widest = max(widest, int(windows.widest * self.proj_in.out_features))
            most_rows = max(1, most_rows // len(windows.index))
        change = in_pieces(run, tokens, frames * widest * x.itemsize, most_rows)
        change = rearrange(change, "(b h w) f c -> (b f) c h w", h=h, w=w)
        return x + hooks.temporal("attention", change, frames)

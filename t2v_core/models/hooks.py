"""Where a host may reach into a UNet3D forward pass, without the network knowing any host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import T2VError

Block = Literal["input", "middle", "output"]
AttentionKind = Literal["spatial_self", "spatial_cross", "temporal_first", "temporal_second"]
TemporalKind = Literal["attention", "convolution"]


@dataclass(frozen=True)
class AttentionSite:
    """Which attention of the network is about to run: the block that holds it and its place inside."""

    block: Block
    index: int
    kind: AttentionKind


class UNetHooks:
    """Every method is called at a fixed place of `UNet3D.forward`; this base class changes nothing.

    `h` and `skip` are `[(b f), c, h, w]`, so residuals and patches made for image UNets fit. Raising from any method
    ends the forward pass, which is how a host cancels within one block.
    """

    @property
    def inside(self) -> bool:
        """Whether a method that is called inside a part of a block may change something: the three last ones here."""
        inner = ("attention", "between_attentions", "temporal")
        return any(getattr(type(self), name) is not getattr(UNetHooks, name) for name in inner)

    def enter(self, block: Block, index: int) -> None:
        """Before a block runs: input blocks count from 0 (conv_in), there is one middle block, outputs count from 0."""

    def conv_in(self, h: Tensor) -> Tensor:
        """After the first convolution, before the temporal transformer that follows it."""
        return h

    def input_block(self, index: int, h: Tensor) -> tuple[Tensor, Tensor]:
        """After input block `index`: what goes on, and what is kept as the skip connection."""
        return h, h

    def middle_block(self, h: Tensor) -> Tensor:
        """After the middle block."""
        return h

    def output_block(self, index: int, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Before output block `index` joins `h` and its `skip`."""
        return h, skip

    def attention(self, site: AttentionSite, attend: Callable[..., Tensor], x: Tensor, context: Tensor) -> Tensor:
        """In place of one attention: `attend(x, context, value=None)` computes it, tokens `[n, tokens, c]`.

        `attend` is the network's `Attention` module (`to_q`, `to_k`, `to_v`, `to_out`, `heads`), for patches that need
        the projections one by one, or that within windows. `attend.over(kernel)` is what takes the place of the kernel.
        """
        return attend(x, context)

    def between_attentions(self, site: AttentionSite, x: Tensor) -> Tensor:
        """After a transformer block added its first attention (`site`) to its input, before its second."""
        return x

    def temporal(self, kind: TemporalKind, change: Tensor, frames: int) -> Tensor:
        """What a temporal transformer ("attention") or a temporal convolution is about to add to its input.

        `change` `[(b f), c, h, w]`, `frames` of them a clip.
        """
        return change


NO_HOOKS = UNetHooks()


class TemporalScale(UNetHooks):
    """Scales, frame by frame, what the temporal parts add: x + s (temporal(x) - x), with s 1 as trained.

    attention, convolution: one factor a frame of the clip, or one for each frame of all clips of a batch in turn;
    None is 1 everywhere. Raises T2VError when there are other numbers of frames.
    """

    def __init__(self, attention: Sequence[float] | None, convolution: Sequence[float] | None):
        self._factors = {"attention": attention, "convolution": convolution}

    def temporal(self, kind: TemporalKind, change: Tensor, frames: int) -> Tensor:
        factors = self._factors[kind]
        if factors is None:
            return change
        if len(factors) not in (frames, len(change)):
            raise T2VError(f"temporal {kind} strengths are for {len(factors)} frames and the clip has {frames}")
        factors = torch.tensor(factors, dtype=torch.float32).to(change)
        return change * factors.repeat(len(change) // len(factors))[:, None, None, None]

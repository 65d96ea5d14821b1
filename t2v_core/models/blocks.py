"""Convolutional parts of UNet3D: a residual block per frame, a convolution across frames, and changes of size."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .hooks import NO_HOOKS, UNetHooks
from .temporal_windows import TemporalWindows, closed


class TemporalConv(nn.Module):
    """Four rounds of norm, silu and a 3-tap convolution over frames, added to the input: `[(b f), c, h, w]` -> same.

    Zero padding in time, unless windows say that the clip is a loop; statistics over all frames. The convolution is 2D,
    3 frames by 1 place, on the view `[b, c, f, h*w]`: the same sums as a (3, 1, 1) Conv3d, faster on CPUs, and it
    exists on devices without Conv3d.
    """

    def __init__(self, dim: int, groups: int, factory: dict):
        super().__init__()
        operations, where = factory["operations"], {k: factory[k] for k in ("dtype", "device")}

        def layer(dropout: bool) -> nn.Sequential:
            # The identity stands where the checkpoints' dropout was, so that the keys are theirs.
            silu = nn.SiLU(inplace=True)  # on what the norm has just made
            between = [silu, nn.Identity()] if dropout else [silu]
            conv = operations.Conv2d(dim, dim, (3, 1), padding=(1, 0), **where)
            return nn.Sequential(operations.GroupNorm(groups, dim, **where), *between, conv)

        self.conv1, self.conv2, self.conv3, self.conv4 = (layer(dropout) for dropout in (False, True, True, True))

    def forward(self, x: Tensor, frames: int, hooks: UNetHooks = NO_HOOKS,
                windows: TemporalWindows | None = None) -> Tensor:  # fmt: skip
        h, w = x.shape[2:]
        looped = windows is not None and windows.looped
        out = rearrange(x, "(b f) c h w -> b c f (h w)", f=frames)
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            out = closed(layer[-1], layer[:-1](out)) if looped else layer(out)
        out = rearrange(out, "b c f (h w) -> (b f) c h w", h=h, w=w)
        return x + hooks.temporal("convolution", out, frames)


class ResBlock(nn.Module):
    """Two 3x3 convolutions per frame, told the noise level in between, then `TemporalConv`: `[(b f), in, h, w]` -> out.

    `emb` is `[b, 1 or f, time_dim]`: added between the convolutions, or, with `scale_shift`, the gain and offset of the
    second norm (Dhariwal & Nichol 2105.05233, app. A), which may differ from frame to frame.
    """

    def __init__(self, dim_in: int, dim_out: int, time_dim: int, groups: int, scale_shift: bool, factory: dict):
        super().__init__()
        operations, where = factory["operations"], {k: factory[k] for k in ("dtype", "device")}
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(
            operations.GroupNorm(groups, dim_in, **where),
            nn.SiLU(inplace=True),
            operations.Conv2d(dim_in, dim_out, 3, padding=1, **where),
        )
        embedded = 2 * dim_out if scale_shift else dim_out
        self.emb_layers = nn.Sequential(nn.SiLU(), operations.Linear(time_dim, embedded, **where))
        self.out_layers = nn.Sequential(
            operations.GroupNorm(groups, dim_out, **where),
            nn.SiLU(inplace=True),
            nn.Identity(),
            operations.Conv2d(dim_out, dim_out, 3, padding=1, **where),
        )
        same = dim_in == dim_out
        self.skip_connection = nn.Identity() if same else operations.Conv2d(dim_in, dim_out, 1, **where)
        self.temporal_conv = TemporalConv(dim_out, groups, factory)

    def forward(self, x: Tensor, emb: Tensor, frames: int, hooks: UNetHooks = NO_HOOKS,
                windows: TemporalWindows | None = None) -> Tensor:  # fmt: skip
        h = self.in_layers(x)
        told = self.emb_layers(emb)  # b (1 or f) c
        told = told.expand(-1, frames, -1).flatten(0, 1)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            h = self.out_layers[1:](h)
        else:
            h = self.out_layers(h + told)
        h = self.skip_connection(x) + h
        return self.temporal_conv(h, frames, hooks, windows)


class Downsample(nn.Module):
    """Half the size, rounded up, by a strided 3x3 convolution."""

    def __init__(self, dim: int, factory: dict):
        super().__init__()
        where = {k: factory[k] for k in ("dtype", "device")}
        self.op = factory["operations"].Conv2d(dim, dim, 3, stride=2, padding=1, **where)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """To exactly `size` by nearest neighbour, then a 3x3 convolution; odd sizes get back what they were."""

    def __init__(self, dim: int, factory: dict):
        super().__init__()
        where = {k: factory[k] for k in ("dtype", "device")}
        self.conv = factory["operations"].Conv2d(dim, dim, 3, padding=1, **where)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))

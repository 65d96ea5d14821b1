"""UNet3D: ModelScope's text-to-video denoiser (Wang et al. 2308.06571), on clips `[b, c, f, h, w]`.

An image UNet whose every residual block is followed by a convolution over frames and whose every spatial transformer
is followed by one over time. Parameter names are those of the original checkpoints, so loading one is a rename of a
single misspelt word and a reshape of the kernels over frames; every size is a field of `UNet3DConfig`. What
VideoCrafter2 and the bundled model add is a field too, off by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import T2VError
from .blocks import Downsample, ResBlock, Upsample
from .compiled import CompiledParts
from .embeddings import TextPool, coordinates, sinusoid
from .hooks import NO_HOOKS, Block, UNetHooks
from .temporal_windows import TemporalWindows
from .transformers import AttentionFunction, SpatialTransformer, TemporalTransformer, scaled_dot_product_attention


@dataclass(frozen=True)
class UNet3DConfig:
    """Sizes of `UNet3D`. The defaults are text-to-video-ms-1.7b, zeroscope v2 and potat1 (1.41 G parameters)."""

    in_channels: int = 4
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels of each level, finest first."""
    attention: tuple[bool, ...] = (True, True, True, False)
    """Which levels have spatial and temporal transformers; the middle block always has."""
    blocks_per_level: int = 2
    context_dim: int = 1024
    """Features of a text token."""
    head_dim: int = 64
    input_heads: int = 8
    """Heads of the temporal transformer right after the first convolution; its width is `input_heads * head_dim`."""
    norm_groups: int = 32
    ff_mult: int = 4
    fps_embedding: bool = False
    """VideoCrafter2: the frame rate is an input, embedded like the timestep."""
    text_queries: int = 0
    """Bundled model: this many learned queries pool the text, which then reaches every residual block; 0 is off."""
    scale_shift: bool = False
    """Bundled model: embeddings act as gain and offset of the residual blocks' second norm, frame by frame."""
    frame_position: bool = False
    """Bundled model: each frame knows its index."""
    coordinates: bool = False
    """Bundled model: two more input channels say where in the frame a pixel is."""
    embedding_dim: int = 0
    """Features of the embedding that says noise level, text and frame; 0 is four times the first width."""

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.attention) or not self.widths:
            raise T2VError(f"UNet3D: {len(self.widths)} widths need as many attention flags, got {len(self.attention)}")
        if self.widths[0] % 2:
            raise T2VError(f"UNet3D: the first width, {self.widths[0]}, must be even, for pairs of sine and cosine")
        for name in ("blocks_per_level", "head_dim", "input_heads", "norm_groups", "ff_mult"):
            if getattr(self, name) < 1:
                raise T2VError(f"UNet3D: {name} is {getattr(self, name)}, and should be at least 1")
        for width in self.widths:
            if width % self.norm_groups:
                raise T2VError(f"UNet3D: width {width} is not divisible into {self.norm_groups} norm groups")
            if width % self.head_dim:
                raise T2VError(f"UNet3D: width {width} is not divisible into heads of {self.head_dim}")

    @property
    def time_dim(self) -> int:
        return self.embedding_dim or 4 * self.widths[0]


class UNet3D(nn.Module):
    """Predict noise (or velocity) of a noisy clip.

    `forward(x, timesteps, context, *, fps=None, hooks=None, compiled=None, windows=None)`:

    - `x` `[b, in_channels, f, h, w]`, any f, h, w >= 1;
    - `timesteps` `[b]`, the model's index 0..999, fractions allowed;
    - `context` text features, `[b, tokens, context_dim]` for the whole clip or `[b*f, tokens, context_dim]` per frame;
    - `fps` `[b]` frames a second, only with `fps_embedding`;
    - `hooks` a `UNetHooks`;
    - `compiled` a `CompiledParts`, by which parts are called into which no hook reaches;
    - `windows` a `TemporalWindows` of f frames: attention over time reaches no further than they do;

    returns `[b, out_channels, f, h, w]`. Raises `T2VError` when shapes do not fit together.

    `operations` supplies Linear, Conv2d, GroupNorm and LayerNorm (default `torch.nn`), `attention` the kernel
    `(q, k, v, heads)`.
    """

    def __init__(
        self,
        config: UNet3DConfig = UNet3DConfig(),  # noqa: B008 (frozen)
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations=nn,
        attention: AttentionFunction = scaled_dot_product_attention,
    ):
        super().__init__()
        self.config = config
        factory = {"dtype": dtype, "device": device, "operations": operations}
        where = {"dtype": dtype, "device": device}
        widths, time_dim, groups = config.widths, config.time_dim, config.norm_groups

        def embedding(size: int) -> nn.Sequential:
            return nn.Sequential(
                operations.Linear(size, time_dim, **where), nn.SiLU(), operations.Linear(time_dim, time_dim, **where)
            )

        def residual(dim_in: int, dim_out: int) -> ResBlock:
            return ResBlock(dim_in, dim_out, time_dim, groups, config.scale_shift, factory)

        def transformers(dim: int) -> list[nn.Module]:
            heads, size = dim // config.head_dim, config.head_dim
            return [
                SpatialTransformer(dim, heads, size, config.context_dim, groups, config.ff_mult, attention, factory),
                TemporalTransformer(dim, heads, size, groups, config.ff_mult, attention, factory),
            ]

        self.time_embed = embedding(widths[0])
        if config.fps_embedding:
            self.fps_embedding = embedding(widths[0])
        if config.text_queries:
            self.text_pool = TextPool(config.context_dim, config.text_queries, **factory)
            self.text_embed = operations.Linear(config.text_queries * config.context_dim, time_dim, **where)
        if config.frame_position:
            self.frame_embed = operations.Linear(widths[0], time_dim, **where)

        conv_in = operations.Conv2d(config.in_channels + 2 * config.coordinates, widths[0], 3, padding=1, **where)
        first = TemporalTransformer(
            widths[0], config.input_heads, config.head_dim, groups, config.ff_mult, attention, factory
        )
        self.input_blocks = nn.ModuleList([nn.ModuleList([conv_in, first])])
        skips = [widths[0]]
        dim = widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.blocks_per_level):
                parts = [residual(dim, width), *(transformers(width) if config.attention[level] else [])]
                self.input_blocks.append(nn.ModuleList(parts))
                skips.append(width)
                dim = width
            if level + 1 < len(widths):
                self.input_blocks.append(Downsample(dim, factory))
                skips.append(dim)

        self.middle_block = nn.ModuleList([residual(dim, dim), *transformers(dim), residual(dim, dim)])

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for block in range(config.blocks_per_level + 1):
                parts = [residual(dim + skips.pop(), width), *(transformers(width) if config.attention[level] else [])]
                if level and block == config.blocks_per_level:
                    parts.append(Upsample(width, factory))
                self.output_blocks.append(nn.ModuleList(parts))
                dim = width

        self.out = nn.Sequential(
            operations.GroupNorm(groups, dim, **where),
            nn.SiLU(),
            operations.Conv2d(dim, config.out_channels, 3, padding=1, **where),
        )

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        *,
        fps: Tensor | None = None,
        hooks: UNetHooks | None = None,
        compiled: CompiledParts | None = None,
        windows: TemporalWindows | None = None,
    ) -> Tensor:
        self._check(x, timesteps, context, fps, windows)
        hooks = hooks or NO_HOOKS
        frames, size = x.shape[2], x.shape[3:]
        windows = None if windows is None else windows.to(x.device)
        positions = torch.arange(frames, device=x.device) if windows is None else windows.positions
        emb = self._embed(timesteps, context, fps, positions, x.dtype)
        h = rearrange(x, "b c f h w -> (b f) c h w")
        if self.config.coordinates:
            h = torch.cat([h, coordinates(*size, like=h).expand(len(h), -1, -1, -1)], dim=1)
        if h.device.type == "cpu":
            # Physically [b, f, h, w, c]: frames, pixels and tokens are then views of one memory. On CUDA the native
            # group norm would undo it at every call.
            h = h.contiguous(memory_format=torch.channels_last)

        one_pass = _Pass(emb, context, frames, hooks, None if hooks.inside else compiled, windows)
        skips = []
        for index, block in enumerate(self.input_blocks):
            hooks.enter("input", index)
            if index == 0:
                conv_in, transformer_in = block
                h = hooks.conv_in(conv_in(h))
                h = one_pass.run(transformer_in, h, ("input", 0))
            else:
                for part in [block] if isinstance(block, Downsample) else block:
                    h = one_pass.run(part, h, ("input", index))
            h, skip = hooks.input_block(index, h)
            skips.append(skip)

        hooks.enter("middle", 0)
        for part in self.middle_block:
            h = one_pass.run(part, h, ("middle", 0))
        h = hooks.middle_block(h)

        for index, block in enumerate(self.output_blocks):
            hooks.enter("output", index)
            h = torch.cat(hooks.output_block(index, h, skips.pop()), dim=1)  # and neither part is kept
            upsampled = skips[-1].shape[2:] if skips else None
            for part in block:
                h = one_pass.run(part, h, ("output", index), upsampled)
        return rearrange(self.out(h), "(b f) c h w -> b c f h w", f=frames)

    def _embed(self, timesteps: Tensor, context: Tensor, fps: Tensor | None, positions: Tensor,
               dtype: torch.dtype) -> Tensor:  # fmt: skip
        """Everything the residual blocks are told, `[b, 1 or f, time_dim]`."""
        width = self.config.widths[0]
        emb = self.time_embed(sinusoid(timesteps, width).to(dtype))
        if fps is not None:
            emb = emb + self.fps_embedding(sinusoid(fps, width).to(dtype))
        emb = emb[:, None]  # b 1 c
        if self.config.text_queries:
            emb = emb + rearrange(self.text_embed(self.text_pool(context)), "(b n) c -> b n c", b=len(emb))
        if self.config.frame_position:
            emb = emb + self.frame_embed(sinusoid(positions, width).to(dtype))  # broadcasts to b f c
        return emb

    def _check(self, x: Tensor, timesteps: Tensor, context: Tensor, fps: Tensor | None,
               windows: TemporalWindows | None) -> None:  # fmt: skip
        config = self.config
        if x.ndim != 5 or x.shape[1] != config.in_channels or 0 in x.shape:
            raise T2VError(f"UNet3D: x is [b, {config.in_channels}, f, h, w] and not empty, got {list(x.shape)}")
        clips, frames = x.shape[0], x.shape[2]
        if timesteps.shape != (clips,):
            raise T2VError(f"UNet3D: {clips} clips need timesteps [{clips}], got {list(timesteps.shape)}")
        if context.ndim != 3 or context.shape[2] != config.context_dim:
            raise T2VError(
                f"UNet3D: this model reads text features [n, tokens, {config.context_dim}], got {list(context.shape)}: "
                "the text encoder belongs to another model"
            )
        if context.shape[0] not in (clips, clips * frames):
            raise T2VError(
                f"UNet3D: text for {context.shape[0]} rows, but {clips} clips of {frames} frames need "
                f"{clips} (one a clip) or {clips * frames} (one a frame)"
            )
        if (fps is not None) != config.fps_embedding:
            raise T2VError(f"UNet3D: this model {'needs' if config.fps_embedding else 'takes no'} fps")
        if windows is not None and windows.frames != frames:
            raise T2VError(f"UNet3D: the windows are of {windows.frames} frames and the clips have {frames}")

    @torch.no_grad()
    def zero_initialise(self) -> None:
        """Before training: each residual branch starts silent (last layers zero), as the original does."""
        for module in self.modules():
            if isinstance(module, ResBlock):
                last = [module.out_layers[3], module.temporal_conv.conv4[-1]]
            elif isinstance(module, (SpatialTransformer, TemporalTransformer)):
                last = [module.proj_out]
            else:
                last = [self.out[2]] if module is self else []
            for layer in last:
                layer.weight.zero_()
                layer.bias.zero_()


class _Pass(NamedTuple):
    """What the parts of one forward pass are given beside what the part before made."""

    emb: Tensor
    context: Tensor
    frames: int
    hooks: UNetHooks
    compiled: CompiledParts | None
    windows: TemporalWindows | None

    def run(self, part: nn.Module, h: Tensor, place: tuple[Block, int], size: tuple[int, int] | None = None) -> Tensor:
        """One part of a block, given what its kind takes; size: of what an `Upsample` makes."""
        call, hooks = _call, self.hooks
        if self.compiled is not None:
            call, hooks, place = self.compiled, NO_HOOKS, ("middle", 0)  # one place, or each were compiled anew
        if isinstance(part, ResBlock):
            return call(part, h, self.emb, self.frames, hooks, self.windows)
        if isinstance(part, SpatialTransformer):
            return call(part, h, self.context, hooks, place)
        if isinstance(part, TemporalTransformer):
            return call(part, h, self.frames, hooks, place, self.windows)
        return part(h, size) if isinstance(part, Upsample) else part(h)


def _call(part: nn.Module, *arguments: Any) -> Tensor:
    return part(*arguments)

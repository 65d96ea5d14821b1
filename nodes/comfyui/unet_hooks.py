"""ControlNet residuals and the patches of ComfyUI's nodes, landed at their places in UNet3D.

The places, names and arguments are those of ComfyUI's own UNet, so that a node made for Stable Diffusion (FreeU, PAG,
SAG, ToMe, HyperTile, Deep Shrink, an attention replacement) works unchanged. Patches of attentions reach the spatial
ones only: what was made for tokens of one picture means nothing along time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import comfy.model_management
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import apply_control
from torch import Tensor

from ...t2v_core.diffusion import TemporalStrength
from ...t2v_core.models.hooks import AttentionSite, Block, TemporalKind, TemporalScale, UNetHooks

PATCHED = {"spatial_self": "attn1", "spatial_cross": "attn2"}
# Scores are computed in single precision where the kernel can: in half they overflow in networks of this family.
PRECISION = torch.float32
TEMPORAL = "t2v_temporal_strength"
"""Key in transformer_options: the `TemporalStrength` of a model that has one."""
OVERRIDE = "optimized_attention_override"
"""Key in transformer_options: another node's kernel, in place of ComfyUI's."""


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """ComfyUI's kernel, as its command line chose it, told nothing."""
    return optimized_attention(q, k, v, heads, attn_precision=PRECISION)


def _scale(temporal: TemporalStrength | None, frames: int, texts: int) -> TemporalScale | None:
    """The strength of each frame of a call, which holds the same frames for each text: a clip's or windows'."""
    if temporal is None:
        return None
    temporal.check(frames // texts)
    rows = (None if row is None else row * texts for row in (temporal.attention, temporal.convolution))
    return TemporalScale(*rows)


class ComfyHooks(UNetHooks):
    """One call's hooks.

    control: residuals by place, lists that are consumed from the end; or None.
    options: the call's transformer_options; left as they are.
    x: the call's input `[(b f), c, h, w]`.
    """

    def __init__(self, control: dict | None, options: dict, x: Tensor):
        self.control = control
        self.patches = options.get("patches", {})
        self.replacements = options.get("patches_replace", {})
        self.scale = _scale(options.get(TEMPORAL), len(x), len(options.get("cond_or_uncond", [0])))
        # What patches and kernels are told. Spatial transformers are counted from 0; each has one block, of index 0.
        self.options = {**options, "original_shape": list(x.shape), "transformer_index": -1, "block_index": 0}
        self.patches_text_attention = bool(self.replacements.get("attn2")) or any(
            self.patches.get(name) for name in ("attn2_patch", "attn2_output_patch")
        )

    @property
    def inside(self) -> bool:
        kinds = ("attn1_patch", "attn1_output_patch", "attn2_patch", "attn2_output_patch", "middle_patch")
        patched = any(self.patches.get(kind) for kind in kinds) or any(self.replacements.values())
        return patched or self.scale is not None or OVERRIDE in self.options

    def enter(self, block: Block, index: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.options["block"] = (block, index)

    def input_block(self, index: int, h: Tensor) -> tuple[Tensor, Tensor]:
        h = apply_control(h, self.control, "input")
        h = skip = self._patched("input_block_patch", h)
        return self._patched("input_block_patch_after_skip", h), skip

    def middle_block(self, h: Tensor) -> Tensor:
        return apply_control(h, self.control, "middle")

    def output_block(self, index: int, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        skip = apply_control(skip, self.control, "output")
        for patch in self.patches.get("output_block_patch", ()):
            h, skip = patch(h, skip, self.options)
        return h, skip

    def attention(self, site: AttentionSite, attend: Callable[..., Tensor], x: Tensor, context: Tensor) -> Tensor:
        name = PATCHED.get(site.kind)
        if name is None:
            return self._attend(attend, x, context, context)
        if name == "attn1":
            self.options["transformer_index"] += 1
        told = self._told(attend)
        value = context
        for patch in self.patches.get(f"{name}_patch", ()):
            x, context, value = patch(x, context, value, told)
        replacement = self._replacement(name, site)
        if replacement is None:
            out = self._attend(attend, x, context, value)
        else:
            out = attend.to_out(replacement(attend.to_q(x), attend.to_k(context), attend.to_v(value), told))
        return self._patched(f"{name}_output_patch", out, told)

    def between_attentions(self, site: AttentionSite, x: Tensor) -> Tensor:
        if site.kind not in PATCHED or "middle_patch" not in self.patches:
            return x
        return self._patched("middle_patch", x, self.options)

    def temporal(self, kind: TemporalKind, change: Tensor, frames: int) -> Tensor:
        return change if self.scale is None else self.scale.temporal(kind, change, frames)

    def _patched(self, name: str, h: Tensor, told: dict | None = None) -> Tensor:
        for patch in self.patches.get(name, ()):
            h = patch(h, self.options if told is None else told)
        return h

    def _replacement(self, name: str, site: AttentionSite) -> Callable[..., Tensor] | None:
        table = self.replacements.get(name, {})
        return table.get((site.block, site.index, 0), table.get((site.block, site.index)))

    def _told(self, attend: Callable[..., Tensor]) -> dict:
        """What a patch of an attention is told beside the tensors."""
        hidden = ("patches", "patches_replace")
        told = {key: value for key, value in self.options.items() if key not in hidden}
        return {**told, "n_heads": attend.heads, "dim_head": attend.head_dim, "attn_precision": PRECISION}

    def _attend(self, attend: Callable[..., Tensor], x: Tensor, context: Tensor, value: Tensor) -> Tensor:
        q, k, v = attend.to_q(x), attend.to_k(context), attend.to_v(value)
        kernel = partial(optimized_attention, attn_precision=PRECISION, transformer_options=self.options)
        return attend.to_out(attend.over(kernel)(q, k, v, attend.heads))

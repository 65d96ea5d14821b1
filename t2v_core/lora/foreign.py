"""What a file seems to be that is no LoRA, or one for another kind of model; so that the error can say it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..checkpoints.keymap import first_ten
from ..checkpoints.load import LAYOUTS
from ..checkpoints.recognise import foreign

# Marks in the names of modules, a newline before each, and the model they belong to. The first found decides.
MARKS = (
    (("motion_modules",), "an AnimateDiff motion LoRA; load it with AnimateDiff nodes"),
    (("lora_te2_", "text_encoder_2.", "label_emb", "add_embedding"), "a LoRA for Stable Diffusion XL"),
    (("double_blocks", "single_blocks", "single_transformer_blocks", "joint_blocks"), "a LoRA for Flux or SD3"),
    (("double_stream", "single_stream"), "a LoRA for an image or video transformer"),
    (
        ("\nblocks.", "lora_unet_blocks_", "model.blocks.", "transformer.blocks."),
        "a LoRA for a video transformer",
    ),
    (("prior_unet",), "a LoRA for Stable Cascade"),
)
TEMPORAL = ("temp_conv", "temp_attentions", "transformer_in", "temopral_conv", "temporal_conv")
# Width of the text that a network's cross-attention reads.
TEXT_WIDTHS = {
    768: "a LoRA for Stable Diffusion 1.x, which makes images",
    1024: "a LoRA for Stable Diffusion 2.x, which makes images",
    2048: "a LoRA for Stable Diffusion XL, which makes images",
}


def no_lora(keys: Collection[str]) -> str:
    """The message for a file that has no pair of matrices in it."""
    if any(mark in key for key in keys for mark in (".hada_w", ".lokr_w", ".oft_", ".boft_", ".glora_")):
        return "a LyCORIS file of another kind than LoRA (LoHa, LoKr or the like), which is not read here"
    if any(layout.detect(keys) for layout in LAYOUTS.values()):
        return "a whole text-to-video model and no LoRA; load it with T2V Load Model"
    if kind := foreign(keys):
        return f"no LoRA: {kind}"
    return f"no LoRA in a format known here; its keys are {first_ten(sorted(keys))}"


def made_for(pairs: Iterable[tuple[str, int]]) -> str | None:
    """What a LoRA with these modules, pairs of a name and the width it reads, was made for, if not for a model here."""
    pairs = list(pairs)
    joined = "".join(f"\n{name}" for name, _ in pairs)
    for marks, kind in MARKS:
        if any(mark in joined for mark in marks):
            return kind
    if any(mark in joined for mark in TEMPORAL):
        return None
    ends = ("attn2.to_k", "attn2.to_v", "attn2_to_k", "attn2_to_v", "attn2.processor.to_k", "attn2.processor.to_v")
    widths = {width for name, width in pairs if name.endswith(ends)}
    return next((kind for width, kind in TEXT_WIDTHS.items() if width in widths), None)

"""What a file is that holds no text-to-video UNet, by the keys that give it away, so that the error can say it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from .keymap import first_ten

WANTED = (
    "A text-to-video UNet is wanted: ModelScope's, zeroscope v2's, potat1's or the like, in the original layout "
    "(text2video_pytorch_model.pth) or in that of diffusers (unet/diffusion_pytorch_model.safetensors)."
)


@dataclass(frozen=True)
class Kind:
    """A kind of file: some key holds one of `any_of`, and none holds one of `none_of`; a newline is a key's border."""

    name: str
    any_of: tuple[str, ...]
    none_of: tuple[str, ...] = ()
    advice: str = WANTED


# The first that fits is named, so what is part of other things stands below them.
KINDS = (
    Kind(
        "a LyCORIS file of another kind than LoRA (LoHa, LoKr or the like), which is not read here",
        (".hada_w1", ".lokr_w1"),
    ),
    Kind(
        "a LoRA, a small change to a model",
        (".lora_", "_lora.", ".lora.", "lora_unet_", "lora_te", "\nunet:0:", "\ntext_encoder:0:"),
        advice="Load the model it was made for, and the LoRA on top of it with T2V Load LoRA.",
    ),
    Kind(
        "an AnimateDiff motion module, a part to be added to an image model",
        (".motion_modules.",),
        none_of=("\nconv_in.",),
        advice=f"Load it with AnimateDiff nodes and a Stable Diffusion checkpoint. {WANTED}",
    ),
    Kind("an I2VGen-XL model, which is not supported", ("local_image_concat.", "image_latents_proj_in.")),
    Kind(
        "a VideoCrafter or DynamiCrafter model that starts from an image, which is not supported",
        (".to_k_ip.", "\nimage_proj_model."),
    ),
    Kind(
        "a VideoCrafter1 model, which is not supported; VideoCrafter2's is",
        ("\ninit_attn.0.", "diffusion_model.init_attn.0.", ".relative_position_k."),
        none_of=(".temopral_conv.",),
    ),
    Kind("a Stable Video Diffusion model, which is not supported", (".time_stack.", ".temporal_transformer_blocks.")),
    Kind(
        "a Stable Diffusion XL model, which makes images",
        ("\nconditioner.embedders.1.", "diffusion_model.label_emb.", "\nadd_embedding.linear_1."),
        advice=f"Load it with Load Checkpoint. {WANTED}",
    ),
    Kind(
        "a ControlNet",
        ("control_model.", "\ninput_hint_block.", "\ncontrolnet_cond_embedding.", "\ncontrolnet_down_blocks."),
    ),
    Kind(
        "an image transformer such as Flux or Stable Diffusion 3",
        ("\ndouble_blocks.", "diffusion_model.double_blocks.", "\njoint_blocks.", "diffusion_model.joint_blocks."),
    ),
    Kind(
        "a Stable Diffusion model, which makes images",
        ("input_blocks.1.1.transformer_blocks.", "\ndown_blocks.0.attentions.0.transformer_blocks."),
        none_of=(".temopral_conv.", ".temporal_conv.", ".temp_convs.", "\ntransformer_in."),
        advice=f"Load it with Load Checkpoint. {WANTED}",
    ),
    Kind(
        "a VAE, which turns latents into images",
        ("\nfirst_stage_model.decoder.", "\ndecoder.conv_in.", "\ndecoder.up_blocks.", "\nencoder.conv_in."),
        none_of=("\nmodel.diffusion_model.",),
        advice=f"Load it with Load VAE. {WANTED}",
    ),
    Kind(
        "a text encoder",
        ("text_model.encoder.", "\ntransformer.resblocks.", "\ntoken_embedding.", "\nencoder.block.0."),
        none_of=("\nmodel.diffusion_model.",),
        advice=f"Load it with Load CLIP. {WANTED}",
    ),
    Kind("an embedding (textual inversion)", ("\nemb_params\n", "\nstring_to_param", "\nclip_g\n")),
)


def foreign(keys: Collection[str]) -> str | None:
    """What a file with these keys is and what to do, if it is one of `KINDS`."""
    joined = "\n" + "\n".join(keys) + "\n"
    for kind in KINDS:
        if any(mark in joined for mark in kind.any_of) and not any(mark in joined for mark in kind.none_of):
            return f"this is {kind.name}. {kind.advice}"
    return None


def unknown(keys: Collection[str]) -> str:
    """The message for a file that is nothing known here."""
    return f"not a text-to-video UNet in a layout known here; its keys are {first_ten(sorted(keys))}. {WANTED}"

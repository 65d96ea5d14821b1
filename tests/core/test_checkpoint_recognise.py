"""Files of other kinds in place of a text-to-video model: the message says what each is and where it belongs."""

from pathlib import Path

import pytest
import torch
from core import lora_files as write_as
from core.references import diffusers_unet
from safetensors.torch import load_file, save_file

from t2v_core.checkpoints import load_unet
from t2v_core.errors import CheckpointError


def refusal(path: Path) -> str:
    """The message of the error that loading the file gives; it is one line and names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_unet(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 1200
    return message


SD15 = [
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    "model.diffusion_model.out.2.weight",
    "first_stage_model.decoder.conv_in.weight",
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
]
FOREIGN = {
    "a Stable Diffusion model": SD15,
    "a Stable Diffusion model, which makes images. Load it with Load Checkpoint": [
        "conv_in.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    ],
    "a Stable Diffusion XL model": [
        "conditioner.embedders.1.model.ln_final.weight",
        "model.diffusion_model.label_emb.0.0.weight",
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
    ],
    "a LyCORIS file of another kind than LoRA": ["lora_unet_down_blocks_0_attentions_0_proj_in.hada_w1_a"],
    "an AnimateDiff motion module": [
        "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q.weight"
    ],
    "a VAE": ["encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.weight"],
    "a VAE, which turns latents into images. Load it with Load VAE": ["first_stage_model.decoder.conv_in.weight"],
    "a text encoder": ["text_model.encoder.layers.0.mlp.fc1.weight"],
    "a text encoder. Load it with Load CLIP": ["visual.proj", "transformer.resblocks.0.mlp.c_fc.weight"],
    "a ControlNet": ["control_model.input_hint_block.0.weight"],
    "a VideoCrafter1 model, which is not supported; VideoCrafter2's is": [
        "model.diffusion_model.init_attn.0.norm.weight"
    ],
    "a VideoCrafter or DynamiCrafter model that starts from an image": [
        "init_attn.0.norm.weight",
        "x.attn2.to_k_ip.weight",
    ],
    "an I2VGen-XL model": ["transformer_in.norm.weight", "image_latents_proj_in.0.weight"],
    "an image transformer": ["double_blocks.0.img_attn.qkv.weight"],
    "an embedding": ["emb_params"],
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_models_are_named(tmp_path, kind):
    save_file({key: torch.zeros(1) for key in FOREIGN[kind]}, tmp_path / "model.safetensors")
    message = refusal(tmp_path / "model.safetensors")
    assert f"this is {kind}" in message
    torch.save({"state_dict": load_file(tmp_path / "model.safetensors")}, tmp_path / "model.ckpt")
    assert f"this is {kind}" in refusal(tmp_path / "model.ckpt")


def test_image_networks_of_diffusers_are_named(tmp_path):
    """Real key sets of diffusers' own classes, not typed from memory."""
    from diffusers import AutoencoderKL, ControlNetModel, MotionAdapter, UNet2DConditionModel

    xl = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 32}
    small = {"block_out_channels": (8, 16), "norm_num_groups": 4}
    unet = {**small, "cross_attention_dim": 8, "attention_head_dim": 4}
    unet["down_block_types"] = ("CrossAttnDownBlock2D", "DownBlock2D")
    up = {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    vae = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    for network, kind in (
        (UNet2DConditionModel(**unet, **up), "a Stable Diffusion model"),
        (UNet2DConditionModel(**unet, **up, **xl), "a Stable Diffusion XL model, which makes images. Load it"),
        (ControlNetModel(**unet), "a ControlNet"),
        (AutoencoderKL(**small, **vae), "a VAE"),
        (MotionAdapter(block_out_channels=(32, 32), motion_num_attention_heads=2), "an AnimateDiff motion module"),
    ):
        weights = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
        save_file(weights, tmp_path / "model.safetensors")
        assert f"this is {kind}" in refusal(tmp_path / "model.safetensors")


LORAS = {
    "kohya": lambda trained, path: write_as.kohya(trained, path, 2.0),
    "peft": lambda trained, path: write_as.peft(trained, path, 2.0),
    "processors": lambda trained, path: write_as.processors(trained, path, 2.0),
    "stable_lora": write_as.stable,
    "cloneofsimo": lambda trained, path: write_as.numbered_list(trained, path, ["Attention"]),
}


@pytest.mark.parametrize("family", LORAS)
def test_a_lora_is_named_and_sent_to_its_own_loader(tmp_path, family):
    network = diffusers_unet()
    attention = [name for name in write_as.layers(network) if name.endswith(("to_q", "to_out.0"))]
    trained = (write_as.train_stable if family == "stable_lora" else write_as.train)(network, attention, 2)
    message = refusal(LORAS[family](trained, tmp_path / "lora.safetensors"))
    assert "this is a LoRA, a small change to a model. Load the model" in message and "T2V Load LoRA" in message


def test_unknown_network(tmp_path):
    save_file({f"blocks.{index}.weight": torch.zeros(1) for index in range(30)}, tmp_path / "model.safetensors")
    message = refusal(tmp_path / "model.safetensors")
    assert "not a text-to-video UNet in a layout known here" in message and "and 20 more" in message

"""Files that are no text-to-video model, one after another in a real ComfyUI: each is told in one message, and then a
good one is loaded and sampled in the same server."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from core import lora_files
from core.references import diffusers_unet
from prompts import Failed, Graph
from safetensors.torch import load_file, save_file
from table import RANDOM_UNET, Clip, random_core

FOLDER = "wrong"


class Payload:
    """Makes a folder when it is unpickled with code allowed."""

    def __init__(self, made: Path):
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


def image_unet(path: Path, **more) -> None:
    """Stable Diffusion's UNet as diffusers saves it."""
    from diffusers import UNet2DConditionModel

    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 4}
    sizes["down_block_types"] = ("CrossAttnDownBlock2D", "DownBlock2D")
    network = UNet2DConditionModel(**sizes, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **more)
    save_file(network.state_dict(), path)


def xl(path: Path) -> None:
    conditions = {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 32}
    image_unet(path, addition_embed_type="text_time", **conditions)


def motion_module(path: Path) -> None:
    from diffusers import MotionAdapter

    network = MotionAdapter(block_out_channels=(32, 32), motion_num_attention_heads=2)
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, path)


def lora(path: Path) -> None:
    network = diffusers_unet()
    lora_files.kohya(lora_files.train(network, list(lora_files.layers(network))[:20], 2), path, 2.0)


def pipeline_without_unet(path: Path) -> None:
    (path / "vae").mkdir(parents=True)
    (path / "model_index.json").write_text(json.dumps({"_class_name": "TextToVideoSDPipeline"}))
    save_file({"decoder.conv_in.weight": torch.zeros(1)}, path / "vae" / "diffusion_pytorch_model.safetensors")


def ten_missing(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    gone = sorted(weights)[::8][:10]
    return {key: tensor for key, tensor in weights.items() if key not in gone}


def with_nan(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights = {key: tensor.half() for key, tensor in weights.items()}
    weights["out.2.weight"][0, 0, 0, 0] = torch.nan
    return weights


# By the name in T2VLoadModel's list: what is written there, and what is then said and advised.
WRITERS = {
    "sd15.safetensors": (image_unet, "this is a Stable Diffusion model, which makes images. Load it with Load Checkp"),
    "sdxl.safetensors": (xl, "this is a Stable Diffusion XL model, which makes images. Load it with Load Checkpoint"),
    "motion.safetensors": (motion_module, "this is an AnimateDiff motion module.* Load it with AnimateDiff nodes"),
    "lora.safetensors": (lora, "this is a LoRA, .* and the LoRA on top of it with T2V Load LoRA"),
    "text.safetensors": (lambda path: path.write_text("a text\n"), "this is a text file, not weights"),
    "folder": (pipeline_without_unet, "a model's folder in which the UNet is missing. A model's folder has unet/diff"),
}
CHANGES = {
    "missing.safetensors": (
        ten_missing,
        "10 of .* weights are missing: .*; download or copy it again, or take a",
    ),
    "nan.safetensors": (with_nan, "1 weights hold NaN or infinity: out.2.weight.* take another copy"),
}
CUT = "cut short or damaged, no whole .safetensors.* Download or copy it again"
PAYLOAD = "refused, and nothing in it was run.*mkdir.*convert it to .safetensors"


@pytest.fixture(scope="module")
def wrong(comfy) -> Iterator[dict[str, str]]:
    """The wrong files in models/text2video: name to what has to be said of it."""
    random_core(comfy.models)
    whole, folder = comfy.models / "text2video" / RANDOM_UNET, comfy.models / "text2video" / FOLDER
    folder.mkdir(parents=True)
    for name, (write, _) in WRITERS.items():
        write(folder / name)
    for name, (change, _) in CHANGES.items():
        save_file(change(load_file(whole)), folder / name)
    (folder / "cut.safetensors").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    torch.save({"state_dict": Payload(folder / "made")}, folder / "payload.pth")
    says = {name: text for name, (_, text) in {**WRITERS, **CHANGES}.items()}
    yield says | {"cut.safetensors": CUT, "payload.pth": PAYLOAD}
    shutil.rmtree(folder)


def test_each_is_told_in_one_message_and_the_server_lives_on(comfy, wrong):
    assert len(wrong) == 10
    for name, says in wrong.items():
        graph = Graph()
        loader = graph.add("T2VLoadModel", model_name=f"{FOLDER}/{name}", weight_dtype="auto")
        empty = graph.add("T2VEmptyLatent", width=32, height=32, num_frames=0, model=loader)
        graph.add("SaveLatent", samples=empty, filename_prefix="wrong")
        with pytest.raises(Failed) as failed:
            comfy.run(graph)
        message = failed.value.message
        print(message)
        assert failed.value.node_type == "T2VLoadModel" and "\n" not in message
        assert f"{FOLDER}/{name}" in message and re.search(says, message), message
    assert not (comfy.models / "text2video" / FOLDER / "made").exists()
    assert comfy.process.poll() is None and comfy.queued() == []
    good = Clip(RANDOM_UNET)
    (latents,) = good.latents(comfy, good.sample())
    assert latents.isfinite().all() and latents.std() > 0.1

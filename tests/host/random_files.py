"""Weight files of random numbers in the layouts that people have, small because their tensors share their numbers.

Imported, by tests: `write_stock_files`, `write_unet` and `write_lora`. Run by ComfyUI's interpreter,
`python random_files.py COMFYUI MODELS` does the work of `write_stock_files`: names and shapes of the autoencoder and of
Stable Diffusion's UNet are those of ComfyUI's classes.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

# Below the models folder. The text tower's two files hold the same numbers, the second one layer less.
TEXT_OPEN_CLIP = "text_encoders/vit_h_open_clip.bin"
TEXT_DIFFUSERS = "text_encoders/vit_h_diffusers.bin"
VAE = "vae/sd1_vae.pt"
CHECKPOINT = "checkpoints/sd15.ckpt"

# What CLIP's text tower was initialised with (Radford et al. 2103.00020, 2.4). Between norms any moderate size keeps
# activations finite.
STD = 0.02

# OpenCLIP's names and HuggingFace's, of which diffusers and Stable Diffusion's first checkpoints are.
HUGGING_FACE = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding": "embeddings.token_embedding",
    "ln_final": "final_layer_norm",
    "transformer.resblocks": "encoder.layers",
    ".ln_": ".layer_norm",
    ".attn.": ".self_attn.",
    ".c_fc.": ".fc1.",
    ".c_proj.": ".fc2.",
}


def write_stock_files(python: Path, comfyui: Path, models: Path) -> None:
    """Write the text tower, an SD1 autoencoder and an SD1.5 checkpoint into a models folder."""
    subprocess.run([python, __file__, comfyui, models], check=True, timeout=300)


def write_unet(
    unet3d: ModuleType, checkpoints: ModuleType, path: Path, *, context_dim: int = 1024, seed: int = 0
) -> None:
    """Write a UNet3D of two levels in ModelScope's layout; the modules are the pack's."""
    config = unet3d.UNet3DConfig(
        widths=(64, 128), attention=(True, True), blocks_per_level=1, context_dim=context_dim, input_heads=2
    )
    network, generator = unet3d.UNet3D(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            gain = float(parameter.ndim == 1 and name.endswith("weight"))
            parameter.copy_(gain + values * (0.1 if parameter.ndim == 1 else 1 / math.sqrt(parameter[0].numel())))
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save_unet(network, path, overwrite=True)


def write_lora(weights: Mapping[str, Tensor], path: Path, seed: int = 0) -> None:
    """Write a LoRA of rank 2 that changes every matrix and kernel of a diffusion model with these weights by about a
    third."""
    generator, file = torch.Generator().manual_seed(seed), {}
    for name, weight in weights.items():
        if name.endswith(".weight") and weight.ndim > 1:
            key = f"diffusion_model.{name.removesuffix('.weight')}"
            up = torch.randn(weight.shape[0], 2, *[1] * (weight.ndim - 2), generator=generator)
            file[f"{key}.lora_up.weight"] = 0.25 * weight.float().std() * up
            file[f"{key}.lora_down.weight"] = torch.randn(2, *weight.shape[1:], generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(file, path)


class Numbers:
    """Random half-precision numbers that tensors are cut from; torch.save stores them once, however many cut them."""

    def __init__(self, count: int, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.stock = (STD * torch.randn(count, generator=self.generator)).half()

    def cut(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor for a parameter of this name; what multiplies elementwise, in norms, is near 1."""
        size = math.prod(shape)
        start = int(torch.randint(len(self.stock) - size + 1, (), generator=self.generator))
        tensor = self.stock[start : start + size].view(shape)
        return 1 + tensor if len(shape) == 1 and name.endswith("weight") else tensor


def fill(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Random tensors of these names and shapes."""
    numbers = Numbers(max(map(math.prod, shapes.values())), seed)
    return {name: numbers.cut(name, shape) for name, shape in shapes.items()}


def shapes_of(build: Callable[[], nn.Module], prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's parameters. It is built without memory for them."""
    with torch.device("meta"):
        return {prefix + name: parameter.shape for name, parameter in build().named_parameters()}


def text_tower(layers: int, width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of CLIP's text tower as OpenCLIP has them."""
    shapes = {"token_embedding.weight": (49408, width), "positional_embedding": (77, width)}
    shapes["text_projection"] = (width, width)
    for norm in ["ln_final", *(f"transformer.resblocks.{n}.{ln}" for n in range(layers) for ln in ("ln_1", "ln_2"))]:
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for block in (f"transformer.resblocks.{n}" for n in range(layers)):
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        for name, outputs, inputs in (
            ("attn.out_proj", width, width),
            ("mlp.c_fc", 4 * width, width),
            ("mlp.c_proj", width, 4 * width),
        ):
            shapes |= {f"{block}.{name}.weight": (outputs, inputs), f"{block}.{name}.bias": (outputs,)}
    return shapes


def hugging_face(tower: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The first layers of such a tower under HuggingFace's names: queries, keys and values apart, no projection."""
    file = {}
    for name, tensor in tower.items():
        if name == "text_projection" or (".resblocks." in name and int(name.split(".")[2]) >= layers):
            continue
        for theirs, here in HUGGING_FACE.items():
            name = name.replace(theirs, here)
        if "in_proj_" in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                file["text_model." + name.replace("in_proj_", f"{part}_proj.")] = third
        else:
            file["text_model." + name] = tensor
    return file


def autoencoder() -> nn.Module:
    from comfy.ldm.models.autoencoder import AutoencoderKL

    sizes = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
    sizes |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    return AutoencoderKL(ddconfig=sizes, embed_dim=4)


def image_unet() -> nn.Module:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    return UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[2, 2, 2, 2],
        channel_mult=(1, 2, 4, 4),
        num_heads=8,
        use_spatial_transformer=True,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_middle=1,
        transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        context_dim=768,
    )


def main(comfyui: str, models: str) -> None:
    sys.path.insert(0, comfyui)
    from comfy.cli_args import args

    args.cpu = True  # ComfyUI's modules look for a GPU when they are imported

    vit_h = fill(text_tower(24, 1024), seed=1)
    vit_l = hugging_face(fill(text_tower(12, 768), seed=2), 12)
    networks = fill(
        shapes_of(image_unet, "model.diffusion_model.") | shapes_of(autoencoder, "first_stage_model."), seed=3
    )
    for path, tensors in {
        TEXT_OPEN_CLIP: vit_h,
        TEXT_DIFFUSERS: hugging_face(vit_h, 23),
        VAE: fill(shapes_of(autoencoder), seed=4),
        CHECKPOINT: {"state_dict": networks | {f"cond_stage_model.transformer.{k}": v for k, v in vit_l.items()}},
    }.items():
        file = Path(models, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tensors, file)


if __name__ == "__main__":
    main(*sys.argv[1:])

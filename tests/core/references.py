"""The networks UNet3D is held against: ModelScope's UNetSD and diffusers' UNet3DConditionModel, small and random.

Neither is downloaded: both are built from their source. What they leave at zero when they are built (last layers, so
that branches start silent) is random here too, or those branches would not be tested.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

# ModelScope's decoder reads text of this width whatever it is told.
MODELSCOPE_CONTEXT = 1024
# text-to-video-ms-1.7b at a fifth of its width: every one of its 1480 weights is there.
MODELSCOPE_WIDTH = 64


@torch.no_grad()
def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter random values, of a size that keeps activations near 1; returns the network, in eval."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            values /= math.sqrt(parameter[0].numel())
        else:
            values = values * 0.1 + (1.0 if name.endswith("weight") else 0.0)
        parameter.copy_(values)
    return network.eval().requires_grad_(False)


@functools.cache
def modelscope_module(name: str = "unet_sd") -> ModuleType:
    """A file of modelscope's, loaded by its path: the package around it needs far more than this one file does."""
    root = importlib.util.find_spec("modelscope").submodule_search_locations[0]
    path = Path(root) / "models" / "multi_modal" / "video_synthesis" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"modelscope_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def modelscope_unet(
    multipliers: tuple[int, ...] = (1, 2, 4, 4),
    attention: tuple[bool, ...] = (True, True, True, False),
    blocks_per_level: int = 2,
    *,
    fps: bool = False,
    seed: int = 0,
) -> nn.Module:
    """UNetSD of width 64: forward(x `[b, 4, f, h, w]`, t `[b]`, y `[b, tokens, 1024]`, fps=None).

    h and w are divisible by 2 ** (levels - 1).
    """
    network = modelscope_module().UNetSD(
        in_dim=4,
        dim=MODELSCOPE_WIDTH,
        y_dim=768,
        context_dim=MODELSCOPE_CONTEXT,
        out_dim=4,
        dim_mult=list(multipliers),
        num_heads=8,
        head_dim=64,
        num_res_blocks=blocks_per_level,
        attn_scales=[0.5**level for level, has in enumerate(attention) if has],
        dropout=0.1,
        temporal_attention=True,
        use_fps_condition=fps,
    )
    return randomise(network, seed)


def diffusers_unet(
    widths: tuple[int, ...] = (8, 16),
    attention: tuple[bool, ...] = (True, False),
    blocks_per_level: int = 1,
    *,
    context_dim: int = 12,
    head_dim: int = 4,
    norm_groups: int = 4,
    seed: int = 0,
) -> nn.Module:
    """UNet3DConditionModel: forward(x `[b, 4, f, h, w]`, t `[b]`, text `[b, tokens, context_dim]`).sample; any h, w."""
    from diffusers import UNet3DConditionModel

    network = UNet3DConditionModel(
        sample_size=16,
        block_out_channels=widths,
        down_block_types=tuple("CrossAttnDownBlock3D" if has else "DownBlock3D" for has in attention),
        up_block_types=tuple("CrossAttnUpBlock3D" if has else "UpBlock3D" for has in reversed(attention)),
        layers_per_block=blocks_per_level,
        cross_attention_dim=context_dim,
        attention_head_dim=head_dim,
        norm_num_groups=norm_groups,
    )
    return randomise(network, seed)


def as_videocrafter(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a UNetSD with fps under the names and in the shapes of VideoCrafter2's UNetModel.

    The two are one network, `lvdm/modules/networks/openaimodel3d.py` of github.com/AILab-CVC/VideoCrafter: the first
    transformer and the changes of size stand elsewhere, and all temporal transformers but the first project by Linear.
    """
    renamed = {}
    for key, tensor in weights.items():
        if re.fullmatch(r"(input_blocks\.\d+|output_blocks\.\d+|middle_block)\.2\.proj_(in|out)\.weight", key):
            tensor = tensor[:, :, 0]
        key = re.sub(r"^input_blocks\.0\.1\.", "init_attn.0.", key)
        renamed[re.sub(r"^(input_blocks\.\d+)\.op\.", r"\1.0.op.", key)] = tensor.clone()
    return renamed


def modelscope_autoencoder(checkpoint: Path | None = None, *, seed: int = 0) -> nn.Module:
    """ModelScope's AutoencoderKL, narrow; of a checkpoint, read as its own program reads one."""
    sizes = {"double_z": True, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32}
    sizes |= {"ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    network = modelscope_module("autoencoder").AutoencoderKL(sizes, 4, ckpt_path=checkpoint)
    return network.eval() if checkpoint else randomise(network, seed)


def diffusers_autoencoder(seed: int = 0) -> nn.Module:
    """diffusers' AutoencoderKL, narrow."""
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return randomise(AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, **blocks), seed)


def open_clip_tower(layers: int = 3, width: int = 8) -> dict[str, Tensor]:
    """The text tower of an OpenCLIP model, as its file names it."""
    shapes = {"token_embedding.weight": (50, width), "positional_embedding": (77, width)}
    shapes |= {"text_projection": (width, width), "ln_final.weight": (width,), "ln_final.bias": (width,)}
    for block in (f"transformer.resblocks.{n}" for n in range(layers)):
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= {f"{block}.ln_{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}
        for name, out, into in (("attn.out_proj", 1, 1), ("mlp.c_fc", 4, 1), ("mlp.c_proj", 1, 4)):
            shapes |= {f"{block}.{name}.weight": (out * width, into * width), f"{block}.{name}.bias": (out * width,)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write(network: nn.Module, path: Path) -> Path:
    """A network's own state dict as a .safetensors file, as its own library writes it."""
    save_file(network.state_dict(), path, {"format": "pt"})
    return path


def clip(
    batch: int, frames: int, height: int, width: int, context_dim: int, *, tokens: int = 7, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, a timestep for each clip, all different, and a text for each: what a forward pass takes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 4, frames, height, width, generator=generator)
    context = torch.randn(batch, tokens, context_dim, generator=generator)
    return x, torch.tensor([981, 20, 500, 1])[:batch], context


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Euclidean norm of the difference over that of the reference."""
    return float((value - reference).norm() / reference.norm())

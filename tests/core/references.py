"""The networks UNet3D is held against: ModelScope's UNetSD and diffusers' UNet3DConditionModel, small and random.

Neither is downloaded: both are built from their source. What they leave at zero when they are built (last layers, so
that branches start silent) is random here too, or those branches would not be tested.
"""

from __future__ import annotations

import functools
import importlib.util
import math
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
def modelscope_module() -> ModuleType:
    """modelscope's unet_sd.py, loaded by its path: the package around it needs far more than this one file does."""
    root = importlib.util.find_spec("modelscope").submodule_search_locations[0]
    path = Path(root) / "models" / "multi_modal" / "video_synthesis" / "unet_sd.py"
    spec = importlib.util.spec_from_file_location("modelscope_unet_sd", path)
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

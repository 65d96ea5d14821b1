"""LoRA files in every format, of random numbers, and the same numbers merged by the trainers' own formulas.

A `Trained` is a reference network (diffusers' or modelscope's) with a pair of factors for each of its layers; the
writers put the pairs into files as the programs did, and `merged` is the network with W + strength * scale * B A in
float64. Nothing here uses the library's tables of names.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Trained:
    """Factors by the network's own module names; scale is what training multiplied their product by."""

    network: nn.Module
    pairs: dict[str, tuple[Tensor, Tensor]]  # up, down
    deltas: dict[str, Tensor]  # in float64, at strength 1

    def merged(self, strength: float) -> nn.Module:
        network = copy.deepcopy(self.network)
        with torch.no_grad():
            for name, delta in self.deltas.items():
                weight = network.get_submodule(name).weight
                weight.copy_((weight.double() + strength * delta).to(weight.dtype))
        return network


def layers(network: nn.Module) -> dict[str, nn.Module]:
    """Every layer with a matrix or a kernel, in the order in which the network registered them."""
    return {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def train(network: nn.Module, names: Iterable[str], rank: int, scale: float = 1.0, seed: int = 0) -> Trained:
    """LoRA as in the paper; a convolution's A has its kernel and its B is 1 by 1."""
    generator, pairs, deltas = torch.Generator().manual_seed(seed), {}, {}
    for name in names:
        weight = network.get_submodule(name).weight
        size = 0.3 * float(weight.std()) / rank**0.5 / max(abs(scale), 1e-9)
        up = size * _random(generator, len(weight), rank, *[1] * (weight.ndim - 2))
        down = _random(generator, rank, *weight.shape[1:])
        pairs[name] = up, down
        product = up.double().flatten(1) @ down.double().flatten(1)
        deltas[name] = scale * product.reshape(weight.shape)
    return Trained(network, pairs, deltas)


def train_stable(network: nn.Module, names: Iterable[str], rank: int, seed: int = 0) -> Trained:
    """Text-To-Video-Finetuning's stable_lora: for a kernel of k, A is [r k, in k], B is [out k, r k], and B A is viewed
    as the kernel; one over frames is viewed as [out, in, 3, 3, 1] and averaged over the second 3."""
    generator, pairs, deltas = torch.Generator().manual_seed(seed), {}, {}
    for name in names:
        weight = network.get_submodule(name).weight
        kernel = weight.shape[2] if weight.ndim > 3 else 1
        size = 0.3 * float(weight.std()) / (rank * kernel) ** 0.5
        up = size * _random(generator, weight.shape[0] * kernel, rank * kernel)
        down = _random(generator, rank * kernel, weight.shape[1] * kernel)
        pairs[name] = up, down
        product = up.double() @ down.double()
        if weight.ndim == 5:
            product = product.view(*weight.shape[:2], kernel, kernel, 1).mean(dim=-2, keepdim=True)
        deltas[name] = product.view(weight.shape)
    return Trained(network, pairs, deltas)


def _kohya(trained: Trained, prefix: str, alpha: float) -> dict[str, Tensor]:
    file = {}
    for name, (up, down) in trained.pairs.items():
        key = f"{prefix}_{name.replace('.', '_')}"
        file |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(alpha)}
    return file


def kohya(trained: Trained, path: Path, alpha: float) -> Path:
    save_file(_kohya(trained, "lora_unet", alpha), path, {"ss_network_module": "networks.lora"})
    return path


def peft(trained: Trained, path: Path, alpha: float) -> Path:
    """diffusers' save_lora_weights with an adapter of peft."""
    file = {}
    for name, (up, down) in trained.pairs.items():
        file |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    settings = {"unet.r": 4, "unet.lora_alpha": alpha, "unet.target_modules": ["to_q"]}
    save_file(file, path, {"format": "pt", "lora_adapter_metadata": json.dumps(settings)})
    return path


def peft_folder(trained: Trained, path: Path, alpha: float) -> Path:
    """peft's save_pretrained: a file and its settings beside it."""
    file = {}
    for name, (up, down) in trained.pairs.items():
        file |= {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    path = path.with_name("adapter_model.safetensors")
    save_file(file, path)
    path.with_name("adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": alpha}))
    return path


def processors(trained: Trained, path: Path, alpha: float) -> Path:
    """diffusers' attention processors, before peft: attention alone, and the output layer without its index. Theirs
    had an alpha only where they came from elsewhere."""
    file = {}
    for name, (up, down) in trained.pairs.items():
        parent, _, layer = name.removesuffix(".0").rpartition(".")
        key = f"unet.{parent}.processor.{layer}_lora"
        file |= {f"{key}.up.weight": up, f"{key}.down.weight": down, f"{key}.alpha": torch.tensor(alpha)}
    save_file(file, path)
    return path


def lora_layers(trained: Trained, path: Path, alpha: float) -> Path:
    """diffusers' LoRACompatibleLinear, between the two."""
    file = {}
    for name, (up, down) in trained.pairs.items():
        key = f"unet.{name}"
        file |= {f"{key}.lora.up.weight": up, f"{key}.lora.down.weight": down, f"{key}.alpha": torch.tensor(alpha)}
    save_file(file, path)
    return path


def stable(trained: Trained, path: Path) -> Path:
    """stable_lora's full weights, under the trained network's own names."""
    file = {}
    for name, (up, down) in trained.pairs.items():
        file |= {f"{name}.lora_A": down, f"{name}.lora_B": up}
    save_file(file, path)
    return path


def stable_webui(trained: Trained, path: Path, rename: Callable[[str], str] = str) -> Path:
    """The same for the web UI: an axis more on the factors of every `proj_` but kernels, and half precision, which the
    factors of `trained` must survive."""
    file = {}
    for name, (up, down) in trained.pairs.items():
        axes = (slice(None), slice(None), None) if "proj_" in name else ()
        file |= {f"{rename(name)}.lora_A": down[axes].half(), f"{rename(name)}.lora_B": up[axes].half()}
    save_file(file, path, {"stable_lora_text_to_video": "v1", "lora_name": "test_0a1b2"})
    return path


def in_half(trained: Trained) -> Trained:
    """The same factors rounded to half precision: what a file in it can hold."""
    pairs = {name: (up.half().float(), down.half().float()) for name, (up, down) in trained.pairs.items()}
    deltas = {}
    for name, (up, down) in pairs.items():
        shape = trained.deltas[name].shape
        kernel = shape[2] if len(shape) > 3 else 1
        product = up.double() @ down.double()
        if len(shape) == 5:
            product = product.view(*shape[:2], kernel, kernel, 1).mean(dim=-2, keepdim=True)
        deltas[name] = product.view(shape)
    return Trained(trained.network, pairs, deltas)


def pickled_list(trained: Trained, path: Path) -> Path:
    """cloneofsimo's first format: torch.save([up, down, up, down, ...]), in the order of the network's modules."""
    path = path.with_suffix(".pt")
    torch.save([nn.Parameter(factor) for pair in trained.pairs.values() for factor in pair], path)
    return path


def numbered_list(trained: Trained, path: Path, targets: list[str], part: str = "unet") -> Path:
    """lora_diffusion's .safetensors."""
    file, metadata = {}, {part: json.dumps(targets)}
    for index, (up, down) in enumerate(trained.pairs.values()):
        file |= {f"{part}:{index}:up": up, f"{part}:{index}:down": down}
        metadata[f"{part}:{index}:rank"] = str(len(down))
    save_file(file, path, metadata)
    return path


def walk(network: nn.Module, classes: set[str]) -> list[str]:
    """lora_diffusion's walk: the layers inside the modules of these classes, in order."""
    found = []
    for parent, ancestor in network.named_modules():
        if type(ancestor).__name__ in classes:
            found += [f"{parent}.{name}" for name, module in ancestor.named_modules() if isinstance(module, LAYERS)]
    return found

"""What a model was recognised as: for a program as data, for a person as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

import torch
from torch import Tensor

from ..diffusion.model import NativeSize
from .families import OURS, Family

PRECISIONS = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8",
    torch.float8_e5m2: "fp8",
}
HERE = "in the same file"
TEXT_ENCODER_MISSING = (
    "none found: connect CLIPLoader, type stable_diffusion, with OpenCLIP ViT-H/14's text encoder "
    "(open_clip_pytorch_model.bin, or text_encoder/model.safetensors of the diffusers repository)"
)
AUTOENCODER_MISSING = "none found: connect VAELoader with a VAE of Stable Diffusion 1 or 2"
OURS_MISSING = "not in this file: connect that of the model it was made from"


@dataclass(frozen=True)
class Description:
    """What was recognised, before anything is built.

    layout: a name in `LAYOUTS`.
    precision: of most of the UNet's numbers, "fp16" and the like; `parameters`: how many it has.
    native: the clip it was made for; `native_known`: whether file or name tell it, else it is ModelScope's.
    text_encoder, autoencoder: where they are: a file's name, or `HERE`; None where none was found.
    """

    family: Family
    layout: str
    precision: str
    parameters: int
    native: NativeSize
    native_known: bool
    text_encoder: str | None
    autoencoder: str | None

    def text(self) -> str:
        """A few lines for a person, each `what: value`."""
        by_name = ", going by its name" if self.family.by_name else ""
        native = f"{self.native.width} x {self.native.height}, {self.native.num_frames} frames"
        if not self.native_known:
            native = f"not known by its name; ModelScope's {native} is assumed"
        missing = (OURS_MISSING, OURS_MISSING) if self.family is OURS else (TEXT_ENCODER_MISSING, AUTOENCODER_MISSING)
        return "\n".join(
            (
                f"model: {self.family.name}{by_name}",
                f"file: {self.layout} layout, {self.precision}, {count(self.parameters)} parameters in the UNet",
                f"made for: {native}",
                f"text encoder: {self.text_encoder or missing[0]}",
                f"VAE: {self.autoencoder or missing[1]}",
            )
        )


def precision_of(tensors: Mapping[str, Tensor]) -> str:
    """The format of most of the numbers."""
    numbers: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        numbers[tensor.dtype] += tensor.numel()
    dtype = numbers.most_common(1)[0][0]
    return PRECISIONS.get(dtype, str(dtype).removeprefix("torch."))


def count(number: int) -> str:
    """A number of parameters in three digits: 1.41 G, 83.7 M, 12,345."""
    for unit, size in (("G", 10**9), ("M", 10**6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,}"


def place(path: PurePath, model: PurePath) -> str:
    """A part's file, as seen from the model's folder: its name, with its folder where that is another."""
    if path.is_relative_to(model):
        return path.relative_to(model).as_posix()
    return path.name if path.parent == model.parent and model.suffix else f"../{path.name}"

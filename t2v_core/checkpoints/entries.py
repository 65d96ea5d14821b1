"""A model as it lies on disk: which files hold its parts, and which of them is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
INDEX_SUFFIX = ".json"

# What programs write between a file's name and its suffix, best first for each precision that may be asked for.
# Without one it is the file that was trained, most often fp32, which is also right where none is asked for.
_PREFERRED = {
    torch.float16: ("fp16", "", "bf16"),
    torch.bfloat16: ("bf16", "", "fp16"),
    torch.float32: ("fp32", "", "fp16"),
    None: ("", "fp16", "bf16"),
}


def is_index(name: str) -> bool:
    """Whether a file of this name lists the shards of a checkpoint: `model.safetensors.index.json` and its variants."""
    return name.endswith(INDEX_SUFFIX) and ".index." in name


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights, or lists the files that do."""
    return name.lower().endswith(SUFFIXES) or is_index(name)


def variant_of(name: str) -> str:
    """What a file's name tells: "fp16" of `model.fp16.safetensors` and of `model.bin.index.fp16.json`; often ""."""
    parts = name.split(".")[1:-1]
    named = [part for part in parts if part not in ("index", "safetensors", "bin")]
    return named[-1] if named else ""


@dataclass(frozen=True)
class Part:
    """The weights of one part of a model.

    files: files that hold all of it, in several formats or precisions; at least one. An index stands for its shards.
    more: other files that count: shards, and the sizes that diffusers keeps beside the weights.
    config: the latter, `config.json`; None where there is none.
    """

    files: tuple[Path, ...]
    more: tuple[Path, ...] = ()
    config: Path | None = None

    def choose(self, dtype: torch.dtype | None = None) -> Path:
        """The file to read: .safetensors before pickles, then the variant that suits dtype (None: as trained)."""
        order = _PREFERRED.get(dtype, _PREFERRED[None])

        def rank(path: Path) -> tuple[bool, int, bool, str]:
            variant = variant_of(path.name)
            place = order.index(variant) if variant in order else len(order)
            return ".safetensors" not in path.name, place, is_index(path.name), path.name

        return min(self.files, key=rank)


@dataclass(frozen=True)
class Entry:
    """One model.

    name: its folder or file below the root, with "/" between, whatever the system has.
    path: that folder or file.
    unet: None where the folder has the form of a model and no UNet's weights in it.
    text_encoder, autoencoder: files of their own; None where there are none, which a file that holds all parts needs
        not.
    """

    name: str
    path: Path
    unet: Part | None
    text_encoder: Part | None = None
    autoencoder: Part | None = None

    def stamp(self) -> tuple:
        """A value that changes when a file of the model does, or one comes or goes. Raises nothing."""
        parts = [part for part in (self.unet, self.text_encoder, self.autoencoder) if part]
        return tuple(_stamp(file) for part in parts for file in sorted((*part.files, *part.more)))


def _stamp(file: Path) -> tuple[str, int, int]:
    try:
        status = os.stat(file)
    except OSError:  # gone since
        return str(file), 0, 0
    return str(file), status.st_mtime_ns, status.st_size

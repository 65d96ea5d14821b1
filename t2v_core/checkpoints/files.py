"""Weight files: tensors by name, in and out. Reading one runs no code from it, whatever it holds."""

from __future__ import annotations

import os
import pickle
import re
import secrets
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError
from .metadata import TENSOR, with_tensor

# Dictionaries that training programs put around the weights, and what they put before every name.
WRAPPERS = ("state_dict", "module")
WRAPPER_PREFIXES = ("module.", "_forward_module.", "_orig_mod.", "diffusion_model.", "unet.")
WANTED = "A model file is a .safetensors, or a .pth, .pt, .ckpt or .bin that PyTorch saved."
AGAIN = "Download or copy it again."


@dataclass(frozen=True)
class WeightFile:
    """What a file holds: tensors on the CPU, most often views of the file itself, and the text stored beside them."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_weights(path: str | os.PathLike) -> WeightFile:
    """Read any weight file; its content, not its name, says of which kind it is.

    Wrappers (`WRAPPERS`) are opened and prefixes that every key has (`WRAPPER_PREFIXES`) are cut. Tensors are mapped,
    not copied, wherever the format allows it. Raises CheckpointError where the file is missing, damaged, holds no
    weights, or is a pickle that would have to run code.
    """
    path = Path(path)
    start = _start_of(path)
    metadata: dict[str, str] = {}
    # First of all the brace: the eight bytes before it are a length, which may look like the start of anything.
    if start[8:9] == b"{":
        content, metadata = _read_safetensors(path)
    elif start.startswith(b"PK\x03\x04"):
        content = _read_zip(path)
    elif start.startswith(b"\x80"):
        content = _read_pickle(path, mmap=False)
    elif path.suffix == ".safetensors" and not _is_text(start):
        content, metadata = _read_safetensors(path)
    else:
        raise CheckpointError(f"{path}: {_what_else(start)}. {WANTED}")
    tensors = _weights_in(path, content)
    if TENSOR in tensors:
        metadata = with_tensor(metadata, tensors.pop(TENSOR))
    return WeightFile(path, tensors, metadata)


def _start_of(path: Path) -> bytes:
    """The first bytes of an ordinary, readable, non-empty file."""
    if path.is_dir():
        raise CheckpointError(f"{path}: this is a folder; name the weight file in it. {WANTED}")
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file")
    if not path.is_file():
        raise CheckpointError(f"{path}: not an ordinary file. {WANTED}")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if not start:
        raise CheckpointError(f"{path}: the file is empty. {AGAIN}")
    return start


def _is_text(start: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in start)


def _what_else(start: bytes) -> str:
    """Name a file that holds no weights, by its first bytes."""
    if start.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, the note that stands in for a file; fetch the file itself (git lfs pull)"
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "this is a web page, perhaps saved in place of the download it was to start"
    return "this is a text file, not weights" if _is_text(start) else "not a format that holds weights"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        message = f"{path}: cut short or damaged, no whole .safetensors ({reason}). {AGAIN}"
        raise CheckpointError(message) from None


def _read_zip(path: Path) -> object:
    # The directory of a zip file is at its end: without it the file was cut.
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: cut short or damaged, no whole PyTorch file. {AGAIN}")
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/data.pkl") for name in archive.namelist()):
            raise CheckpointError(f"{path}: this is a zip archive, not weights; unpack it. {WANTED}")
    return _read_pickle(path, mmap=True)


def _read_pickle(path: Path, mmap: bool) -> object:
    # PyTorch before 2.6 unpickled its oldest format, a tar file, with code even where only weights were asked for.
    if not mmap and tarfile.is_tarfile(path):
        raise CheckpointError(f"{path}: a tar file, PyTorch's format before 2018, cannot be read safely. {WANTED}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL:? ([\w.]+)", str(error))
        reason = f" ({named.group(1)})" if named else ""
        raise CheckpointError(
            f"{path}: refused, and nothing in it was run: reading this pickle calls for more than weights{reason}. "
            "If you trust its source, convert it to .safetensors elsewhere; else throw it away."
        ) from None
    except Exception as error:
        # Damaged pickles fail in as many ways as there are instructions in them.
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cut short or damaged, no whole PyTorch file ({reason}). {AGAIN}") from None


def _weights_in(path: Path, content: object) -> dict[str, Tensor]:
    for _ in WRAPPERS:
        inner = (content.get(name) for name in WRAPPERS) if isinstance(content, Mapping) else ()
        content = next((value for value in inner if isinstance(value, Mapping)), content)
    if not isinstance(content, Mapping):
        lora = isinstance(content, list) and any(isinstance(each, Tensor) for each in content)
        advice = ". A list of tensors is a LoRA of cloneofsimo's kind: load it with T2V Load LoRA" if lora else ""
        raise CheckpointError(f"{path}: holds one {type(content).__name__}, not weights by name{advice}")
    # What is no tensor (a step counter, settings) is no weight either.
    tensors = {str(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no weights")
    for key, tensor in tensors.items():
        if not _is_stored(tensor):
            raise CheckpointError(f"{path}: {key} claims more numbers than the file stores; it is damaged or hostile")
    return _without_common_prefix(tensors)


def _is_stored(tensor: Tensor) -> bool:
    """Whether every number of the tensor is in the file: a few bytes of pickle can claim any shape by strides of 0."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _without_common_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((p for p in WRAPPER_PREFIXES if tensors and all(key.startswith(p) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def write_safetensors(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], overwrite: bool
) -> Path:
    """Write a .safetensors file that appears under its name only when it is whole.

    Raises CheckpointError where a file of that name exists (unless `overwrite`), the disk is full, or the folder is not
    there or not writable; what was there is then unchanged.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: weights are saved as .safetensors; give the name that ending")
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path}: exists already; choose another name, or say overwrite=True")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    stored = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    try:
        part.touch(exist_ok=False)
        mode = part.stat().st_mode  # what the user's umask gives; save_file would leave the file to its owner alone
        save_file(stored, part, dict(metadata))
        part.chmod(mode)
        _publish(part, path, overwrite)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    return path


def _publish(part: Path, path: Path, overwrite: bool) -> None:
    """Give the finished file its name; a file that came there meanwhile stays, unless `overwrite`."""
    if overwrite:
        os.replace(part, path)
        return
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError("a file of that name appeared meanwhile") from None
        os.rename(part, path)

"""The files of a run folder: tensors that are whole or not there, small JSON, and the lock."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import T2VError

_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_CHECKSUM = "crc32"
MOST_JSON = 2**20
"""Bytes of a JSON file that is read; ours have a few hundred."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A .safetensors file under its name once all of it is on the disk; until then, what was there before.

    Written piece by piece, so that no second copy of the tensors comes into being. tensors: floating-point, on any
    device. metadata: read again by `read_tensors`. Raises OSError, and then leaves nothing behind.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    named = sorted(tensors, key=lambda name: -tensors[name].element_size())  # so that each begins where it may
    header, start = {}, 0
    sums = {name: zlib.crc32(_bytes(tensors[name])) for name in named}
    for name in named:
        end = start + tensors[name].nbytes
        kind, shape = _TYPES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps({"__metadata__": {**metadata, _CHECKSUM: json.dumps(sums)}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with _Replaced(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in named:
            file.write(_bytes(tensors[name]))


def read_tensors(path: Path, checked: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a file of `write_tensors`. The tensors lie in the file, mapped into memory: what is not
    looked at is not read, and what is written into them stays out of the file.

    checked: compare every number with its checksum. Raises T2VError for a file that is cut short or damaged, and
    FileNotFoundError.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            metadata = dict(file.metadata() or {})
        sums = json.loads(metadata.pop(_CHECKSUM))
        wrong = [name for name in tensors if checked and zlib.crc32(_bytes(tensors[name])) != sums[name]]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise T2VError(f"{path} is cut short or damaged: {error}") from None
    if wrong:
        raise T2VError(f"{path} is damaged: the numbers of {wrong[0]!r} are not those that were written")
    return tensors, metadata


def write_json(path: Path, content: Any) -> None:
    """A JSON file, as `write_tensors` writes."""
    with _Replaced(path) as file:
        file.write(json.dumps(content, indent=1).encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. T2VError for a file that is none, FileNotFoundError."""
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read(MOST_JSON))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise T2VError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise T2VError(f"{path} cannot be read: it holds no JSON object")
    return content


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


class _Replaced:
    """A file to write that takes its name when it is whole and on the disk. Its name until then is always the same, so
    that what a kill leaves behind goes with the next one."""

    def __init__(self, path: Path):
        self._path, self._part = path, path.with_name(f"{path.name}.part")

    def __enter__(self) -> BinaryIO:
        self._file = open(self._part, "wb")
        return self._file

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        try:
            with self._file:
                if kind is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
            if kind is None:
                os.replace(self._part, self._path)
                _to_disk(self._path.parent)
        finally:
            self._part.unlink(missing_ok=True)


def _to_disk(folder: Path) -> None:
    """The names in a folder, which a disk may write later than what they name. Windows knows no such thing."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)

"""Settings as JSON in a .safetensors file's metadata, checked against the dataclass they are read into."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from ..errors import CheckpointError

KEY = "config"
# A program that saves weights through a state dict alone, as ComfyUI does, keeps no metadata: then it is a tensor.
TENSOR = "t2v_config"
LARGEST_TENSOR = 1 << 24
# No size of a network comes near it; one that does would only keep the reader busy.
LARGEST = 1 << 16

Settings = TypeVar("Settings")


def dump(settings: Mapping[str, Any]) -> dict[str, str]:
    """Metadata that `load` reads back; `settings` is what JSON can say."""
    return {KEY: json.dumps(settings, ensure_ascii=False, sort_keys=True)}


def load(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The settings in a file's metadata; empty where there are none, or where another program's are in their place."""
    try:
        settings = json.loads(metadata.get(KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def dump_tensor(settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The same as an entry of a state dict: JSON as bytes."""
    return {TENSOR: torch.tensor(list(dump(settings)[KEY].encode()), dtype=torch.uint8)}


def with_tensor(metadata: Mapping[str, str], tensor: Tensor) -> dict[str, str]:
    """Metadata completed by what `dump_tensor` made; unchanged where it has settings or the tensor is another's."""
    if KEY in metadata or tensor.dtype is not torch.uint8 or tensor.ndim != 1 or tensor.numel() > LARGEST_TENSOR:
        return dict(metadata)
    return {**metadata, KEY: tensor.numpy().tobytes().decode(errors="replace")}


def parse(kind: type[Settings], value: Any, where: str) -> Settings:
    """`value`, as JSON gave it, as a `kind`: a dataclass, `tuple[x, ...]`, str, bool, int or float.

    Sizes (int) are at least 1, or 0 where that is the field's default. Raises CheckpointError naming the entry below
    `where` that is unknown, missing or of the wrong type.
    """
    if dataclasses.is_dataclass(kind):
        return _parse_fields(kind, value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise CheckpointError(f"{where} is {value!r:.80}, and should be a list")
        return tuple(parse(get_args(kind)[0], entry, f"{where}[{index}]") for index, entry in enumerate(value))
    accepted = (int, float) if kind is float else (kind,)
    if type(value) not in accepted or (kind is float and not _is_finite(value)):
        raise CheckpointError(f"{where} is {value!r:.80}, and should be of type {kind.__name__}")
    if kind is int and not 0 <= value <= LARGEST:
        raise CheckpointError(f"{where} is {value!r:.80}, and should be between 0 and {LARGEST}")
    return kind(value)


def _is_finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an int beyond every float
        return False


def _parse_fields(kind: type[Settings], values: Any, where: str) -> Settings:
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} is {values!r:.80}, and should be a JSON object")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    missing = [name for name, f in fields.items() if f.default is dataclasses.MISSING and name not in values]
    if unknown or missing:
        problem = f"has no entry {missing[0]!r}" if missing else f"has an unknown entry {unknown[0]!r:.80}"
        raise CheckpointError(f"{where} {problem}; another version of this program may have written it")
    types = get_type_hints(kind)
    parsed = {name: parse(types[name], value, f"{where}.{name}") for name, value in values.items()}
    for name, value in parsed.items():
        sizes = value if isinstance(value, tuple) else (value,)
        if any(type(size) is int and size == 0 for size in sizes) and fields[name].default != 0:
            raise CheckpointError(f"{where}.{name} is {value!r:.80}, and should be at least 1")
    return kind(**parsed)

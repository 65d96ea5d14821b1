"""A checkpoint cut into several files, and the small JSON files that stand beside weights. None of them is trusted."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .entries import SUFFIXES, Part, is_index
from .files import AGAIN, WeightFile, read_weights
from .keymap import first_ten

LARGEST_JSON = 1 << 24
MOST_SHARDS = 1000


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of moderate size. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_JSON + 1)
        if len(text) > LARGEST_JSON:
            raise CheckpointError(f"{path}: larger than {LARGEST_JSON >> 20} MiB, which no file of this kind is")
        content = json.loads(text)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: not JSON, or damaged. {AGAIN}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object. {AGAIN}")
    return content


def read_part(part: Part, dtype: torch.dtype | None = None) -> WeightFile:
    """The weights of one part of a model, of the file that suits dtype. Errors as of `read_weights`."""
    path = part.choose(dtype)
    return read_shards(path, part.more) if is_index(path.name) else read_weights(path)


def read_shards(index: Path, beside: Collection[Path]) -> WeightFile:
    """The weights of all the shards that an index names, mapped as `read_weights` maps them.

    The index is `{"weight_map": {key: file name}}`, as diffusers and transformers write it; it may name only files that
    are among `beside`, all in its own folder. Raises CheckpointError where it names others, shards are missing, or hold
    other weights than it says.
    """
    shards = _shards_in(index)
    missing = [name for name in shards if index.parent / name not in beside]
    if missing:
        raise CheckpointError(
            f"{index}: {len(missing)} of {len(shards)} shards are missing beside it: {first_ten(missing)}. "
            "Download them into the same folder"
        )
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name, keys in shards.items():
        file = read_weights(index.parent / name)
        if set(file.tensors) != keys:
            wrong = sorted(keys ^ set(file.tensors))
            raise CheckpointError(
                f"{index}: {name} does not hold the weights that the index says: {first_ten(wrong)}. {AGAIN}"
            )
        tensors.update(file.tensors)
        metadata.update(file.metadata)
    return WeightFile(index, tensors, metadata)


def _shards_in(index: Path) -> Mapping[str, set[str]]:
    """`{file name: keys}`, the names checked."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise CheckpointError(f"{index}: no index of a checkpoint: it has no weight_map of keys and files. {AGAIN}")
    shards: dict[str, set[str]] = defaultdict(set)
    for key, name in listed.items():
        shards[name].add(key)
    if len(shards) > MOST_SHARDS:
        raise CheckpointError(f"{index}: names {len(shards)} shards, and no checkpoint has more than {MOST_SHARDS}")
    for name in shards:
        if set(name) & set("/\\:\0") or name.startswith(".") or not name.lower().endswith(SUFFIXES):
            raise CheckpointError(f"{index}: refused: {name!r:.80} is not the name of a weight file in the same folder")
    return shards

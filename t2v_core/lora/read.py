"""LoRA files: pairs of thin matrices by module, whatever the program that wrote them called the two.

| family | keys of a module `m` | scale |
|---|---|---|
| stable_lora (Text-To-Video-Finetuning) | `m.lora_A`, `m.lora_B`; kernels in the matrices' sides | 1 |
| cloneofsimo (that trainer, and lora_diffusion) | a list: up, down, up, down ...; `unet:0:up`, `unet:0:down` | 1 |
| peft, diffusers | `m.lora_A.weight`, `m.lora.down.weight`, `m.processor.to_q_lora.down.weight` | alpha / rank |
| kohya (and LoCon) | `lora_unet_m.lora_down.weight`, `.lora_up.weight`, `.lora_mid.weight`, `.alpha` | alpha / rank |

Where a file of the latter two tells no alpha, it is the rank, so that the scale is 1.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.files import AGAIN, WeightFile, read_weights
from ..checkpoints.keymap import first_ten, is_finite
from ..errors import CheckpointError
from .foreign import no_lora

# Family, what the name of a module's down factor ends in, and that of its up factor. The first that fits decides.
ENDINGS = (
    ("kohya", ".lora_down.weight", ".lora_up.weight"),
    ("peft", ".lora_A.default.weight", ".lora_B.default.weight"),
    ("peft", ".lora_A.weight", ".lora_B.weight"),
    ("diffusers", "_lora.down.weight", "_lora.up.weight"),
    ("diffusers", ".lora.down.weight", ".lora.up.weight"),
    ("diffusers", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ("stable_lora", ".lora_A", ".lora_B"),
)
FACTORS = tuple(ending for _, *endings in ENDINGS for ending in endings)
MIDDLE = ".lora_mid.weight"
DORA = (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
NUMBERED = re.compile(r"(unet|text_encoder):(\d{1,6}):(up|down)")
# peft puts its settings beside the weights, diffusers into their file.
SETTINGS_FILE, SETTINGS_ENTRY = "adapter_config.json", "lora_adapter_metadata"
LARGEST_SETTINGS = 1 << 20


@dataclass(frozen=True)
class LoraPair:
    """What a file has for one module.

    name: the module, as the file calls it; "" in a list. key: one of its keys, for messages.
    down `[r, in, ...]`, up `[out, r, ...]`, middle `[r, r, ...]` or None: as stored.
    scale: what their product is multiplied by. packed: stable_lora's way with kernels.
    """

    name: str
    key: str
    down: Tensor = field(repr=False)
    up: Tensor = field(repr=False)
    scale: float = 1.0
    middle: Tensor | None = field(default=None, repr=False)
    packed: bool = False


@dataclass(frozen=True)
class PairList:
    """Pairs without names, in the order in which the trained network's modules were made.

    part: "unet", "text_encoder", or None where the file does not say. targets: the classes whose layers were trained;
    None where the file does not say.
    """

    part: str | None
    targets: tuple[str, ...] | None
    pairs: tuple[LoraPair, ...] = field(repr=False)


@dataclass(frozen=True)
class Lora:
    """A LoRA file, read; it knows no network yet.

    family: stable_lora, cloneofsimo, peft, diffusers or kohya. others: its keys that belong to no pair.
    """

    path: Path
    family: str
    pairs: tuple[LoraPair, ...] = field(repr=False)
    lists: tuple[PairList, ...] = ()
    others: tuple[str, ...] = ()

    def all_pairs(self) -> tuple[LoraPair, ...]:
        """With and without a name."""
        return self.pairs + tuple(pair for each in self.lists for pair in each.pairs)


def read_lora(path: str | os.PathLike) -> Lora:
    """Read a LoRA of one of the families above.

    Tensors are left in the file's dtype, and mapped where its format allows it. Raises CheckpointError, naming the
    file, where it is missing, damaged, unsafe, no LoRA, or one that works in another way (DoRA, LoHa, LoKr).
    """
    path = Path(path)
    try:
        file = read_weights(path)
    except CheckpointError:
        content = _list_in(path)
        if content is None:
            raise
        return _checked(Lora(path, "cloneofsimo", (), (PairList(None, None, _from_list(path, content)),)))
    try:
        if any(NUMBERED.fullmatch(key) for key in file.tensors):
            return _checked(_numbered(file))
        return _checked(_named(file))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _list_in(path: Path) -> list[Any] | None:
    """The list that a PyTorch file holds in place of weights by name; None where it holds something else."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # and `read_weights` has said what is wrong with it
        return None
    return content if isinstance(content, list) else None


def _from_list(path: Path, content: list[Any]) -> tuple[LoraPair, ...]:
    tensors = [each.detach() for each in content if isinstance(each, Tensor) and each.is_contiguous()]
    if not tensors or len(tensors) != len(content) or len(tensors) % 2:
        raise CheckpointError(
            f"{path}: holds a list of {len(content)} things; a LoRA's list is tensors, an up and a down in turn"
        )
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return tuple(LoraPair("", f"pair {index}", down, up) for index, (up, down) in enumerate(pairs))


def _numbered(file: WeightFile) -> Lora:
    """lora_diffusion's .safetensors: the same lists by number, and in the metadata the classes that were trained."""
    found: dict[str, dict[int, dict[str, Tensor]]] = {}
    others = []
    for key, tensor in file.tensors.items():
        if match := NUMBERED.fullmatch(key):
            part, number, factor = match.groups()
            found.setdefault(part, {}).setdefault(int(number), {})[factor] = tensor
        else:
            others.append(key)
    lists = []
    for part, rows in sorted(found.items()):
        incomplete = [index for index in range(len(rows)) if rows.get(index, {}).keys() != {"up", "down"}]
        if incomplete:
            raise CheckpointError(f"{part}:{incomplete[0]} is missing or half missing; the file is incomplete")
        pairs = (LoraPair("", f"{part}:{index}:down", rows[index]["down"], rows[index]["up"]) for index in sorted(rows))
        lists.append(PairList(part, _targets(file.metadata.get(part)), tuple(pairs)))
    return Lora(file.path, "cloneofsimo", (), tuple(lists), tuple(others))


def _targets(text: str | None) -> tuple[str, ...] | None:
    targets = _json(text)
    return tuple(map(str, targets)) if isinstance(targets, list) else None


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None


def _named(file: WeightFile) -> Lora:
    tensors, used, pairs, families = file.tensors, set(), [], []
    settings = _settings(file)
    for key in tensors:
        family, down, up = next((row for row in ENDINGS if key.endswith(row[1])), (None, "", ""))
        name = key.removesuffix(down)
        if family is None or name + up not in tensors:
            continue
        alphas = [each for each in (f"{name}.alpha", f"{name}{_stem(down)}.alpha") if each in tensors]
        middle = tensors.get(name + MIDDLE) if family == "kohya" else None
        scale = 1.0
        if family != "stable_lora":
            alpha = _alpha(tensors, alphas[0]) if alphas else None
            scale = _scale(name, tensors[key], alpha, settings)
        pairs.append(LoraPair(name, key, tensors[key], tensors[name + up], scale, middle, family == "stable_lora"))
        families.append(family)
        used |= {key, name + up, *alphas, *([name + MIDDLE] if middle is not None else [])}
    if not pairs:
        halves = [key for key in tensors if key.endswith(FACTORS)]
        raise CheckpointError(f"each pair lacks a half: {first_ten(halves)}. {AGAIN}" if halves else no_lora(tensors))
    if dora := [key for key in tensors if key.endswith(DORA)]:
        raise CheckpointError(
            f"a DoRA, which rescales whole weights ({dora[0]}) and is not read here; ask its maker for a plain LoRA"
        )
    family = max(dict.fromkeys(families), key=families.count)
    return Lora(file.path, family, tuple(pairs), (), tuple(key for key in tensors if key not in used))


def _stem(ending: str) -> str:
    """`_lora` of `_lora.down.weight`: some programs put alpha beside the factors, not beside the module."""
    return re.sub(r"\.?(lora_)?(down|A)(\.default)?\.weight$|\.lora_A$", "", ending)


def _alpha(tensors: Mapping[str, Tensor], key: str) -> float:
    tensor = tensors[key]
    value = tensor.item() if tensor.numel() == 1 and not tensor.is_complex() else math.nan
    if not math.isfinite(value):
        raise CheckpointError(f"{key} should be one finite number")
    return float(value)


def _settings(file: WeightFile) -> dict[str, Any]:
    """What peft says of the LoRA beside the weights: `lora_alpha`, `alpha_pattern`, `use_rslora`; per part, perhaps."""
    stored = _json(file.metadata.get(SETTINGS_ENTRY))
    beside = file.path.parent / SETTINGS_FILE
    if stored is None and file.path.stem == "adapter_model" and beside.is_file():
        try:
            with beside.open("rb") as opened:
                stored = _json(opened.read(LARGEST_SETTINGS).decode(errors="replace"))
        except OSError as error:
            raise CheckpointError(f"{SETTINGS_FILE}, which belongs to it, cannot be read: {error.strerror}") from None
    return stored if isinstance(stored, dict) else {}


def _scale(name: str, down: Tensor, alpha: float | None, settings: Mapping[str, Any]) -> float:
    rank = max(1, len(down)) if down.ndim else 1
    text = name.startswith(("text_encoder", "base_model.model.text_model"))
    inner = {key.removeprefix("text_encoder." if text else "unet."): value for key, value in settings.items()}
    if alpha is None:
        # peft takes a pattern for a regular expression; from a stranger's file it is a name's end and no more.
        patterns = inner.get("alpha_pattern")
        patterns = patterns if isinstance(patterns, dict) else {}
        alpha = next((value for end, value in patterns.items() if f".{name}".endswith(f".{end}")), None)
    if alpha is None:
        alpha = inner.get("lora_alpha")
    if alpha is None:
        return 1.0
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise CheckpointError(f"metadata: alpha of {name} is {alpha!r:.80} and should be a number")
    return alpha / (math.sqrt(rank) if inner.get("use_rslora") is True else rank)


def _checked(lora: Lora) -> Lora:
    """The same, its numbers known to be numbers."""
    for pair in lora.all_pairs():
        for tensor in filter(lambda each: each is not None, (pair.down, pair.up, pair.middle)):
            if not tensor.is_floating_point() or not tensor.numel():
                raise CheckpointError(f"{pair.key}: {tensor.dtype} {list(tensor.shape)} is no matrix of a LoRA")
            if not is_finite(tensor):
                raise CheckpointError(f"{pair.key} holds NaN or infinity. The file is damaged; take another copy")
    return lora

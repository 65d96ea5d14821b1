"""A LoRA file meets a model: which of its pairs change which weights, and what is left over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from ..checkpoints.keymap import first_ten
from ..errors import CheckpointError
from ..models.blocks import TemporalConv
from ..models.transformers import TemporalTransformer
from ..models.unet3d import UNet3D
from . import keys, lists
from .foreign import made_for
from .low_rank import LowRank, low_rank
from .read import Lora, LoraPair


@dataclass(frozen=True)
class Placement:
    """What a LoRA does to a model.

    unet, text_encoder: changes by the network's own keys. left: keys of the file that have no place there.
    temporal: how many of the UNet's are in parts that work over frames. waiting: how many of the file's pairs are for a
    text encoder, where none was given.
    """

    lora: Lora
    unet: Mapping[str, LowRank] = field(repr=False)
    text_encoder: Mapping[str, LowRank] = field(repr=False)
    left: tuple[str, ...]
    temporal: int
    waiting: int

    def summary(self) -> str:
        """For people: what was found, what it changes, and the keys that were left out, ten of them by name."""
        ranks = sorted({len(pair.down) for pair in self.lora.all_pairs()})
        rank = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        lines = [f"{self.lora.path.name}: {self.lora.family} LoRA of rank {rank}"]
        lines.append(f"UNet: {len(self.unet)} weights, {self.temporal} of them over time")
        if self.text_encoder:
            lines.append(f"text encoder: {len(self.text_encoder)} weights")
        if self.waiting:
            lines.append(f"text encoder: {self.waiting} weights, which are not applied: no clip is connected")
        if self.unet and not self.temporal:
            lines.append("Nothing in it works over time: it may have been made for a model of images.")
        if self.left:
            lines.append(self.warning())
        return "\n".join(lines)

    def warning(self) -> str:
        """The keys that were left out; empty where there are none."""
        if not self.left:
            return ""
        return f"{len(self.left)} keys of {self.lora.path.name} have no place in this model: {first_ten(self.left)}"


def place_lora(lora: Lora, unet: UNet3D, text_encoder: nn.Module | None) -> Placement:
    """Find the weights that a LoRA changes; nothing is changed yet.

    unet, text_encoder: the networks, in any dtype, on any device. Raises CheckpointError, naming the file and its keys,
    where a pair does not fit its weight, two are for one weight, or none has a place, with what the file seems to be.
    """
    try:
        return _place(lora, unet, text_encoder)
    except CheckpointError as error:
        raise CheckpointError(f"{lora.path}: {error}") from None


def _place(lora: Lora, unet: UNet3D, text_encoder: nn.Module | None) -> Placement:
    shapes = {key: tuple(tensor.shape) for key, tensor in unet.state_dict().items()}
    parts: dict[str, list[LoraPair]] = {"unet": [], "text_encoder": []}
    bare: dict[str, str] = {}
    for pair in lora.pairs:
        part, bare[pair.key] = keys.split(pair.name)
        parts[part].append(pair)
    for each in lora.lists:
        part, pairs = lists.named(each, unet.config, shapes)
        parts[part] += pairs
        bare |= {pair.key: pair.name for pair in pairs}

    places = _Places(bare)
    changes = places.find(parts["unet"], keys.unet_keys(unet.config, shapes), shapes)
    text_changes, waiting = {}, 0
    if text_encoder is None:
        waiting = len(parts["text_encoder"])
    else:
        shapes = {key: tuple(tensor.shape) for key, tensor in text_encoder.state_dict().items()}
        text_changes = places.find(parts["text_encoder"], keys.text_keys(shapes), shapes)

    kind = made_for((pair.name, pair.down.flatten(1).shape[1]) for pair in parts["unet"] if pair.down.ndim > 1)
    seems = f". It seems to be {kind}" if kind else ""
    if places.wrong:
        raise CheckpointError(f"{len(places.wrong)} pairs do not fit this model: {first_ten(places.wrong)}{seems}")
    if not changes and not text_changes and not waiting:
        raise CheckpointError(
            f"none of its {len(lora.all_pairs())} pairs has a place in this text-to-video model: "
            f"{first_ten(places.left)}{seems}"
        )
    temporal = _temporal(unet, changes)
    return Placement(lora, changes, text_changes, (*places.left, *lora.others), temporal, waiting)


class _Places:
    """Looks for pairs' weights, and keeps what it could not find or fit."""

    def __init__(self, bare: Mapping[str, str]):
        self._bare = bare
        self.left: list[str] = []
        self.wrong: list[str] = []

    def find(
        self, pairs: list[LoraPair], by_name: keys.Keys, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, LowRank]:
        changes: dict[str, LowRank] = {}
        taken: dict[str, str] = {}
        for pair in pairs:
            candidates = by_name.get(self._bare[pair.key], [])
            if not candidates:
                self.left.append(pair.key)
                continue
            key, change = self._fit(pair, candidates, shapes)
            if change is None:
                continue
            if key in changes:
                raise CheckpointError(f"two keys for one weight: {taken[key]} and {pair.key}")
            changes[key], taken[key] = change, pair.key
        return changes

    def _fit(
        self, pair: LoraPair, candidates: list[str], shapes: Mapping[str, tuple[int, ...]]
    ) -> tuple[str, LowRank | None]:
        """The first of the candidates that it fits; a CLIP may hold two encoders whose modules have the same names."""
        reasons = []
        for key in candidates:
            try:
                return key, low_rank(pair, shapes[key])
            except CheckpointError as error:
                reasons.append(str(error))
        self.wrong.append(reasons[0])
        return candidates[0], None


def _temporal(unet: UNet3D, changes: Mapping[str, LowRank]) -> int:
    inside = tuple(
        f"{name}." for name, module in unet.named_modules() if isinstance(module, (TemporalConv, TemporalTransformer))
    )
    return sum(key.startswith(inside) for key in changes)

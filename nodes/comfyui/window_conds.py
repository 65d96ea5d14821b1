"""The part of a clip's conditioning that belongs to some of its frames, as ComfyUI's `calc_cond_batch` is given it.

What has fewer rows than the clip has frames is repeated by ComfyUI until it fits; here row i is that of frame i of the
whole clip, so that a window gets what its frames would get without windows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.conds
import torch
from torch import Tensor

from ...t2v_core.diffusion import TemporalStrength

PER_FRAME = ("cond_hint_original", "extra_concat_orig")
"""What ComfyUI's ControlNets were given, with a row for each frame or for all."""
DERIVED = ("cond_hint", "extra_concat", "control_input")
"""What they make of it at the first call and keep."""


@dataclass(frozen=True)
class Rows:
    """Which frames a call is for: windows, each of `length` frames, one after the other, of a clip of `clip` frames."""

    frames: list[int]
    clip: int
    length: int

    def of(self, tensor: Tensor) -> Tensor:
        """These frames' rows of what has a row for each frame; repeated like ComfyUI does where it has fewer."""
        if tensor.ndim == 0 or len(tensor) == 1:
            return tensor
        return tensor[torch.tensor(self.frames, device=tensor.device) % len(tensor)]

    def of_temporal(self, modifier: TemporalStrength) -> TemporalStrength:
        """The temporal strength of these frames. Raises T2VError where it was made for another number of them."""
        modifier.check(self.clip)
        return modifier.of(self.frames)


@contextmanager
def told_controls(conds: list[list[dict] | None], rows: Rows) -> Iterator[list[list[dict] | None]]:
    """The conds of these frames. What had to be told to an object of another pack is untold at the end."""
    controls = _Controls(rows)
    try:
        yield [None if cond is None else [_of_entry(entry, rows, controls) for entry in cond] for cond in conds]
    finally:
        controls.restore()


def _of_entry(entry: dict, rows: Rows, controls: _Controls) -> dict:
    part = dict(entry)
    for name, value in entry.items():
        if isinstance(value, Tensor) and value.ndim and (name == "mask" or len(value) == rows.clip):
            part[name] = rows.of(value)
    part["model_conds"] = {name: _of_cond(name, cond, rows) for name, cond in entry["model_conds"].items()}
    if entry.get("control") is not None:
        part["control"] = controls.of(entry["control"])
    return part


def _of_cond(name: str, cond: Any, rows: Rows) -> Any:
    """Of a `comfy.conds.CONDRegular`; constants are for the whole clip whatever they are."""
    if name == "num_video_frames":
        return cond._copy_with(rows.length)
    value = cond.cond
    if isinstance(cond, comfy.conds.CONDConstant):
        whole = isinstance(value, Tensor) and value.ndim and len(value) == rows.clip
        return cond._copy_with(rows.of(value)) if whole else cond
    if isinstance(value, list):
        return cond._copy_with([rows.of(each) for each in value])
    return cond._copy_with(rows.of(value)) if isinstance(value, Tensor) else cond


class _Controls:
    """ControlNets for a call: one for each that there is, for ComfyUI compares them to see which texts go together."""

    def __init__(self, rows: Rows):
        self.rows = rows
        self._made: dict[int, Any] = {}
        self._before: list[tuple[Any, str, Any]] = []

    def of(self, control: Any) -> Any:
        """What to call in its place: a copy with these frames' hints, for its state would be another window's; or
        itself, where it takes its frames as ControlNets made for AnimateDiff-Evolved do."""
        if id(control) not in self._made:
            previous = getattr(control, "previous_controlnet", None)
            previous = None if previous is None else self.of(previous)
            if hasattr(control, "sub_idxs"):
                self._tell(control, previous)
                self._made[id(control)] = control
            else:
                self._made[id(control)] = self._copied(control, previous)
        return self._made[id(control)]

    def _copied(self, control: Any, previous: Any) -> Any:
        part = copy.copy(control)
        part.previous_controlnet = previous
        for name in PER_FRAME:
            value = getattr(part, name, None)
            if isinstance(value, Tensor):
                setattr(part, name, self.rows.of(value))
            elif isinstance(value, list):
                setattr(part, name, [self.rows.of(each) for each in value])
        for name in DERIVED:
            if hasattr(part, name):
                setattr(part, name, None)
        return part

    def _tell(self, control: Any, previous: Any) -> None:
        told = {"sub_idxs": self.rows.frames, "full_latent_length": self.rows.clip, "context_length": self.rows.length}
        if previous is not None:
            told["previous_controlnet"] = previous
        for name, value in told.items():
            self._before.append((control, name, getattr(control, name, None)))
            setattr(control, name, value)

    def restore(self) -> None:
        """Puts back what was told."""
        for control, name, value in reversed(self._before):
            setattr(control, name, value)

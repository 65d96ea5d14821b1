"""Frames and latents to another size, each frame by itself, by ComfyUI's methods under ComfyUI's names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import T2VError

# Two vectors this close to one direction, or to opposite ones, have no great circle worth following. ComfyUI's figure.
_PARALLEL = 1e-5
_NOT_ZERO = torch.finfo(torch.float32).tiny


def resize(x: Tensor, height: int, width: int, method: str) -> Tensor:
    """A frame batch `[f, c, h, w]` as `[f, c, height, width]`, in its dtype.

    method: a name in `METHODS`. Both sizes cover the same picture (align_corners=False in PyTorch's words). Only `area`
    averages what it makes smaller; the others leave pixels out. Raises T2VError for another name or shape.
    """
    if method not in METHODS:
        raise T2VError(f"resize: method is {method!r}, not one of {', '.join(METHODS)}")
    if x.ndim != 4 or x.numel() == 0 or height < 1 or width < 1:
        raise T2VError(f"resize: {list(x.shape)} to {height} x {width}: frames are [f, c, h, w], and no side is 0")
    return METHODS[method](x, (height, width))


def _bislerp(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, but along the great circle between two vectors of channels instead of the chord, which would shorten
    them and so take contrast out of latents. Along the width first, as ComfyUI does; it is not the same the other way.
    """
    height, width = size
    return _slerp_along(_slerp_along(x.float(), width, 3), height, 2).to(x.dtype)


def _slerp_along(x: Tensor, length: int, axis: int) -> Tensor:
    """One axis of `[f, c, h, w]` resized, each new place between its two neighbours."""
    old = x.shape[axis]
    # The centres of the new pixels in the old one's coordinates (align_corners=False), held inside.
    places = ((torch.arange(length, dtype=torch.float64) + 0.5) * (old / length) - 0.5).clamp(0, old - 1)
    first = places.floor().long()
    share = (places - first).to(x.device, x.dtype).unflatten(0, (1, length) if axis == 3 else (length, 1))
    first = first.to(x.device)
    return _slerp(x.index_select(axis, first), x.index_select(axis, (first + 1).clamp(max=old - 1)), share)


def _slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """From a (share 0) to b (share 1) by the angle between their channels, the length of the vectors linearly."""
    length_a, length_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    towards_a, towards_b = a / length_a.clamp(min=_NOT_ZERO), b / length_b.clamp(min=_NOT_ZERO)
    cosine = (towards_a * towards_b).sum(1, keepdim=True)
    angle = torch.acos(cosine.clamp(-1, 1))
    turned = torch.sin((1 - share) * angle) * towards_a + torch.sin(share * angle) * towards_b
    turned = turned / torch.sin(angle) * (length_a * (1 - share) + length_b * share)
    turned = torch.where(cosine > 1 - _PARALLEL, a, turned)
    return torch.where(cosine < _PARALLEL - 1, a * (1 - share) + b * share, turned)


def _by_torch(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    return F.interpolate(x, size, mode=mode)


METHODS: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    **{mode: partial(_by_torch, mode=mode) for mode in ("nearest-exact", "bilinear", "area", "bicubic")},
    "bislerp": _bislerp,
}
# Of colours: their direction means nothing, so no bislerp.
IMAGE_METHODS = tuple(name for name in METHODS if name != "bislerp")

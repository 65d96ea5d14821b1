"""Attention over time within windows of a clip that is longer than a model was made for, and what the windows give made
one: FreeNoise's place (Qiu et al. 2310.15169, sec. 3.2).

Only the scores are windowed. All else of the network sees the whole clip: group norms take their statistics over it,
convolutions over time have the neighbours that a frame has, and feed-forwards, norms and projections run once a frame.
So the edge of a window is nowhere an edge of what a layer sees, and the work is about that of the clip without windows.
The price is memory: all frames are there at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import T2VError
from .pieces import MOST_SEQUENCES

if TYPE_CHECKING:
    from .transformers import Attention, AttentionFunction


@dataclass(frozen=True, eq=False)
class TemporalWindows:
    """Windows of a clip, as the layers of a `UNet3D` need them.

    index: `[windows, length]`, the frames of each.
    places: `[frames, most]`, for each frame the places that it has in `index` end to end; where a frame has fewer than
        others, its first again.
    weights: `[frames, most]` fp32, what its result at each of these places counts: 0 for the repeated ones.
    looped: whether the clip's last frame is followed by its first.
    """

    index: Tensor
    places: Tensor
    weights: Tensor
    looped: bool

    @classmethod
    def of(cls, index: Tensor, weights: Tensor, looped: bool = False) -> TemporalWindows:
        """index: see above; weights: `[windows, length]`, those of each frame sum to 1. Both on the CPU.

        Raises T2VError where a frame is in no window.
        """
        weights, flat = weights.flatten().to(torch.float32), index.flatten()
        counts = torch.bincount(flat)
        if bool((counts == 0).any()):
            raise T2VError(f"temporal windows: frame {int(counts.argmin())} is in none of them")
        sorted_places = flat.argsort(stable=True)
        first = counts.cumsum(0) - counts
        nth = torch.arange(int(counts.max())).expand(len(counts), -1)
        there = nth < counts[:, None]
        places = sorted_places[first[:, None] + torch.where(there, nth, 0)]
        return cls(index, places, weights[places] * there, looped)

    @property
    def frames(self) -> int:
        """How many frames the clip has."""
        return len(self.places)

    @property
    def widest(self) -> float:
        """Numbers held at once for a feature of a frame, by an attention in windows and what is around it: the tokens
        and their norm; queries, keys, values, also by window; what the windows give; and their sum."""
        return 8 + 5 * self.index.numel() / self.frames

    @property
    def positions(self) -> Tensor:
        """Where in the clip each frame is told to be, fp32 `[frames]`, for a model that was trained with positions.

        None is outside of those of one window, which the model knows, and none jumps: 0 to length - 1 evenly over the
        whole clip (position interpolation, Chen et al. 2306.15595); on a loop, whose ends meet, there and back in
        about as many frames as that takes one by one.
        """
        frames, last = self.frames, self.index.shape[1] - 1
        frame = torch.arange(frames, dtype=torch.float32, device=self.index.device)
        if not self.looped:
            return frame * (last / max(1, frames - 1))
        trips = max(1, round(frames / max(2, 2 * last)))
        return (1 - (1 - 2 * (frame * trips / frames).frac()).abs()) * last

    def to(self, device: torch.device) -> TemporalWindows:
        """The same, for a network there."""
        index, places, weights = (each.to(device) for each in (self.index, self.places, self.weights))
        return TemporalWindows(index, places, weights, self.looped)

    def attend(self, kernel: AttentionFunction, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """`kernel` within each window, and for each frame the weighted mean of what its windows give.

        q, k, v: `[n, frames, heads * d]` -> like `q`. The sum is in fp32, and in the same order on every device.
        """
        at_once = max(1, MOST_SEQUENCES // (len(q) * heads))
        given = []
        for index in self.index.split(at_once):
            windows = (x[:, index].flatten(0, 1) for x in (q, k, v))  # (n windows) length c
            given.append(kernel(*windows, heads).reshape(len(q), index.numel(), -1))
        out = given[0] if len(given) == 1 else torch.cat(given, dim=1)
        del given
        places, weights = self.places.unbind(1), self.weights[..., None].unbind(1)
        fused = out[:, places[0]] * weights[0]
        for place, weight in zip(places[1:], weights[1:], strict=True):
            fused.addcmul_(out[:, place].to(fused.dtype), weight)
        return fused.to(q.dtype)


class WindowedAttention:
    """An `Attention` over time that reaches no further than windows; it is used like one, by hooks too."""

    def __init__(self, attention: Attention, windows: TemporalWindows):
        self.attention, self.windows = attention, windows
        self.to_q, self.to_k, self.to_v, self.to_out = attention.to_q, attention.to_k, attention.to_v, attention.to_out
        self.heads, self.head_dim = attention.heads, attention.head_dim

    def __call__(self, x: Tensor, context: Tensor, value: Tensor | None = None) -> Tensor:
        return self.attention(x, context, value, self.over(self.attention.attention))

    def over(self, kernel: AttentionFunction) -> AttentionFunction:
        """What computes attention for queries, keys and values of the whole clip, by a kernel for those of a window."""
        return partial(self.windows.attend, kernel)


def closed(convolve: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A 3-tap convolution over the frames of `x` `[b, c, f, places]` as if its ends met; f >= 2.

    convolve: pads with zeros at both ends. Only the first frame and the last see the padding, so they are made again,
    each between its two neighbours.
    """
    out = convolve(x)
    ends = convolve(torch.cat([x[:, :, -2:], x[:, :, :2]], dim=2))
    out[:, :, -1], out[:, :, 0] = ends[:, :, 1], ends[:, :, 2]
    return out

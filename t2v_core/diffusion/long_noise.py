"""Noise for clips longer than a model was trained on: its frames are not independent of each other.

Each frame by itself is noise of unit variance, so that any sampler may start from it. All is drawn on the CPU from one
seed, and a longer clip of the same seed starts with the same frames, wherever `prepare_noise`'s does.

Of frames i and j:
  freenoise    equal, where both are copies of one frame of the first window, else independent
  repeat       equal, where i - j is a multiple of the window, else independent
  mixed        correlation a^2 / (1 + a^2), however far apart they are
  progressive  correlation (a / sqrt(1 + a^2))^|i - j|
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import T2VError
from .noise import frame_numbers, generator_for, prepare_noise

SHARED = 0x9E3779B97F4A7C15
"""Offset of the seed for what frames share. Not a small number, for seeds beside each other are drawn from too."""
MAX_ALPHA = 100.0
"""There all but a ten-thousandth of the variance is shared."""


@dataclass(frozen=True)
class LongNoise:
    """A kind of noise and its numbers.

    kind: one of `KINDS`.
    window: frames of freenoise and repeat that are drawn; those behind them are copies. 1 or more.
    stride: frames of freenoise that are shuffled together, 1 to window.
    alpha: how much the frames of mixed and progressive have in common; 0 nothing, to MAX_ALPHA.

    Raises T2VError for what is out of range.
    """

    kind: str = "freenoise"
    window: int = 16
    stride: int = 4
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise T2VError(f"kind: there is no long noise {self.kind!r}; there are {', '.join(KINDS)}")
        if self.window < 1:
            raise T2VError(f"window is {self.window}; it is the number of frames that are drawn, 1 or more")
        if not 1 <= self.stride <= self.window:
            raise T2VError(
                f"stride is {self.stride}; it is the number of frames that are shuffled together, from 1 to the "
                f"window's {self.window}"
            )
        if not 0.0 <= self.alpha <= MAX_ALPHA:
            raise T2VError(f"alpha is {self.alpha}; it goes from 0 to {MAX_ALPHA:g}")

    def draw(self, latents_shape: Sequence[int], seed: int, batch_index: Sequence[int] | None = None) -> Tensor:
        """Noise fp32 `[f, c, h, w]`; arguments and errors are those of `prepare_noise`, and row i is what frame
        `batch_index[i]` of a long clip would get."""
        frame_numbers(latents_shape, batch_index)  # raises
        return KINDS[self.kind](self, tuple(latents_shape), seed, batch_index)


def freenoise_order(frames: int, window: int, stride: int, generator: torch.Generator) -> list[int]:
    """Which frame of the first window each frame is a copy of.

    The noise rescheduling of FreeNoise (Qiu et al., arXiv 2310.15169), in diffusers "shuffle_context": behind the
    window, frames i .. i + stride - 1 are frames i - window .. i - window + stride - 1 in another order. The order is
    drawn for a whole group even if the clip ends in it, so that a longer clip goes on where a shorter one ends.
    """
    order = list(range(min(frames, window)))
    while len(order) < frames:
        group = order[len(order) - window :][:stride]
        order += [group[place] for place in torch.randperm(len(group), generator=generator).tolist()]
    return order[:frames]


def _freenoise(prior: LongNoise, shape: tuple[int, ...], seed: int, batch_index: Sequence[int] | None) -> Tensor:
    numbers = frame_numbers(shape, batch_index)
    order = freenoise_order(max(numbers) + 1, prior.window, prior.stride, generator_for(seed, SHARED))
    return _copies(order, numbers, shape, seed, batch_index)


def _repeat(prior: LongNoise, shape: tuple[int, ...], seed: int, batch_index: Sequence[int] | None) -> Tensor:
    """diffusers' "repeat_context" as it is documented: the first window over and over."""
    numbers = frame_numbers(shape, batch_index)
    order = [frame % prior.window for frame in range(max(numbers) + 1)]
    return _copies(order, numbers, shape, seed, batch_index)


def _copies(
    order: list[int], numbers: list[int], shape: tuple[int, ...], seed: int, batch_index: Sequence[int] | None
) -> Tensor:
    """The frames `order[number]` of plain noise."""
    if batch_index is not None:
        return prepare_noise(shape, seed, [order[number] for number in numbers])
    drawn = prepare_noise((max(order) + 1, *shape[1:]), seed)
    return drawn if len(drawn) == len(order) else drawn[order]


def _mixed(prior: LongNoise, shape: tuple[int, ...], seed: int, batch_index: Sequence[int] | None) -> Tensor:
    """Mixed noise of PYoCo (Ge et al., arXiv 2305.10474): every frame is the sum of one noise that all share, of
    variance a^2 / (1 + a^2), and of its own, of variance 1 / (1 + a^2)."""
    common, own = _weights(prior.alpha)
    shared = torch.randn(shape[1:], generator=generator_for(seed, SHARED))
    return prepare_noise(shape, seed, batch_index).mul_(own).add_(shared, alpha=common)


def _progressive(prior: LongNoise, shape: tuple[int, ...], seed: int, batch_index: Sequence[int] | None) -> Tensor:
    """Progressive noise of PYoCo: every frame is a / sqrt(1 + a^2) times the one before it, and its own noise of
    variance 1 / (1 + a^2). With batch_index all frames up to its largest are drawn."""
    common, own = _weights(prior.alpha)
    numbers = frame_numbers(shape, batch_index)
    whole = range(max(numbers) + 1)
    noise = prepare_noise((len(whole), *shape[1:]), seed, None if batch_index is None else whole)
    for before, frame in pairwise(noise):
        frame.mul_(own).add_(before, alpha=common)
    return noise if batch_index is None else noise[numbers]


def _weights(alpha: float) -> tuple[float, float]:
    """What is shared and what is a frame's own, their squares adding up to 1."""
    return alpha / math.sqrt(1 + alpha**2), 1 / math.sqrt(1 + alpha**2)


Draw = Callable[[LongNoise, tuple[int, ...], int, "Sequence[int] | None"], Tensor]
KINDS: dict[str, Draw] = {
    "freenoise": _freenoise,
    "repeat": _repeat,
    "mixed": _mixed,
    "progressive": _progressive,
}

"""Random numbers: the noise a clip starts from, and the noise a sampler adds. Always drawn on the CPU, so that a seed
gives the same clip on every device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import T2VError
from .samplers import NoiseKind, NoiseSource

SEED_COUNT = 2**64


def prepare_noise(latents_shape: Sequence[int], seed: int, batch_index: Sequence[int] | None = None) -> Tensor:
    """Unit-variance noise fp32 `[f, c, h, w]`, equal to ComfyUI's for the same seed bit for bit.

    A longer clip of the same seed starts with the same frames wherever c * h * w is a multiple of 16.

    latents_shape: `[f, c, h, w]`, each at least 1.
    seed: 0 .. 2^64 - 1.
    batch_index: f frame numbers, each 0 or above: row i is what frame `batch_index[i]` of a long clip would get.

    Raises T2VError for a shape, seed or batch_index out of range.
    """
    shape = tuple(latents_shape)
    indices = frame_numbers(shape, batch_index)
    generator = generator_for(seed)
    if batch_index is None:
        return torch.randn(shape, generator=generator)
    wanted, frames = set(indices), {}
    for i in range(max(indices) + 1):
        frame = torch.randn((1, *shape[1:]), generator=generator)  # drawn even if unwanted: the next ones depend on it
        if i in wanted:
            frames[i] = frame
    return torch.cat([frames[i] for i in indices])


def frame_numbers(latents_shape: Sequence[int], batch_index: Sequence[int] | None = None) -> list[int]:
    """Which frame of a long clip each of the latents' frames is: `batch_index`, or 0, 1, 2 ... without one.

    Raises T2VError for a shape or batch_index out of range; see `prepare_noise`.
    """
    shape = tuple(latents_shape)
    if len(shape) != 4 or min(shape) < 1:
        raise T2VError(f"noise is drawn for latents [frames, channels, h, w], each at least 1; got {list(shape)}")
    if batch_index is None:
        return list(range(shape[0]))
    indices = [int(i) for i in batch_index]
    if len(indices) != shape[0]:
        raise T2VError(f"batch_index names {len(indices)} frames and the latents hold {shape[0]}; they must agree")
    if min(indices) < 0:
        raise T2VError(f"batch_index holds {min(indices)}; frame numbers start at 0")
    return indices


def step_noise(kind: NoiseKind, x: Tensor, seed: int) -> NoiseSource | None:
    """The noise that a sampler of this kind adds to x at its steps; None for "none".

    Raises T2VError for a seed out of range, if noise is drawn at all.
    """
    if kind == "none":
        return None
    return BrownianNoise(x, seed) if kind == "brownian" else noise_source(x, seed)


def noise_source(x: Tensor, seed: int) -> NoiseSource:
    """The fresh noise of a sampler's steps: each call draws x's shape, in x's dtype and on x's device.

    Drawn from seed + 1, as ComfyUI has come to do on the CPU: from the seed itself, the first draw would repeat the
    noise the clip started from, and the sampler would add to that noise instead of replacing it.
    """
    generator = generator_for(seed, offset=1)
    return lambda sigma, sigma_next: torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


class BrownianNoise:
    """The increments of one Brownian path W in sigma, divided by the root of their length: unit-variance noise.

    Called with (sigma, sigma_next), sigma the higher: (W(sigma_next) - W(sigma)) / sqrt(sigma - sigma_next), of x's
    shape, in its dtype and on its device. Unlike those of `noise_source`, calls that overlap agree with each other:
    their correlation is the length they share over the root of the product of their lengths. Calls that do not
    overlap are independent.

    The path is drawn where it is asked for: an independent increment beyond the points already drawn, a Brownian
    bridge between them. What lies above the last call's sigma is forgotten, so that no more tensors are held than
    there are points ahead: sigma must not rise from one call to the next.

    x: gives shape, dtype and device. seed: as in `noise_source`.

    Raises T2VError when called for a step that does not descend, or that starts above the one before.
    """

    def __init__(self, x: Tensor, seed: int) -> None:
        self._normal = noise_source(x, seed)
        self._sigma = math.inf
        self._ahead: dict[float, Tensor] = {}  # W(s) - W(self._sigma) at the points s drawn below it

    def __call__(self, sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
        start, end = float(sigma), float(sigma_next)
        if not end < start <= self._sigma:
            raise T2VError(
                f"Brownian noise was asked for sigma {start} to {end} after {self._sigma}; it is drawn downwards"
            )
        self._move_to(start)
        return self._increment(end) / math.sqrt(start - end)

    def _move_to(self, sigma: float) -> None:
        if self._ahead and sigma < self._sigma:
            passed = self._increment(sigma)
            self._ahead = {s: w - passed for s, w in self._ahead.items() if s < sigma}
        self._sigma = sigma

    def _increment(self, sigma: float) -> Tensor:
        """W(sigma) - W(self._sigma)."""
        if sigma not in self._ahead:
            above = min((s for s in self._ahead if s > sigma), default=self._sigma)
            below = max((s for s in self._ahead if s < sigma), default=None)
            mean, variance = self._ahead.get(above, 0.0), above - sigma
            if below is not None:
                share = (above - sigma) / (above - below)
                mean, variance = mean + share * (self._ahead[below] - mean), variance * (1 - share)
            self._ahead[sigma] = mean + math.sqrt(variance) * self._normal(above, sigma)
        return self._ahead[sigma]


def generator_for(seed: int, offset: int = 0) -> torch.Generator:
    """A seed's random numbers; another offset gives others. Raises T2VError for a seed out of range."""
    if not 0 <= seed < SEED_COUNT:
        raise T2VError(f"seed is {seed}; it goes from 0 to {SEED_COUNT - 1}")
    return torch.Generator("cpu").manual_seed((seed + offset) % SEED_COUNT)

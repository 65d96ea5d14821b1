"""Random numbers: the noise a clip starts from, and the noise a sampler adds. Always drawn on the CPU, so that a seed
gives the same clip on every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import T2VError
from .samplers import NoiseSource

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
    if len(shape) != 4 or min(shape) < 1:
        raise T2VError(f"noise is drawn for latents [frames, channels, h, w], each at least 1; got {list(shape)}")
    generator = _generator(seed)
    if batch_index is None:
        return torch.randn(shape, generator=generator)
    indices = [int(i) for i in batch_index]
    if len(indices) != shape[0]:
        raise T2VError(f"batch_index names {len(indices)} frames and the latents hold {shape[0]}; they must agree")
    if min(indices) < 0:
        raise T2VError(f"batch_index holds {min(indices)}; frame numbers start at 0")
    wanted, frames = set(indices), {}
    for i in range(max(indices) + 1):
        frame = torch.randn((1, *shape[1:]), generator=generator)  # drawn even if unwanted: the next ones depend on it
        if i in wanted:
            frames[i] = frame
    return torch.cat([frames[i] for i in indices])


def noise_source(x: Tensor, seed: int) -> NoiseSource:
    """The fresh noise of a sampler's steps: each call draws x's shape, in x's dtype and on x's device.

    Drawn from seed + 1 as ComfyUI does on the CPU: from the seed itself, the first draw would repeat the noise the
    clip started from, and the sampler would add to that noise instead of replacing it.
    """
    generator = _generator(seed, offset=1)
    return lambda sigma, sigma_next: torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


def _generator(seed: int, offset: int = 0) -> torch.Generator:
    if not 0 <= seed < SEED_COUNT:
        raise T2VError(f"seed is {seed}; it goes from 0 to {SEED_COUNT - 1}")
    return torch.Generator("cpu").manual_seed((seed + offset) % SEED_COUNT)

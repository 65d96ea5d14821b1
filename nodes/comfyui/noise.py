"""Noise as ComfyUI draws it, and what can be told from it."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.sample
import torch
from torch import Tensor

LONGEST = 4096  # frames: ComfyUI's longest batch


def draw(like: Tensor, seed: int, batch_index: Sequence[int] | None = None) -> Tensor:
    """A seed's noise of this shape and dtype. The global generator, which ComfyUI uses, is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return comfy.sample.prepare_noise(like, seed, batch_index)


def frame_numbers(noise: Tensor, seed: int) -> Sequence[int] | None:
    """The `batch_index` with which ComfyUI drew `noise` `[f, ...]` from the seed.

    A LATENT that was cut out of a longer one carries these numbers, and its frames get the noise they would get there.
    They do not come with the noise, but can be told from it. None for noise drawn without them, or not from the seed.
    """
    noise = noise.cpu()
    if torch.equal(noise, draw(noise, seed)):
        return None
    generator, numbers = torch.Generator("cpu").manual_seed(seed), [None] * len(noise)
    firsts = noise.flatten(1)[:, 0].tolist()
    for number in range(LONGEST):
        row = torch.randn(noise[:1].shape, dtype=noise.dtype, generator=generator)[0]
        first = float(row.flatten()[0])
        for frame in range(len(noise)) if first in firsts else ():
            if torch.equal(noise[frame], row):
                numbers[frame] = number
        if None not in numbers:
            return numbers
    return None
